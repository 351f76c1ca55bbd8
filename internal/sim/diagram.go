package sim

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// diagram keeps the last entries, for the drawing of a failure.
type diagram struct {
	ring [diagramMax]entry
	n    int
}

const diagramMax = 240

// entry is a packet that arrived or was lost, or, without what, a note about a device or the world.
type entry struct {
	at, sent time.Time
	from, to *device // to is nil for a packet that was lost
	what     string
	src, dst netip.AddrPort // as they were at the end
	note     string
}

func (d *diagram) add(e entry) {
	d.ring[d.n%diagramMax] = e
	d.n++
}

func (w *world) note(d *device, format string, args ...any) {
	w.diagram.add(entry{at: w.now, from: d, note: fmt.Sprintf(format, args...)})
}

// laneWidth is the distance of two devices in the drawing.
const laneWidth = 8

// drawing is the world and the last packets: time, one lane a device, and what it is.
//
//	         a       b
//	1.234    |---+-->|        check 192.168.1.2:4000 > 203.0.113.2:4001, 10ms on the way
//	1.240    x       |        check ...: unmapped at site 2
//	1.244    *       |        path to b: relay
func (w *world) drawing() string {
	var s strings.Builder
	for _, d := range w.devices {
		fmt.Fprintln(&s, d)
	}
	fmt.Fprintf(&s, "%10s  ", "")
	for _, d := range w.devices {
		fmt.Fprintf(&s, "%-*s", laneWidth, d.name)
	}
	s.WriteByte('\n')
	for i := max(0, w.diagram.n-diagramMax); i < w.diagram.n; i++ {
		e := w.diagram.ring[i%diagramMax]
		fmt.Fprintf(&s, "%10.4f  %s%s\n", e.at.Sub(w.begin).Seconds(), w.lanes(e), e.text())
	}
	return s.String()
}

// lanes draws the arrow of an entry.
func (w *world) lanes(e entry) string {
	line := []byte(strings.Repeat("|"+strings.Repeat(" ", laneWidth-1), len(w.devices)))
	switch {
	case e.from == nil:
		for i := range line {
			line[i] = '='
		}
	case e.what == "":
		line[e.from.index*laneWidth] = '*'
	case e.to == nil:
		line[e.from.index*laneWidth] = 'x'
	default:
		from, to := e.from.index*laneWidth, e.to.index*laneWidth
		for i := min(from, to) + 1; i < max(from, to); i++ {
			line[i] = '-'
		}
		if from < to {
			line[to-1] = '>'
		} else {
			line[to+1] = '<'
		}
	}
	return string(line)
}

func (e entry) text() string {
	if e.what == "" {
		return e.note
	}
	s := e.what
	if e.src.IsValid() || e.dst.IsValid() {
		s += fmt.Sprintf(" %s > %s", e.src, e.dst)
	}
	if e.note != "" {
		s += ", " + e.note
	}
	if e.to != nil {
		s += fmt.Sprintf(", %s on the way", e.at.Sub(e.sent))
	}
	return s
}
