package choose

import (
	"cmp"
	"slices"
	"time"

	"warren/tunnel/gateway"
)

// Reason is why a CIDR goes to the gateway that it goes to.
type Reason uint8

// The reasons.
const (
	// First: it is the best of which nothing bad is known.
	First Reason = iota
	// Silent: the one before does not answer any more.
	Silent
	// NoLAN: the one before says that it does not reach the network behind it.
	NoLAN
	// Preferred: it has a higher priority, and was well for long enough.
	Preferred
	// Nearer: it is an exit node with a shorter round trip.
	Nearer
	// Together: it is the exit node of the other family.
	Together
	// Wider: no gateway of the CIDR works, and one of a wider CIDR does.
	Wider
	// Own: this device carries it.
	Own
	// Gone: there are no gateways any more, or the one before is none any more.
	Gone
)

// String is for people and logs.
func (r Reason) String() string {
	return [...]string{"it is the best one", "the one before does not answer", "the one before has lost its LAN", "it is preferred and works again",
		"it is nearer", "all of IPv4 leaves there", "no gateway works, a wider route does", "this device carries it", "the one before carries it no more"}[r]
}

// Label is for metrics: one word, which stays.
func (r Reason) Label() string {
	return [...]string{"first", "silent", "no-lan", "preferred", "nearer", "same-exit", "wider", "own", "gone"}[r]
}

// Reasons are all there are.
func Reasons() (out []Reason) {
	for r := First; r <= Gone; r++ {
		out = append(out, r)
	}
	return out
}

// rank is how good a gateway is for a CIDR.
type rank uint8

const (
	isDead    rank = iota // pings go unanswered
	isFailing             // it says that its LAN is lost
	isUnknown             // nothing is known, or not any more
	isWell                // it answers, and says nothing bad
)

func (c *Core) rankOf(l *link) rank {
	switch {
	case l.dead:
		return isDead
	case l.health == gateway.Failing:
		return isFailing
	case l.heardAt.IsZero() || c.now.Sub(l.heardAt) >= staleAfter:
		return isUnknown
	}
	return isWell
}

// pick brings all choices up to date.
func (c *Core) pick() {
	for _, p := range c.peers {
		if !p.heardAt.IsZero() && !p.dead {
			c.at(p.heardAt.Add(staleAfter))
		}
		for _, l := range p.links {
			c.rerank(l)
		}
	}
	for _, x := range c.cidrs { // the wider first
		to, why := c.choose(x)
		x.chosen = to
		id := ID{}
		if to != nil {
			id = to.id
		}
		if x.told && x.toldID == id || !x.told && why == Own {
			continue
		}
		x.told, x.toldID, x.nearer = true, id, nil
		c.unsay(x)
		c.emit(Choose{x.prefix, id, why})
	}
}

// unsay has the gateways of x told anew which one is used.
func (c *Core) unsay(x *cidr) {
	for _, l := range x.links {
		l.confirmed, l.tries = false, 0
	}
}

// rerank notes how good l is, and when it fails.
func (c *Core) rerank(l *link) {
	r := c.rankOf(l)
	if l.failures > 0 && r == isWell && c.now.Sub(l.failed) >= forgiveAfter {
		l.failures = 0
	}
	if r == l.rank {
		return
	}
	if r < isUnknown && l.rank >= isUnknown {
		l.failures, l.failed = l.failures+1, c.now
	}
	l.rank, l.since = r, c.now
}

// holdOff is how long l must have been well to be returned to.
func (l *link) holdOff() time.Duration {
	return min(holdOff<<min(max(l.failures-1, 0), 10), maxHoldOff)
}

// choose gives what serves x now: nil for none.
func (c *Core) choose(x *cidr) (*link, Reason) {
	if x.own {
		return nil, Own
	}
	best := c.best(x)
	fell := x.told && x.toldID == (ID{}) && (x.wider != nil || x.ownWider) // the wider one serves, or did last
	switch served := c.served(x); {
	case best.rank < isUnknown && (served || fell), served && fell && !c.held(best):
		return nil, Wider
	}
	cur := x.chosen
	if l := c.together(x); cur == nil && l != nil {
		best = l
	}
	switch {
	case cur == nil && x.toldID != (ID{}):
		return best, Gone
	case cur == nil:
		return best, First
	case cur.rank < isUnknown:
		if best.rank > cur.rank && c.shown(best, cur) {
			return best, map[rank]Reason{isDead: Silent, isFailing: NoLAN}[cur.rank]
		}
	case best.rank == isWell && best.priority > cur.priority && c.held(best):
		return best, Preferred
	case c.together(x) != nil:
		if l := c.together(x); l != cur {
			return l, Together
		}
	case x.prefix.Bits() == 0 && c.nearest(x, cur, best):
		return best, Nearer
	}
	return cur, First
}

// best is the gateway that would be chosen if there were none yet.
func (c *Core) best(x *cidr) *link {
	return slices.MinFunc(x.links, func(a, b *link) int { return c.compare(x, a, b) })
}

// compare puts the better one first.
func (c *Core) compare(x *cidr, a, b *link) int {
	if a == b {
		return 0
	}
	return cmp.Or(cmp.Compare(b.rank, a.rank), cmp.Compare(b2i(a.absent && a.rank == isUnknown), b2i(b.absent && b.rank == isUnknown)),
		cmp.Compare(b.priority, a.priority), c.compareExits(x, a, b), cmp.Compare(b2i(b == x.chosen), b2i(a == x.chosen)), gateway.Compare(a.id, b.id))
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// compareExits puts the nearer of two exit nodes first.
func (c *Core) compareExits(x *cidr, a, b *link) int {
	if x.prefix.Bits() > 0 {
		return 0
	}
	return cmp.Compare(roundTrip(a), roundTrip(b))
}

// together is the gateway by which IPv4 leaves, if x is all of IPv6 and can leave there too.
func (c *Core) together(x *cidr) *link {
	v4 := c.cidrs[0]
	if x.prefix.Bits() > 0 || x.prefix.Addr().Is4() || v4.prefix.Bits() > 0 || v4.prefix.Addr().Is6() || v4.chosen == nil {
		return nil
	}
	i := slices.IndexFunc(x.links, func(l *link) bool { return l.peer == v4.chosen.peer && l.rank >= isUnknown })
	if i < 0 {
		return nil
	}
	return x.links[i]
}

func roundTrip(l *link) time.Duration {
	if l.rtt == 0 {
		return time.Hour
	}
	return l.rtt
}

// served tells whether the packets for x have somewhere to go without a gateway of its own.
func (c *Core) served(x *cidr) bool {
	if x.ownWider {
		return true
	}
	for w := x.wider; w != nil; w = w.wider {
		if w.chosen != nil {
			return w.chosen.rank == isWell && !slices.ContainsFunc(x.links, func(l *link) bool { return l.id == w.chosen.id })
		}
	}
	return false
}

// held tells whether l was well for long enough to be returned to.
func (c *Core) held(l *link) bool {
	if l.rank != isWell {
		return false
	}
	at := l.since.Add(l.holdOff())
	c.at(at)
	return !c.now.Before(at)
}

// shown tells whether l is known to work now that cur does not.
func (c *Core) shown(l, cur *link) bool {
	if l.rank <= isDead || l.heardAt.IsZero() || c.now.Sub(l.heardAt) >= freshFor {
		return false
	}
	if cur.rank != isDead {
		return true
	}
	// It must answer while the other does not, and for a while: where all were silent, the first to be heard again is none better.
	if l.heardAt.Before(cur.silent) || l.steady.IsZero() {
		return false
	}
	at := l.steady.Add(steadyFor)
	c.at(at)
	return !c.now.Before(at)
}

// nearest tells whether best is an exit node so much nearer than cur, and for so long, that it is worth the connections that end.
func (c *Core) nearest(x *cidr, cur, best *link) bool {
	if best == cur || best.rank != isWell || best.priority < cur.priority || roundTrip(cur)-roundTrip(best) <= nearerBy+roundTrip(cur)/4 {
		x.nearer = nil
		return false
	}
	if x.nearer != best {
		x.nearer, x.nearerSince = best, c.now
	}
	at := x.nearerSince.Add(nearerFor)
	c.at(at)
	return !c.now.Before(at)
}
