package daemon

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"warren/proto/cidr"
	"warren/proto/key"
	"warren/proto/record"
	"warren/tunnel/gateway"
	"warren/tunnel/gateway/carry"
	"warren/tunnel/gateway/choose"
	"warren/tunnel/routeplan"
	"warren/tunnel/router"
	"warren/tunnel/tundev"
)

// How often something is looked at of which nobody tells. It is while it matters only, so that idle devices sleep.
const (
	// lookAtTraffic is while a CIDR is used, and until none has been for trafficEnds: then the packet path tells.
	lookAtTraffic = 250 * time.Millisecond
	trafficEnds   = 2 * tundev.UnusedFor
	// lookAtHosts and lookAtNeighbours are while a LAN is carried: the kernel knows of hosts that never send anything through the tunnel.
	lookAtHosts      = time.Second
	lookAtNeighbours = 10 * time.Second
	// lookAtHost is how often the host is brought into line without a reason: firewalls that are reloaded drop what is in their chains, and say nothing.
	lookAtHost = 30 * time.Second
)

// What is done in time, as in networks.due.
const (
	dueChooser = iota
	dueCarrier
	dueTraffic
	dueHosts
	dueNeighbours
	dueHost
	dues
)

// run does what is due, and takes what others say, until ctx ends.
func (n *networks) run(ctx context.Context) error {
	n.locked(func() { n.due[dueHost] = n.now().Add(lookAtHost) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.wake:
		case <-timer.C:
			n.locked(n.tick)
		case w := <-n.heard:
			n.locked(func() { n.hear(w) })
		case s := <-n.seen:
			n.locked(func() { n.evidence(s) })
		case e := <-n.echoed:
			n.locked(func() { n.answered(e) })
		case <-n.used:
			n.locked(n.noteTraffic)
		}
		if next := n.next(); !next.IsZero() {
			timer.Reset(max(0, next.Sub(n.now())))
		}
	}
}

func (n *networks) locked(do func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	do()
}

// next is when the first thing is due; zero: nothing is.
func (n *networks) next() (at time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range n.due {
		if !d.IsZero() && (at.IsZero() || d.Before(at)) {
			at = d
		}
	}
	return at
}

// tick does what is due, of which each says when it is again. The caller holds mu, as of all that follows.
func (n *networks) tick() {
	now := n.now()
	for i, do := range [dues]func(){
		dueChooser: func() { n.choose(nil) }, dueCarrier: func() { n.carry(nil) },
		dueTraffic: n.noteTraffic, dueHosts: n.noteHosts, dueNeighbours: n.noteNeighbours, dueHost: n.renew,
	} {
		if d := n.due[i]; !d.IsZero() && !now.Before(d) {
			do()
		}
	}
	if n.carriesLAN() { // which other gateways are silent shows in time
		n.noteVRRP()
	}
}

// carriesLAN reports whether there is a network behind this device.
func (n *networks) carriesLAN() bool {
	return slices.ContainsFunc(n.carried, func(r cidrRoute) bool { return r.Kind != cidr.Exit })
}

// lookAgain has something be due every so often while a LAN is carried.
func (n *networks) lookAgain(what int, every time.Duration) {
	n.due[what] = time.Time{}
	if n.carriesLAN() {
		n.due[what] = n.now().Add(every)
	}
}

func (n *networks) hear(w heardWord) {
	if n.known.byDevice[w.from] == nil {
		return
	}
	switch word := w.word.(type) {
	case gateway.Ping:
		n.carry(carry.Heard{Device: w.from, Ping: word})
	case gateway.Report:
		n.choose(choose.Heard{Gateway: w.from, Report: word})
	}
}

// offer tells the cores what there is to use and to carry, and reports whether that has changed what is chosen.
func (n *networks) offer() (changed bool) {
	var set choose.SetRoutes
	for p, routes := range n.offers {
		if n.routing.RefuseRoutes && p.Bits() > 0 {
			continue
		}
		for _, r := range routes {
			set.Routes = append(set.Routes, choose.Route{Prefix: p, Gateway: r.Gateway, Priority: r.Priority})
		}
	}
	var carried carry.SetCarried
	for _, r := range n.carried {
		set.Carried = append(set.Carried, r.Prefix)
		if r.Prefix.Bits() > 0 {
			carried.CIDRs = append(carried.CIDRs, carry.CIDR{Prefix: r.Prefix, Siblings: gateways(n.offers[r.Prefix]), Targets: targets(n.routing.Probe, r)})
		}
	}
	for p := range n.chosen {
		if _, ok := n.offers[p]; !ok || n.routing.RefuseRoutes && p.Bits() > 0 {
			delete(n.chosen, p)
			changed = true
		}
	}
	changed = n.note(choose.SetExit(n.exit()), set) || changed
	n.carry(carried)
	return changed
}

func gateways(routes []record.Route) (out []deviceKey) {
	for _, r := range routes {
		out = append(out, r.Gateway)
	}
	return out
}

// targets are the hosts that were named to be probed and are in r, by the addresses that others see.
func targets(named []netip.Addr, r cidrRoute) (out []netip.Addr) {
	for _, a := range named {
		if r.LAN.Contains(a) {
			out = append(out, translate(a, r.Prefix))
		}
	}
	return out
}

// translate puts an address into a prefix of the same length.
func translate(a netip.Addr, to netip.Prefix) netip.Addr {
	b, p := a.AsSlice(), to.Addr().AsSlice()
	for i := range b {
		keep := min(8, max(0, to.Bits()-8*i))
		mask := byte(0xff) << (8 - keep)
		b[i] = p[i]&mask | b[i]&^mask
	}
	out, _ := netip.AddrFromSlice(b)
	return out
}

// exit is which exit node is wanted.
func (n *networks) exit() choose.SetExit {
	switch n.routing.ExitNode {
	case "":
		return choose.SetExit{}
	case autoExit:
		return choose.SetExit{Auto: true}
	}
	p, _, err := n.known.find(n.routing.ExitNode)
	if err != nil {
		return choose.SetExit{}
	}
	return choose.SetExit{Gateway: p.Key.Raw()}
}

// choose gives an event to the core that chooses, and brings engine and host into line if that changes anything.
func (n *networks) choose(e choose.Event) {
	if n.note(e) {
		n.update(nil, nil)
	}
}

// note is choose for several events, and leaves the engine and the host to the caller: it reports whether a choice has changed.
func (n *networks) note(events ...choose.Event) (changed bool) {
	for _, e := range events {
		actions, next := n.chooser.Handle(n.now(), e)
		n.due[dueChooser] = next
		for _, a := range actions {
			switch a := a.(type) {
			case choose.Send:
				n.say(a.To, a.Ping)
			case choose.Choose:
				changed = true
				n.chose(a)
			}
		}
	}
	n.woken()
	return changed
}

func (n *networks) chose(a choose.Choose) {
	n.choices[a.Why]++
	if a.Gateway == (deviceKey{}) {
		delete(n.chosen, a.Prefix)
	} else {
		n.chosen[a.Prefix] = a.Gateway
	}
	n.log.Info("gateway chosen", "cidr", a.Prefix, "gateway", cmp.Or(n.name(a.Gateway), "none"), "because", a.Why)
}

// carry gives an event to the core that knows the networks behind this device.
func (n *networks) carry(e carry.Event) {
	actions, next := n.carrier.Handle(n.now(), e)
	n.due[dueCarrier] = next
	for _, a := range actions {
		switch a := a.(type) {
		case carry.Send:
			n.say(a.To, a.Report)
		case carry.Probe:
			if err := n.engine.Probe(a.Target, probeID, a.Sequence); err != nil {
				n.log.Debug("probe not sent", "host", a.Target, "err", err)
			}
		case carry.Health:
			n.log.Info("network behind this device", "cidr", a.Prefix, "health", a.Health)
			n.noteVRRP()
		case carry.HandOver:
			n.engine.Uses(n.key(a.Device), a.Prefix, n.key(a.To))
		}
	}
	n.woken()
}

// say sends a word to another agent.
func (n *networks) say(to deviceKey, w gateway.Word) {
	b, err := gateway.Append(nil, w)
	if err == nil {
		err = n.engine.SendWord(n.key(to), b)
	}
	if err != nil {
		n.log.Debug("word not sent", "to", n.name(to), "err", err)
	}
}

func (n *networks) woken() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// key is that of a device of the map; zero if there is none.
func (n *networks) key(id deviceKey) (k key.DevicePublic) {
	if p := n.known.byDevice[id]; p != nil {
		k = p.Key
	}
	return k
}

// name is that of a device of the map; empty if there is none.
func (n *networks) name(id deviceKey) string {
	if p := n.known.byDevice[id]; p != nil {
		return p.Name
	}
	return ""
}

// noteTraffic tells the chooser of packets since the last time.
func (n *networks) noteTraffic() {
	now := n.now()
	for id := range n.given {
		before, after := n.traffic[id], n.engine.Traffic(n.key(id))
		n.traffic[id] = after
		for _, t := range after {
			var b tundev.Traffic
			if i := slices.IndexFunc(before, func(o tundev.Traffic) bool { return o.Prefix == t.Prefix }); i >= 0 {
				b = before[i]
			}
			if t.Sent.After(b.Sent) {
				n.usedAt = now
				n.choose(choose.Sent{Prefix: t.Prefix})
			}
			if t.Received.After(b.Received) {
				n.usedAt = now
				n.choose(choose.Received{Gateway: id})
			}
		}
	}
	n.due[dueTraffic] = time.Time{}
	if now.Sub(n.usedAt) < trafficEnds {
		n.due[dueTraffic] = now.Add(lookAtTraffic)
	}
}

// noteHosts tells the carrier of hosts that were seen since the last time, and keepalived how this gateway does.
func (n *networks) noteHosts() {
	n.lookAgain(dueHosts, lookAtHosts)
	since := n.now().Add(-lookAtHosts)
	for _, r := range n.carried {
		if r.Kind == cidr.Exit {
			continue
		}
		for _, h := range n.engine.Hosts(r.Prefix) {
			if h.Seen.After(since) && !n.isOwn(r, h.Addr) {
				n.carry(carry.SeenHost{Host: h.Addr})
			}
		}
	}
	n.noteVRRP()
}

// noteNeighbours tells the carrier of hosts on the LANs that the kernel knows.
func (n *networks) noteNeighbours() {
	n.lookAgain(dueNeighbours, lookAtNeighbours)
	if !n.carriesLAN() {
		return
	}
	hosts, err := n.reader.Neighbours()
	if err != nil {
		n.log.Debug("no neighbours to probe", "err", err)
		return
	}
	for _, a := range hosts {
		for _, r := range n.carried {
			if r.Kind != cidr.Exit && r.LAN.Contains(a) {
				n.carry(carry.SeenHost{Host: translate(a, r.Prefix)})
			}
		}
	}
}

// isOwn reports whether an address of a CIDR, as others see it, is this host's: it answers whatever has become of the LAN.
func (n *networks) isOwn(r cidrRoute, a netip.Addr) bool {
	return r.Prefix.Contains(a) && slices.ContainsFunc(n.links, func(l routeplan.Link) bool { return slices.Contains(l.Own, translate(a, r.LAN)) })
}

// answered takes the answer of a host, unless that was learnt and is now this one: virtual addresses move from gateway to gateway.
func (n *networks) answered(e echo) {
	for _, r := range n.carried {
		if n.isOwn(r, e.target) && !slices.Contains(targets(n.routing.Probe, r), e.target) {
			return
		}
	}
	n.carry(carry.Echoed{Target: e.target, Sequence: e.sequence})
}

// presence tells whether the coordinator believes that a device is there.
func (n *networks) presence(id deviceKey, present bool) {
	n.locked(func() { n.choose(choose.Presence{Gateway: id, Present: present}) })
}

// networkChanged has everything looked at anew. Woke says that the host slept, and may be elsewhere.
func (n *networks) networkChanged(woke bool) {
	n.locked(func() {
		if woke {
			n.reader.Forget()
		}
		n.look()
		if n.known.m == nil {
			n.apply()
			return
		}
		n.note(choose.NetworkChanged{})
		n.carry(carry.NetworkChanged{})
		n.applied.MTU = 0 // so that the host is looked at, too
		n.update(nil, nil)
		n.seekSites()
	})
}

// seekSites has paths found to the gateways of routes that share addresses with a connected network: this may be their site, which shows once one of
// them is reached here.
func (n *networks) seekSites() {
	for _, c := range n.plan.Conflicts {
		if c.LAN {
			continue
		}
		for _, r := range n.offers[c.Route] {
			n.engine.Want(n.known.byDevice[r.Gateway].NodeKey)
		}
	}
}

// reapply brings the host into line although nothing else has changed: another program may have taken away what is ours.
func (n *networks) reapply() { n.locked(n.renew) }

func (n *networks) renew() {
	n.due[dueHost] = n.now().Add(lookAtHost)
	n.applied = router.State{}
	n.apply()
}

// leave tells those who use this device that it stops, and reports whether there is anything that they could use.
func (n *networks) leave() (carries bool) {
	n.locked(func() {
		carries = !n.closed && len(n.carried) > 0
		n.carry(carry.Leave{})
		n.vrrp.tell(false, n.now())
	})
	return carries
}
