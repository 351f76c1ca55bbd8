// Package why says in words why a peer's packets travel as they do: Explain makes Words of Facts. It is a pure function: all that it says
// follows from the Facts, so that each situation is a line of a table in its tests.
//
//	why.go     Facts, Words, and which part says what
//	stopped.go what stops a better path, and what would help
//	tried.go   what was tried
package why

import (
	"fmt"
	"slices"
	"time"

	"warren/nat/path"
	"warren/nat/traversal"
)

// Facts are what is known of one peer.
type Facts struct {
	Now time.Time
	// Peer is its name.
	Peer string
	// CoordinatorUp says that the coordinator is connected, and Online that it says the peer is.
	CoordinatorUp, Online bool
	// Relays is how many relays the network has.
	Relays int
	traversal.Explanation
}

// Words are what a person reads, each a sentence or a few without a full stop.
type Words struct {
	// Now is the path as it is, since when, and why it became so.
	Now string
	// Tried tells what was tried, one line for each address of the peer.
	Tried []string
	// Stopped tells what stops a better path, the weightiest first; empty if the path is as good as can be.
	Stopped []string
	// Help tells what would help, in the same order.
	Help []string
}

// Explain says it in words.
func Explain(f Facts) Words {
	w := &writer{Facts: f, out: Words{Now: f.now(), Tried: f.tried()}}
	w.stopped()
	return w.out
}

// writer collects what Explain says.
type writer struct {
	Facts
	out Words
}

// because adds a reason, and what would help if anything would.
func (w *writer) because(reason string, help ...string) {
	w.out.Stopped = append(w.out.Stopped, reason)
	for _, h := range help {
		if !slices.Contains(w.out.Help, h) {
			w.out.Help = append(w.out.Help, h)
		}
	}
}

func (f Facts) now() string {
	p := f.Path
	var s string
	switch {
	case p.Kind == path.Direct && p.Local.IsValid():
		s = fmt.Sprintf("direct, from %s to %s", p.Local, p.Remote)
	case p.Kind == path.Direct:
		s = fmt.Sprintf("direct, to %s", p.Remote)
	case p.Kind == path.Relay && p.Relay != "":
		s = fmt.Sprintf("relayed by %s", p.Relay)
	case p.Kind == path.Relay:
		s = "relayed"
	case !f.Configured:
		return "no path, since nothing is sent"
	default:
		s = "no path"
	}
	if !p.Since.IsZero() {
		s += ", for " + span(f.Now.Sub(p.Since))
	}
	if p.RTT > 0 {
		s += fmt.Sprintf(", round trip %.1f ms", float64(p.RTT)/float64(time.Millisecond))
	}
	if f.Reason != "" {
		s += "; " + f.Reason
	}
	return s
}

// span is a length of time as people say it.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return "less than a second"
	case d < 2*time.Minute:
		return plural(int(d/time.Second), "second")
	case d < 2*time.Hour:
		return plural(int(d/time.Minute), "minute")
	case d < 48*time.Hour:
		return plural(int(d/time.Hour), "hour")
	}
	return plural(int(d/(24*time.Hour)), "day")
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
