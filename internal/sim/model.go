package sim

import (
	"slices"
	"time"

	"warren/internal/sim/natmodel"
)

// The reference: naive, and with knowledge of everything that the devices can only find out.

// prospect says whether two devices can have a direct path.
type prospect uint8

const (
	no    prospect = iota
	maybe          // by chance: birthday probing, or ports that happen to be kept
	yes
)

// prospect judges the world as it is now.
func (w *world) prospect(a, b *device) prospect {
	if a.down || b.down {
		return no
	}
	best := no
	for _, x := range a.ifaces {
		for _, y := range b.ifaces {
			best = max(best, w.prospect4(a, b, x.box, y.box))
			if x.v6.IsValid() && y.v6.IsValid() {
				best = max(best, w.prospect6(x.box, y.box))
			}
		}
	}
	if best == yes && (a.liar || b.liar) {
		return maybe
	}
	return best
}

func (w *world) prospect6(x, y *box) prospect {
	switch {
	case x == y:
		return yes
	case w.cut(x, y) || x.v6 == nil || y.v6 == nil || x.v6.Options().NoUDP || y.v6.Options().NoUDP:
		return no
	}
	return yes // a firewall that lets replies in is open once both have sent
}

// cut reports whether two sites cannot exchange datagrams both ways.
func (w *world) cut(x, y *box) bool {
	return w.cuts[[2]*box{x, y}] || w.cuts[[2]*box{y, x}] || x.off || y.off
}

func (w *world) prospect4(a, b *device, x, y *box) prospect {
	switch {
	case a.noV4 || b.noV4:
		return no
	case x == y:
		return yes
	case w.cut(x, y):
		return no
	}
	p, q := w.chain(x), w.chain(y)
	for _, c := range p {
		if slices.Contains(q, c) { // both are behind it
			if o := c.v4.Options(); o.Mapping != natmodel.NoMapping && !o.Hairpin {
				return no
			}
			break
		}
	}
	p1, q1 := behaviour(p), behaviour(q)
	switch {
	case p1.NoUDP || q1.NoUDP:
		return no
	case p1.hard() && q1.hard():
		if min(p1.Filtering, q1.Filtering) < natmodel.FilterAddressAndPort {
			return maybe
		}
		return no
	case p1.hard() && q1.Filtering == natmodel.FilterAddressAndPort, q1.hard() && p1.Filtering == natmodel.FilterAddressAndPort:
		return maybe
	}
	return yes
}

func (w *world) chain(b *box) (out []*box) {
	for ; b != w.root; b = b.parent {
		out = append(out, b)
	}
	return out
}

// sum is several boxes in a row as one.
type sum struct{ natmodel.Options }

func (s sum) hard() bool { return s.Mapping > natmodel.EndpointIndependent }

func behaviour(chain []*box) (s sum) {
	for _, b := range chain {
		o := b.v4.Options()
		s.Mapping, s.Filtering = max(s.Mapping, o.Mapping), max(s.Filtering, o.Filtering)
		s.NoUDP = s.NoUDP || o.NoUDP || b.off
	}
	return s
}

// change notes that the truth has changed, and whether the devices that it concerns are told.
func (w *world) change(told bool) {
	w.changed, w.calm = w.now, w.now
	if !told {
		w.silent = w.now
	}
}

// lossy reports whether packets get lost by chance, or did a moment ago.
func (w *world) lossy() bool {
	return w.now.Before(w.lossyUntil) || slices.ContainsFunc(w.boxes, func(b *box) bool { return b.link.Loss > 0 })
}

// bothRelayed is since when two devices have both reached a relay; zero if they do not.
func bothRelayed(a, b *device) time.Time {
	if !a.good || !b.good {
		return time.Time{}
	}
	return later(a.goodSince, b.goodSince)
}
