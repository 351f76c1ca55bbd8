package carry

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"warren/tunnel/gateway"
)

// cidr is one that this device carries.
type cidr struct {
	prefix   netip.Prefix
	siblings []ID
	targets  []*target // configured ones first, in order; then learnt ones
	busy     time.Time // until when devices use it
	probed   time.Time
	tried    time.Time // when a host was asked that had not answered yet
	seen     time.Time // when a packet last came from a host in it
	health   gateway.Health
	since    time.Time
	turn     int
}

// target is a host that is probed.
type target struct {
	addr       netip.Addr
	configured bool
	seen       time.Time // of a learnt one: when a packet came from it
	answered   time.Time // zero: never, so that a learnt one's silence says nothing
	silent     time.Time // when the first probe went out of those unanswered since; zero: none is
	unanswered int       // how many those are
	rtt        time.Duration
	sequence   uint16
	sent       [16]time.Time // when the last probes went out, by sequence
}

// setTargets brings the configured hosts into line. With any, none are learnt.
func (x *cidr) setTargets(addrs []netip.Addr) {
	old := x.targets
	x.targets = nil
	for _, a := range addrs {
		a = a.Unmap()
		if len(x.targets) == MaxTargets || !x.prefix.Contains(a) || slices.ContainsFunc(x.targets, func(t *target) bool { return t.addr == a }) {
			continue
		}
		t := &target{addr: a}
		if i := slices.IndexFunc(old, func(t *target) bool { return t.addr == a }); i >= 0 {
			t = old[i]
		}
		t.configured = true
		x.targets = append(x.targets, t)
	}
	if len(x.targets) == 0 {
		x.targets = slices.DeleteFunc(old, func(t *target) bool { return t.configured })
	}
}

func (x *cidr) learns() bool { return len(x.targets) == 0 || !x.targets[0].configured }

// counts tells whether the host's silence says something.
func (t *target) counts() bool { return t.configured || !t.answered.IsZero() }

// longest is the CIDR that a's packets belong to.
func (c *Core) longest(a netip.Addr) *cidr {
	for _, x := range slices.Backward(c.cidrs) {
		if x.prefix.Contains(a) {
			return x
		}
	}
	return nil
}

// seen takes it that a host sends packets, and may be one to ask.
func (c *Core) seen(a netip.Addr) {
	a = a.Unmap()
	x := c.longest(a)
	if x == nil {
		return
	}
	x.seen = c.now
	c.use(x) // by the LAN itself, maybe for devices that use a sibling
	if !x.learns() || !a.IsGlobalUnicast() || x.prefix.Bits() < a.BitLen()-1 && (a == x.prefix.Addr() || !x.prefix.Contains(a.Next())) {
		return // network and broadcast addresses are no hosts
	}
	if i := slices.IndexFunc(x.targets, func(t *target) bool { return t.addr == a }); i >= 0 {
		t := x.targets[i]
		t.seen = c.now
		if !t.counts() && t.unanswered >= triesEach && c.now.Sub(t.silent) > time.Minute {
			t.unanswered, t.silent = 0, time.Time{} // it gets another chance
			c.probeNext = c.now
		}
		return
	}
	if len(x.targets) < maxLearnt {
		x.targets = append(x.targets, &target{addr: a, seen: c.now})
		c.probeNext = c.now
		return
	}
	// Those that do not answer make room for others; those that have done so only where they have been silent for long and were not seen either.
	i := slices.IndexFunc(x.targets, func(t *target) bool {
		mute := !t.counts() && t.unanswered >= triesEach
		lost := t.counts() && !t.silent.IsZero() && c.now.Sub(t.silent) > time.Minute && c.now.Sub(t.seen) > time.Minute && x.health == gateway.Working
		return mute || lost
	})
	if i >= 0 {
		x.targets[i] = &target{addr: a, seen: c.now}
		c.probeNext = c.now
	}
}

// echoed takes the answer to a probe.
func (c *Core) echoed(a netip.Addr, sequence uint16) {
	for _, x := range slices.Backward(c.cidrs) { // a host may be in several
		i := slices.IndexFunc(x.targets, func(t *target) bool { return t.addr == a })
		if i < 0 {
			continue
		}
		t := x.targets[i]
		at := t.sent[sequence%uint16(len(t.sent))]
		if age := t.sequence - sequence; int(age) >= len(t.sent) || at.IsZero() {
			continue // it was never sent, or is too old to say anything
		}
		t.sent[sequence%uint16(len(t.sent))] = time.Time{}
		if rtt := max(c.now.Sub(at), time.Microsecond); t.rtt == 0 {
			t.rtt = rtt
		} else {
			t.rtt += (rtt - t.rtt) / 4
		}
		t.answered, t.silent, t.unanswered = c.now, time.Time{}, 0
		c.become(x, gateway.Working)
	}
}

// forgive takes it that silence was our own, and asks all anew.
func (c *Core) forgive() {
	for _, x := range c.cidrs {
		x.probed, x.tried = time.Time{}, time.Time{}
		for _, t := range x.targets {
			t.silent, t.unanswered = time.Time{}, 0
		}
	}
	c.probeNext = c.now
}

// probe judges all CIDRs and sends the probes that are due.
func (c *Core) probe() {
	c.tokens = min(probesAtOnce, c.tokens+c.now.Sub(c.tokensAt).Seconds()*probesPerSecond)
	c.tokensAt, c.probeNext = c.now, time.Time{}
	// Those that have waited longest go first, since there may not be tokens for all.
	order := slices.SortedStableFunc(slices.Values(c.cidrs), func(a, b *cidr) int { return a.probed.Compare(b.probed) })
	for _, x := range order {
		c.judge(x)
		c.try(x)
		c.round(x)
	}
	if soonest := c.now.Add(probePace); !c.probeNext.IsZero() && c.probeNext.Before(soonest) {
		c.probeNext = soonest
	}
}

// try asks a host that has not answered yet: the one that was asked least, and of those the one that was seen last.
func (c *Core) try(x *cidr) {
	var next *target
	every := tryFirst
	for _, t := range x.targets {
		switch {
		case t.counts():
			every = tryEvery
		case t.unanswered < triesEach && (next == nil || t.unanswered < next.unanswered || t.unanswered == next.unanswered && t.seen.After(next.seen)):
			next = t
		}
	}
	if next == nil {
		return
	}
	if at := x.tried.Add(every); !x.tried.IsZero() && c.now.Before(at) {
		c.probeNext = earliest(c.probeNext, at)
	} else if c.send(next) {
		x.tried = c.now
		c.probeNext = earliest(c.probeNext, c.now.Add(every))
	}
}

// round asks the hosts whose silence would say something.
func (c *Core) round(x *cidr) {
	few, all := x.known()
	if len(all) == 0 {
		return
	}
	every := idleProbe
	switch doubt := c.doubt(x, few); {
	case doubt:
		every, few = quickProbe, all // whoever answers proves the LAN
	case c.now.Before(x.busy):
		every = busyProbe
	case x.health == gateway.Failing:
		every = lostProbe
	}
	if at := x.probed.Add(every); !x.probed.IsZero() && c.now.Before(at) {
		c.probeNext = earliest(c.probeNext, at)
		return
	}
	x.turn++
	switch {
	case x.health == gateway.Failing && len(all) > len(few): // those that have not answered for long may be the first to come back
		few = append(few, all[len(few)+x.turn%(len(all)-len(few))])
	case x.health == gateway.Working && every == idleProbe:
		few = []*target{few[x.turn%len(few)]}
	}
	for _, t := range few {
		if c.send(t) {
			x.probed = c.now
			c.probeNext = earliest(c.probeNext, c.now.Add(every), c.now.Add(suspicion(t)))
		}
	}
}

// doubt tells whether the LAN may be lost: a host that answered until now does not, or none of few does.
func (c *Core) doubt(x *cidr, few []*target) bool {
	if x.health == gateway.Failing {
		return false
	}
	doubt, none := false, true
	for _, t := range few {
		if t.silent.IsZero() {
			none = false
			continue
		}
		suspected, lost := t.silent.Add(suspicion(t)), t.silent.Add(c.patience(x, t))
		c.probeNext = earliest(c.probeNext, after(c.now, suspected), after(c.now, lost))
		none = none && !c.now.Before(suspected)
		doubt = doubt || !c.now.Before(suspected) && c.now.Before(lost)
	}
	return doubt || none
}

// after is t if it is still to come, else zero.
func after(now, t time.Time) time.Time {
	if t.After(now) {
		return t
	}
	return time.Time{}
}

// known are the hosts whose silence would say something, and the first few of them, which are asked as a rule: of those learnt the ones that
// answered last.
func (x *cidr) known() (few, all []*target) {
	for _, t := range x.targets {
		if t.counts() {
			all = append(all, t)
		}
	}
	if x.learns() {
		slices.SortStableFunc(all, func(a, b *target) int { return cmp.Or(b.answered.Compare(a.answered), a.addr.Compare(b.addr)) })
	}
	n := min(len(all), MaxTargets)
	return all[:n:n], all
}

// lone tells whether there is but one host to judge by, which nobody has named.
func (x *cidr) lone() bool {
	_, all := x.known()
	return x.learns() && len(all) == 1
}

// send probes one host, if there is a token left.
func (c *Core) send(t *target) bool {
	if c.tokens < 1 {
		c.probeNext = earliest(c.probeNext, c.now.Add(probePace))
		return false
	}
	c.tokens--
	t.sequence++
	t.sent[t.sequence%uint16(len(t.sent))] = c.now
	t.unanswered++
	if t.silent.IsZero() {
		t.silent = c.now
	}
	c.emit(Probe{t.addr, t.sequence})
	return true
}

// suspicion is how long an answer may take before more probes are sent.
func suspicion(t *target) time.Duration {
	return min(max(quickProbe, t.rtt+t.rtt/2), failAfter)
}

// patience is how long after the first unanswered probe a host counts as silent.
func (c *Core) patience(x *cidr, t *target) time.Duration {
	d := min(max(failAfter, 2*t.rtt+2*quickProbe), slowestFail)
	if x.lone() {
		d = max(d, loneFailAfter)
	}
	return d
}

// judge finds out whether x has lost its LAN, or nothing to judge it by any more. That it works is for answers to show.
func (c *Core) judge(x *cidr) {
	_, all := x.known()
	lost := true
	for _, t := range all {
		silent := !t.silent.IsZero() && !c.now.Before(t.silent.Add(c.patience(x, t))) && t.unanswered >= 2
		lost = lost && silent
	}
	switch {
	case len(all) == 0:
		c.become(x, gateway.Unknown)
	case lost && x.lone() && !x.seen.IsZero() && c.now.Sub(x.seen) < loneFailAfter:
		// Others still send: it may be that host alone, and says nothing if it stays away.
		if t := all[0]; c.now.Sub(t.silent) >= loneForgotten {
			t.answered = time.Time{}
			c.become(x, gateway.Unknown)
		}
		c.probeNext = earliest(c.probeNext, x.seen.Add(loneFailAfter))
	case lost:
		c.become(x, gateway.Failing)
	}
}

// become notes the health of x, and tells of it if it is another.
func (c *Core) become(x *cidr, h gateway.Health) {
	if h != x.health {
		x.health, x.since = h, c.now
		c.emit(Health{x.prefix, h})
		c.tell(x)
	}
}
