package choose

import (
	"cmp"
	"slices"
	"time"

	"warren/tunnel/gateway"
)

const (
	never = time.Duration(1<<63 - 1)
	// replyPace is the shortest time between pings, whatever a gateway tells.
	replyPace = 50 * time.Millisecond
	// atOnce bounds the pings to one gateway in a row, where there is much to say.
	atOnce = 8
	// stillDead is how long a gateway that went silent is looked for as if it were in use.
	stillDead = 10 * time.Second
)

// ping sends what is due.
func (c *Core) ping() {
	for _, p := range c.peers {
		p.need = never
	}
	for _, x := range c.cidrs {
		c.needs(x)
	}
	for _, p := range c.peers {
		every := p.need
		if every == never {
			continue
		}
		due := c.due(p, every)
		if c.now.Before(due) {
			c.at(due)
			continue
		}
		if every == surveyPing && p.pinged.IsZero() {
			c.surveyAt = c.now.Add(surveyPace)
		}
		c.sendPings(p)
		c.at(c.due(p, every))
		if !p.dead {
			c.at(p.silent.Add(c.patience(p)))
			c.at(p.silent.Add(suspicion(p)))
		}
	}
}

// needs notes how often the gateways have to be pinged that matter to x.
func (c *Core) needs(x *cidr) {
	others := c.others[:0]
	well := false
	for _, l := range x.links {
		if l != x.chosen {
			others = append(others, l)
			well = well || l.rank == isWell
		}
	}
	c.others = others
	var wider *link
	for w := x.wider; w != nil && wider == nil; w = w.wider {
		wider = w.chosen
	}
	choice := len(others) > 0 || wider != nil || x.ownWider
	active := !x.own && c.active(x)
	urgent := c.urgent(x, active)
	inUse, standby := never, idlePing
	switch {
	case active && choice:
		inUse, standby = fastPing, warmPing
	case active:
		inUse = warmPing
	case choice:
		inUse = idlePing
	}
	if l := x.chosen; l != nil && inUse != never {
		if l.dead && c.now.Sub(l.died) >= stillDead {
			inUse = max(inUse, warmPing)
		}
		if urgent && l.dead && well {
			inUse = quickPing // its last chance
		}
		l.need = min(l.need, inUse)
	}
	warm := alternatives
	if !x.own && (x.chosen == nil || x.chosen.rank < isUnknown) {
		warm = searched // whoever comes back first is welcome
	}
	if len(others) > warm {
		slices.SortFunc(others, func(a, b *link) int { return c.compare(x, a, b) })
		for _, l := range others[warm:] {
			l.need = min(l.need, surveyPing)
		}
		others = others[:warm]
	}
	if wider != nil {
		others = append(others, wider)
	}
	for _, l := range others {
		every := standby
		if urgent && l.rank >= isUnknown {
			every = quickPing
		}
		l.need = min(l.need, every)
	}
}

// urgent tells whether another gateway may be needed at any moment.
func (c *Core) urgent(x *cidr, active bool) bool {
	l := x.chosen
	return l != nil && !x.own && (l.rank < isUnknown || active && c.suspected(l.peer))
}

// suspicion is how long the answer to a ping may take before more are sent.
func suspicion(p *peer) time.Duration {
	return min(max(quickPing, p.rtt+p.rtt/2+quickPing/4), 3*quickPing)
}

func (c *Core) suspected(p *peer) bool {
	return !p.silent.IsZero() && c.now.Sub(p.silent) >= suspicion(p)
}

// due is when p is to be pinged, if that is needed as often as every.
func (c *Core) due(p *peer, every time.Duration) time.Time {
	if p.pinged.IsZero() {
		if every == surveyPing {
			return c.surveyAt
		}
		return time.Time{}
	}
	switch {
	case p.dead:
	case c.suspected(p):
		every = min(every, quickPing)
	case every == fastPing && c.dataFlows(p):
		every = dataPing
		c.at(p.received.Add(fastPing))
	}
	if p.tries < quickTries && !p.dead && slices.ContainsFunc(p.links, unconfirmed) {
		every = min(every, quickPing)
		if p.tries == 0 {
			every = replyPace
		}
	}
	if p.reply {
		every = replyPace
	}
	return p.pinged.Add(every)
}

// use is the gateway that x uses, as the others are told.
func (c *Core) use(x *cidr) ID {
	switch {
	case x.own:
		return c.cfg.Self
	case x.chosen != nil:
		return x.chosen.id
	}
	return ID{}
}

func unconfirmed(l *link) bool { return !l.confirmed }

// sendPings sends one ping, or more if there is much to say that was not confirmed.
func (c *Core) sendPings(p *peer) {
	links := slices.Clone(p.links)
	active := map[*link]bool{}
	for _, l := range links {
		active[l] = c.active(l.cidr)
	}
	slices.SortStableFunc(links, func(a, b *link) int {
		return cmp.Or(cmp.Compare(b2i(a.confirmed), b2i(b.confirmed)), cmp.Compare(b2i(active[b]), b2i(active[a])), cmp.Compare(a.saidAt, b.saidAt))
	})
	for n := 0; n == 0 || n < atOnce && len(links) > 0 && !links[0].confirmed; n++ {
		some := links[:min(len(links), gateway.MaxPrefixes)]
		links = links[len(some):]
		c.sendPing(p, some, active)
	}
	p.tries++
	p.reply = false
	if p.silent.IsZero() {
		p.silent = c.now
	}
	p.pinged = c.now
}

func (c *Core) sendPing(p *peer, about []*link, active map[*link]bool) {
	c.sequence++
	w := gateway.Ping{Stamp: gateway.Stamp{Start: c.cfg.Start, Sequence: c.sequence}, Heard: p.newest}
	sent := sentPing{sequence: c.sequence, at: c.now}
	for _, l := range about {
		l.saidAt = c.sequence
		use := c.use(l.cidr)
		w.Uses = append(w.Uses, gateway.Use{Prefix: l.cidr.prefix, Gateway: use, Active: active[l]})
		sent.uses = append(sent.uses, said{l, use})
	}
	if p.outstanding = append(p.outstanding, sent); len(p.outstanding) > maxOutstanding {
		p.outstanding = p.outstanding[1:]
	}
	c.emit(Send{p.id, w})
}

// heard takes a report.
func (c *Core) heard(p *peer, r gateway.Report) {
	restarted, ok := p.fresh.Accept(r.Start)
	if !ok {
		return
	}
	if restarted {
		p.newest, p.tries = gateway.Stamp{}, 0
		for _, l := range p.links {
			l.health, l.healthAt, l.confirmed = gateway.Unknown, 0, false
		}
	}
	if r.Sequence > p.newest.Sequence {
		p.newest = r.Stamp
	}
	if r.Answers.Start == c.cfg.Start {
		c.answered(p, r.Answers.Sequence)
	}
	p.reply = p.reply || r.Answers == (gateway.Stamp{})
	for _, t := range r.Health {
		i := slices.IndexFunc(p.links, func(l *link) bool { return l.cidr.prefix == t.Prefix })
		if i < 0 {
			continue // it is for the map to say which CIDRs there are
		}
		if l := p.links[i]; r.Sequence > l.healthAt {
			l.health, l.healthAt = t.Health, r.Sequence
		}
	}
}

// answered takes the answer to the ping of that sequence, if it is one that is waited for.
func (c *Core) answered(p *peer, sequence uint64) {
	i := slices.IndexFunc(p.outstanding, func(s sentPing) bool { return s.sequence == sequence })
	if i < 0 {
		return
	}
	s := p.outstanding[i]
	p.outstanding = slices.Delete(p.outstanding, i, i+1)
	p.measured(c.now.Sub(s.at))
	if p.dead || p.steady.IsZero() || !p.silent.IsZero() && c.now.Sub(p.silent) >= 3*quickPing {
		p.steady = c.now
	}
	p.dead, p.silent, p.heardAt = false, time.Time{}, c.now
	for _, u := range s.uses {
		if !u.link.confirmed && c.use(u.link.cidr) == u.use {
			u.link.confirmed, p.tries = true, 0
		}
	}
}

// measured smooths the round trip as TCP does (RFC 6298), but believes a lower value sooner.
func (p *peer) measured(rtt time.Duration) {
	switch rtt = max(rtt, time.Microsecond); {
	case p.rtt == 0:
		p.rtt = rtt
	case rtt < p.rtt:
		p.rtt += (rtt - p.rtt) / 2
	default:
		p.rtt += (rtt - p.rtt) / 8
	}
}
