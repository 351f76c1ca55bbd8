package choose

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"warren/tunnel/gateway"
)

// cidr is one that the device may use.
type cidr struct {
	prefix netip.Prefix
	links  []*link // by gateway
	own    bool    // this device carries it
	chosen *link   // nil: none, or own
	// told is whether Choose has told of it, toldID what.
	told   bool
	toldID ID
	// wider is the next wider CIDR, not an exit; ownWider says that this device carries one.
	wider    *cidr
	ownWider bool
	sent     time.Time // when packets for it were last sent
	// nearer is an exit node that is nearer than the chosen one, since nearerSince.
	nearer      *link
	nearerSince time.Time
}

// link is what one gateway is for one CIDR.
type link struct {
	*peer
	cidr     *cidr
	priority uint8
	// health as last told, in a report of the sequence healthAt.
	health   gateway.Health
	healthAt uint64
	// since is when its rank became what it is.
	since    time.Time
	rank     rank
	failures int
	failed   time.Time // the last of failures
	// confirmed says that the gateway knows which one is used.
	confirmed bool
	saidAt    uint64 // sequence of the last ping that spoke of it
}

// peer is a gateway.
type peer struct {
	id     ID
	fresh  gateway.Fresh
	links  []*link // by prefix
	absent bool

	outstanding []sentPing // oldest first
	pinged      time.Time  // the last time; zero: never, or it was in vain
	silent      time.Time  // when the first ping went out of those unanswered since the last answer; zero: none is
	heardAt     time.Time
	steady      time.Time // since when it answers without a break
	received    time.Time // packets of the host's
	dead        bool
	died        time.Time
	rtt         time.Duration
	newest      gateway.Stamp // of its reports
	need        time.Duration // between pings
	tries       int           // pings about an unconfirmed use
	reply       bool          // it has sent news, which a ping confirms
}

type sentPing struct {
	sequence uint64
	at       time.Time
	uses     []said
}

// said is what a ping said of one CIDR.
type said struct {
	link *link
	use  ID
}

// maxOutstanding bounds what is remembered of pings. It covers the longest round trip that is believed.
const maxOutstanding = 24

func (c *Core) cidr(p netip.Prefix) *cidr {
	if i, ok := slices.BinarySearchFunc(c.cidrs, p, func(x *cidr, p netip.Prefix) int { return x.prefix.Compare(p) }); ok {
		return c.cidrs[i]
	}
	return nil
}

func (c *Core) peer(id ID) *peer {
	if i, ok := slices.BinarySearchFunc(c.peers, id, func(p *peer, id ID) int { return gateway.Compare(p.id, id) }); ok {
		return c.peers[i]
	}
	return nil
}

// accepted are the routes that count, in order, each pair of CIDR and gateway once.
func (c *Core) accepted() []Route {
	out := slices.DeleteFunc(slices.Clone(c.routes), func(r Route) bool {
		switch {
		case !r.Prefix.IsValid() || r.Prefix != r.Prefix.Masked() || r.Gateway == (ID{}) || r.Gateway == c.cfg.Self:
			return true
		case r.Prefix.Bits() == 0:
			return !c.exit.Auto && r.Gateway != c.exit.Gateway
		}
		return false
	})
	slices.SortStableFunc(out, func(a, b Route) int {
		return cmp.Or(a.Prefix.Compare(b.Prefix), gateway.Compare(a.Gateway, b.Gateway))
	})
	return slices.CompactFunc(out, func(a, b Route) bool { return a.Prefix == b.Prefix && a.Gateway == b.Gateway })
}

// setRoutes brings CIDRs and gateways into line with the routes, and keeps what is known of those that stay.
func (c *Core) setRoutes() {
	old := c.cidrs
	oldPeer := map[ID]*peer{}
	for _, p := range c.peers {
		oldPeer[p.id], p.links = p, nil
	}
	oldCIDR := map[netip.Prefix]*cidr{}
	for _, x := range old {
		oldCIDR[x.prefix] = x
	}
	c.cidrs, c.peers = nil, nil
	used := map[ID]bool{}
	var last *cidr
	var before []*link
	for _, r := range c.accepted() {
		if last == nil || last.prefix != r.Prefix {
			if last = oldCIDR[r.Prefix]; last == nil {
				last = &cidr{prefix: r.Prefix}
			}
			before, last.links = last.links, nil
			c.cidrs = append(c.cidrs, last)
		}
		p := oldPeer[r.Gateway]
		if p == nil {
			p = &peer{id: r.Gateway}
			oldPeer[r.Gateway] = p
		}
		if !used[p.id] {
			used[p.id] = true
			c.peers = append(c.peers, p)
		}
		l := &link{peer: p, cidr: last, since: c.now, rank: isUnknown}
		if i := slices.IndexFunc(before, func(l *link) bool { return l.id == r.Gateway }); i >= 0 {
			l = before[i]
		}
		if l.priority = r.Priority; l.priority == 0 {
			l.priority = DefaultPriority
		}
		last.links, p.links = append(last.links, l), append(p.links, l)
		if last.chosen == nil && !last.told && c.restored[last.prefix] == l.id {
			last.chosen = l
		}
	}
	if len(c.routes) > 0 {
		c.restored = nil
	}
	slices.SortFunc(c.peers, func(a, b *peer) int { return gateway.Compare(a.id, b.id) })
	for _, x := range old {
		if c.cidr(x.prefix) == nil && x.toldID != (ID{}) {
			c.emit(Choose{x.prefix, ID{}, Gone})
		}
	}
	c.relate()
}

// relate finds out which CIDRs are this device's own, and which is the next wider of each.
func (c *Core) relate() {
	var around []*cidr
	for _, x := range c.cidrs {
		x.own, x.ownWider, x.wider = slices.Contains(c.carried, x.prefix), false, nil
		if x.chosen != nil && !slices.Contains(x.links, x.chosen) {
			x.chosen = nil
		}
		if x.prefix.Bits() == 0 {
			continue
		}
		for len(around) > 0 && !around[len(around)-1].prefix.Overlaps(x.prefix) {
			around = around[:len(around)-1]
		}
		if len(around) > 0 {
			x.wider = around[len(around)-1]
		}
		for _, p := range c.carried {
			x.ownWider = x.ownWider || p.Bits() > 0 && p.Bits() < x.prefix.Bits() && p.Overlaps(x.prefix)
		}
		around = append(around, x)
	}
}

// active tells whether packets for the CIDR are sent, or would be if it worked.
func (c *Core) active(x *cidr) bool {
	for ; x != nil; x = x.wider {
		if !x.sent.IsZero() && c.now.Sub(x.sent) < activeFor {
			return true
		}
		if x.chosen != nil {
			return false
		}
	}
	return false
}

// forgive takes it that silence was our own.
func (c *Core) forgive() {
	for _, p := range c.peers {
		p.silent, p.outstanding, p.pinged, p.steady = time.Time{}, nil, time.Time{}, time.Time{}
	}
}

// age finds out which gateways have been silent for too long.
func (c *Core) age() {
	for _, p := range c.peers {
		if p.dead || p.silent.IsZero() {
			continue
		}
		if at := p.silent.Add(c.patience(p)); c.now.Before(at) {
			c.at(at)
		} else {
			p.dead, p.died = true, c.now
		}
	}
}

// patience is how long after the first unanswered ping a gateway counts as dead.
func (c *Core) patience(p *peer) time.Duration {
	d := min(max(deadAfter, 2*p.rtt+2*quickPing), slowestDead)
	if c.dataFlows(p) {
		d = max(d, oneWayAfter)
	}
	return d
}

func (c *Core) dataFlows(p *peer) bool {
	return !p.received.IsZero() && c.now.Sub(p.received) < fastPing
}
