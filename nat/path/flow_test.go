package path_test

import (
	"time"

	"warren/nat/path"
	"warren/nat/path/pathtest"
)

// flow has n send a packet to the peer every so often, until stop is called. With echo the peer sends each packet back.
func (n *node) flow(to *node, every time.Duration, echo bool) (stop func()) {
	n.handle(path.Activate{Peer: to.id})
	l := n.link(to.id)
	l.flowing++
	flowing := l.flowing
	var tick func()
	tick = func() {
		if n.link(to.id).flowing != flowing && n.link(to.id) == l {
			return
		}
		if !n.host.Down {
			n.data(to, echo)
		}
		n.sim.after(every, tick)
	}
	tick()
	return func() { n.link(to.id).flowing++; l.flowing++ }
}

// data sends one packet of the tunnel along the published path, and judges what becomes of it.
func (n *node) data(to *node, echo bool) {
	s, l, sent := n.sim, n.link(to.id), n.sim.now
	l.sent = sent
	arrive := func(_ *node, at path.Pair) {
		if to.host.Down {
			return
		}
		l.lostSince = time.Time{}
		l.delivered++
		back := to.link(n.id)
		back.received = s.now
		if at.Remote.IsValid() {
			back.direct = s.now
		}
		if !to.configured(n) {
			to.handle(path.Activate{Peer: n.id}) // a handshake does that
		}
		if echo {
			to.data(n, false)
		}
	}
	switch l.path.Kind {
	case path.Direct:
		n.fly(l.path.Pair, 0, func(got *node, at path.Pair) {
			if got == to {
				arrive(got, at)
			} else {
				n.judge(to, sent)
			}
		}, func(f pathtest.Fate) {
			if f == pathtest.ByFault {
				n.judge(to, sent)
			}
		})
	default:
		if !n.relayUp || !to.relayUp {
			return
		}
		s.after(2*s.relay, func() {
			if to.relayUp {
				arrive(to, path.Pair{})
			}
		})
	}
}

func (n *node) configured(peer *node) bool {
	return n.link(peer.id).path.Kind != path.None || n.link(peer.id).wanted
}

// judge holds the core to its word: while the relay could carry the traffic, a direct path that a fault has broken is in use for at most a
// second from the first packet lost.
func (n *node) judge(to *node, sent time.Time) {
	l := n.link(to.id)
	if l.lostSince.IsZero() || sent.Before(l.lostSince) {
		l.lostSince = sent
	}
	since := l.lostSince
	for _, end := range []*node{n, to} {
		if !end.relayUp || end.host.Down {
			return
		}
		if end.relaySet.After(since) {
			since = end.relaySet
		}
	}
	if lost := sent.Sub(since); lost > time.Second && !n.sim.lenient {
		n.sim.t.Fatalf("%.3f: %s has sent to %s into the void for %s", n.sim.now.Sub(n.sim.begin).Seconds(), n.host.Name, to.host.Name, lost)
	}
}

func (n *node) setRelay(up bool) {
	n.relayUp, n.relaySet = up, n.sim.now
	n.handle(path.SetRelay{Up: up})
}

func (n *node) setDown(down bool) {
	n.host.Down, n.relaySet = down, n.sim.now
	if !down {
		n.start()
	}
}

// kinds are how the two ends reach each other now.
func kinds(a, b *node) [2]path.Kind {
	return [2]path.Kind{a.link(b.id).path.Kind, b.link(a.id).path.Kind}
}

var bothDirect, bothRelay = [2]path.Kind{path.Direct, path.Direct}, [2]path.Kind{path.Relay, path.Relay}

// until runs until cond holds, and tells how long that took; a minute is too long.
func (s *sim) until(what string, cond func() bool) time.Duration {
	s.t.Helper()
	start := s.now
	for !cond() {
		s.run(time.Millisecond)
		if s.now.Sub(start) > time.Minute {
			s.t.Fatalf("%s: not within a minute", what)
		}
	}
	return s.now.Sub(start)
}
