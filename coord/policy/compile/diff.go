package compile

import (
	"fmt"
	"strings"
	"time"

	"warren/coord/policy"
)

// Change is who gains or loses what.
type Change struct {
	Gain bool
	// Who and What are names as a policy has them, such as group:eng, ann, tag:web or 10.0.0.0/8.
	Who, What []string
	Flows     []policy.Flow
	// Sources and Destinations count devices.
	Sources, Destinations int
}

// String is the change in words.
func (c Change) String() string {
	verb := "loses"
	if c.Gain {
		verb = "gains"
	}
	return fmt.Sprintf("%s (%s) %s %s on %s (%s)", strings.Join(c.Who, ", "), count(c.Sources), verb, flowTexts(c.Flows),
		strings.Join(c.What, ", "), count(c.Destinations))
}

func count(n int) string {
	if n == 1 {
		return "1 device"
	}
	return fmt.Sprintf("%d devices", n)
}

// Difference is what another policy would change.
type Difference struct {
	Changes []Change
	// More counts changes that were left out.
	More int
}

// String gives a line for each change.
func (d Difference) String() string {
	var b strings.Builder
	for _, c := range d.Changes {
		b.WriteString(c.String() + "\n")
	}
	if d.More > 0 {
		fmt.Fprintf(&b, "and %d more changes\n", d.More)
	}
	if len(d.Changes) == 0 {
		b.WriteString("no device gains or loses anything\n")
	}
	return b.String()
}

// Diff tells who of dir would gain and who would lose which ports on what if next took the place of old, both as they hold at now.
func Diff(old, next *policy.Policy, dir Directory, now time.Time) (d Difference) {
	before, after := New(old, dir, now), New(next, dir, now)
	d.add(after, before, true)
	d.add(before, after, false)
	return d
}

// add notes the rules of a that b has not.
func (d *Difference) add(a, b *Compiler, gain bool) {
	has := map[string]bool{}
	for _, r := range b.program.rules {
		if r.active {
			has[r.key] = true
		}
	}
	for _, r := range a.program.rules {
		if !r.active || has[r.key] || r.self {
			continue
		}
		d.Changes = append(d.Changes, Change{
			Gain: gain, Who: []string{texts(r.grant.Src)}, What: []string{texts(r.grant.Dst)}, Flows: r.grant.Flows,
			Sources: a.members[r.src].count(), Destinations: a.members[r.dst].count(),
		})
	}
}
