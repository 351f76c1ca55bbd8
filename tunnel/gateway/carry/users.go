package carry

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"warren/tunnel/gateway"
)

// device is one that has sent pings.
type device struct {
	id    ID
	fresh gateway.Fresh
	heard time.Time
	uses  map[netip.Prefix]*use
	// answers are the tokens for answers, as of tokensAt.
	answers  float64
	tokensAt time.Time
	// news are CIDRs of whose health it is to be told, with the reports that did.
	news  map[netip.Prefix][]uint64
	tries int
	again time.Time // when the news are told again
}

// maxTold bounds what is remembered of the reports of one piece of news, besides the last.
const maxTold = 15

// use is which gateway a device uses for a CIDR.
type use struct {
	gateway ID
	to      ID     // the sibling that its packets are handed to; zero: none
	said    uint64 // sequence of the ping that said so
	at      time.Time
}

// heard takes a ping and answers it.
func (c *Core) heard(id ID, p gateway.Ping) {
	if id == c.cfg.Self || id == (ID{}) {
		return
	}
	d := c.devices[id]
	if d == nil {
		d = c.add(id)
	}
	restarted, ok := d.fresh.Accept(p.Start)
	if !ok {
		return
	}
	d.heard = c.now
	if restarted { // what it says from now on is newer than all before
		for _, u := range d.uses {
			u.said = 0
		}
	}
	r := gateway.Report{Answers: p.Stamp}
	for _, u := range p.Uses {
		x := c.byPrefix[u.Prefix]
		if x == nil {
			continue // we do not carry it, or no more
		}
		c.take(d, x, u, p.Sequence)
		if u.Active {
			c.use(x)
		}
		if len(r.Health) < gateway.MaxPrefixes {
			r.Health = append(r.Health, gateway.Told{Prefix: x.prefix, Health: c.healthOf(x)})
		}
	}
	if p.Heard.Start == c.cfg.Start {
		d.hasHeard(p.Heard.Sequence)
	}
	if d.mayAnswer(c.now) {
		c.report(d, r)
	}
}

// use has the CIDR be in use for a while.
func (c *Core) use(x *cidr) {
	if c.now.Before(x.busy.Add(-busyFor / 2)) {
		return
	}
	if !c.now.Before(x.busy) {
		c.probeNext = c.now
	}
	x.busy = c.now.Add(busyFor)
}

// healthOf is what is told of x.
func (c *Core) healthOf(x *cidr) gateway.Health {
	if c.leaving {
		return gateway.Failing
	}
	return x.health
}

func (c *Core) report(d *device, r gateway.Report) {
	c.sequence++
	r.Stamp = gateway.Stamp{Start: c.cfg.Start, Sequence: c.sequence}
	for _, t := range r.Health {
		if told, ok := d.news[t.Prefix]; ok {
			d.news[t.Prefix] = append(told[max(0, len(told)-maxTold):], c.sequence)
		}
	}
	c.emit(Send{d.id, r})
}

// add makes a device, in place of the one that was silent for longest if there are too many.
func (c *Core) add(id ID) *device {
	if len(c.devices) >= MaxDevices {
		c.drop(c.oldest(nil))
	}
	d := &device{id: id, heard: c.now, uses: map[netip.Prefix]*use{}, answers: answersAtOnce, tokensAt: c.now, news: map[netip.Prefix][]uint64{}}
	c.devices[id] = d
	if c.sweepAt.IsZero() {
		c.sweepAt = c.now.Add(sweepEvery)
	}
	return d
}

// oldest is the device that was silent for longest, but not except.
func (c *Core) oldest(except *device) (first *device) {
	for _, d := range c.devices {
		if d == except {
			continue
		}
		if first == nil || d.heard.Before(first.heard) || d.heard.Equal(first.heard) && gateway.Compare(d.id, first.id) < 0 {
			first = d
		}
	}
	return first
}

// take notes what d uses for x, unless something newer was said.
func (c *Core) take(d *device, x *cidr, said gateway.Use, sequence uint64) {
	u := d.uses[x.prefix]
	if u == nil {
		if c.uses >= maxUses {
			other := c.oldest(d)
			if other == nil {
				return
			}
			c.drop(other)
		}
		u = new(use)
		d.uses[x.prefix] = u
		c.uses++
	}
	if sequence < u.said {
		return
	}
	u.gateway, u.said, u.at = said.Gateway, sequence, c.now
	c.hand(d, x, u)
}

// hand says to whom packets of x for d go, if that has changed.
func (c *Core) hand(d *device, x *cidr, u *use) {
	to := ID{}
	if slices.Contains(x.siblings, u.gateway) {
		to = u.gateway
	}
	if to != u.to {
		u.to = to
		c.emit(HandOver{d.id, x.prefix, to})
	}
}

// unuse takes a use away.
func (c *Core) unuse(d *device, p netip.Prefix) {
	if u := d.uses[p]; u.to != (ID{}) {
		c.emit(HandOver{d.id, p, ID{}})
	}
	delete(d.uses, p)
	delete(d.news, p)
	c.uses--
}

// drop forgets a device.
func (c *Core) drop(d *device) {
	for _, p := range sorted(d.uses) {
		c.unuse(d, p)
	}
	delete(c.devices, d.id)
	delete(c.news, d.id)
}

// sorted are the keys of m, in order.
func sorted[V any](m map[netip.Prefix]V) []netip.Prefix {
	return slices.SortedFunc(maps.Keys(m), netip.Prefix.Compare)
}

// inOrder are devices by ID.
func inOrder(m map[ID]*device) []*device {
	return slices.SortedFunc(maps.Values(m), func(a, b *device) int { return gateway.Compare(a.id, b.id) })
}

// reviseUses brings the uses into line with the CIDRs.
func (c *Core) reviseUses() {
	for _, d := range inOrder(c.devices) {
		for _, p := range sorted(d.uses) {
			if x := c.byPrefix[p]; x != nil {
				c.hand(d, x, d.uses[p])
			} else {
				c.unuse(d, p)
			}
		}
	}
}

// sweep forgets what was not said again for long.
func (c *Core) sweep() {
	for _, d := range inOrder(c.devices) {
		for _, p := range sorted(d.uses) {
			if c.now.Sub(d.uses[p].at) >= expireAfter {
				c.unuse(d, p)
			}
		}
		if c.now.Sub(d.heard) >= expireAfter {
			c.drop(d)
		}
	}
	c.sweepAt = time.Time{}
	if len(c.devices) > 0 {
		c.sweepAt = c.now.Add(sweepEvery)
	}
}

// mayAnswer takes a token for an answer.
func (d *device) mayAnswer(now time.Time) bool {
	d.answers = min(answersAtOnce, d.answers+now.Sub(d.tokensAt).Seconds()*answersPerSecond)
	d.tokensAt = now
	if d.answers < 1 {
		return false
	}
	d.answers--
	return true
}

// tell has every device told of the health of x that has spoken of it.
func (c *Core) tell(x *cidr) {
	for _, d := range c.devices {
		if d.uses[x.prefix] != nil {
			d.news[x.prefix], d.tries, d.again = nil, 0, c.now
			c.news[d.id] = d
			c.newsNext = c.now
		}
	}
}

// hasHeard takes it that d has the report of that sequence.
func (d *device) hasHeard(sequence uint64) {
	for p, told := range d.news {
		if slices.Contains(told, sequence) {
			delete(d.news, p)
		}
	}
}

// spread tells news, and tells them again.
func (c *Core) spread() {
	c.newsNext = time.Time{}
	for _, d := range inOrder(c.news) {
		if len(d.news) == 0 || d.tries >= newsTries {
			delete(c.news, d.id)
			clear(d.news)
			continue
		}
		if !c.now.Before(d.again) {
			c.tellNews(d)
			d.tries++
			d.again = c.now.Add(newsEvery)
		}
		c.newsNext = earliest(c.newsNext, d.again)
	}
}

// tellNews tells all news to one device.
func (c *Core) tellNews(d *device) {
	for part := range slices.Chunk(sorted(d.news), gateway.MaxPrefixes) {
		var r gateway.Report
		for _, p := range part {
			r.Health = append(r.Health, gateway.Told{Prefix: p, Health: c.healthOf(c.byPrefix[p])})
		}
		c.report(d, r)
	}
}

// leave tells all that nothing is reached through this device any more.
func (c *Core) leave() {
	c.leaving = true
	for _, x := range c.cidrs {
		c.tell(x)
	}
}
