package path_test

import (
	"net/netip"
	"testing"
	"time"

	"warren/nat/path"
)

// pairOf makes two devices with traffic and a direct path.
func pairOf(t *testing.T) (s *sim, a, b *node, stop func()) {
	t.Helper()
	s = newSim(t, 1)
	a, b = s.add(easy), s.add(easy)
	s.run(time.Second)
	stop = a.flow(b, 50*time.Millisecond, true)
	s.run(5 * time.Second)
	if kinds(a, b) != bothDirect {
		t.Fatalf("paths %v", kinds(a, b))
	}
	return s, a, b, stop
}

func TestSleepAndWake(t *testing.T) {
	s, a, b, stop := pairOf(t)
	stop()
	s.run(time.Minute)
	if kinds(a, b) != bothRelay {
		t.Errorf("asleep: %v, want relay", kinds(a, b))
	}
	checks, signals := a.checks+b.checks, a.link(b.id).signals+b.link(a.id).signals
	s.run(10 * time.Minute)
	if a.checks+b.checks != checks || a.link(b.id).signals+b.link(a.id).signals != signals {
		t.Errorf("%d checks sent while asleep", a.checks+b.checks-checks)
	}
	a.data(b, true)
	if took := s.until("direct again", func() bool { return kinds(a, b) == bothDirect }); took > 700*time.Millisecond {
		t.Errorf("direct %s after the first packet", took)
	}
}

// A session without traffic that the tunnel has given up costs nothing at all.
func TestDeactivate(t *testing.T) {
	s, a, b, stop := pairOf(t)
	stop()
	a.handle(path.Deactivate{Peer: b.id})
	b.handle(path.Deactivate{Peer: a.id})
	s.run(20 * time.Second)
	if a.core.Sessions() != 0 || b.core.Sessions() != 0 {
		t.Errorf("sessions left: %d, %d", a.core.Sessions(), b.core.Sessions())
	}
	if !a.next.IsZero() {
		t.Errorf("a deadline is left: %s", a.next)
	}
}

func TestForget(t *testing.T) {
	s, a, b, stop := pairOf(t)
	stop()
	a.handle(path.Forget{Peer: b.id})
	if a.core.Sessions() != 0 || a.link(b.id).path.Kind != path.None {
		t.Errorf("sessions left: %d, path %v", a.core.Sessions(), a.link(b.id).path)
	}
	s.run(time.Minute)
}

// The relay goes away: the direct path stays, also without traffic, and comes to no harm when the relay is back.
func TestRelayAway(t *testing.T) {
	s, a, b, stop := pairOf(t)
	a.setRelay(false)
	b.setRelay(false)
	s.run(10 * time.Second)
	stop()
	s.run(2 * time.Minute)
	if l := a.link(b.id); kinds(a, b) != bothDirect || l.changes != 2 {
		t.Errorf("paths %v, %v", kinds(a, b), l.history)
	}
	cut(true, true)(a, b)
	s.run(10 * time.Second)
	if want := [2]path.Kind{}; kinds(a, b) != want {
		t.Errorf("paths %v, want none", kinds(a, b))
	}
	a.setRelay(true)
	b.setRelay(true)
	s.net.Cut = nil
	a.flow(b, 50*time.Millisecond, true)
	s.run(5 * time.Second)
	if kinds(a, b) != bothDirect {
		t.Errorf("paths at the end: %v", kinds(a, b))
	}
}

// Without any relay, and after one side restarted and knows no candidates, the other's checks bring the two together.
func TestRestartWithoutRelay(t *testing.T) {
	s, a, b, _ := pairOf(t)
	a.setRelay(false)
	b.setRelay(false)
	b.setDown(true)
	s.run(500 * time.Millisecond)
	b.setDown(false)
	b.handle(path.Activate{Peer: a.id})
	s.run(2 * time.Second)
	if kinds(a, b) != bothDirect {
		t.Errorf("paths %v", kinds(a, b))
	}
}

// One side restarts, its box has forgotten, and its port is another: back within two seconds of its start.
func TestReboot(t *testing.T) {
	s, a, b, _ := pairOf(t)
	b.setDown(true)
	b.host.Box.Forget()
	b.host.At = netip.AddrPortFrom(b.host.At.Addr(), 5999)
	s.run(3 * time.Second)
	if kinds(a, b)[0] == path.Direct {
		t.Error("a still sends directly to a host that is down")
	}
	b.setDown(false)
	if took := s.until("direct again", func() bool { return kinds(a, b) == bothDirect }); took > 2*time.Second {
		t.Errorf("direct %s after the start", took)
	}
	if b.link(a.id).delivered == 0 {
		t.Error("no data came back")
	}
}

// The host moves to another network: the relay carries the traffic at once, and the new path is found.
func TestMove(t *testing.T) {
	s, a, b, _ := pairOf(t)
	move(a, 77)
	if kinds(a, b)[0] != path.Relay {
		t.Errorf("path %v after the move, want relay", kinds(a, b)[0])
	}
	if took := s.until("direct again", func() bool { return kinds(a, b) == bothDirect }); took > time.Second {
		t.Errorf("direct %s after the move", took)
	}
}

// move gives a host another address, and tells the core as the daemon does.
func move(n *node, octet byte) {
	n.host.At = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, octet, 0, 2}), n.host.At.Port())
	n.host.Box.Renumber(netip.AddrFrom4([4]byte{198, 18, octet, n.id[0]}))
	if n.host.Box.Kind() == none {
		n.host.At = netip.AddrPortFrom(n.host.Box.External(), n.host.At.Port())
	}
	n.handle(path.NetworkChanged{})
	n.gather()
}

// A change that does not concern the path in use, such as a new bridge, does not disturb it.
func TestNetworkChangeElsewhere(t *testing.T) {
	s, a, b, _ := pairOf(t)
	a.handle(path.NetworkChanged{})
	s.run(10 * time.Second)
	if l := a.link(b.id); kinds(a, b) != bothDirect || l.changes != 2 {
		t.Errorf("paths %v, %v", kinds(a, b), l.history)
	}
}

func TestPeerGone(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.add(blocked), s.add(easy)
	b.setRelay(false)
	b.host.Down = true
	a.flow(b, 100*time.Millisecond, true)
	s.run(time.Second)
	if k := kinds(a, b)[0]; k != path.None {
		t.Errorf("path %s to a peer that is not at the relay, want none", k)
	}
	signals := a.link(b.id).signals
	s.run(5 * time.Minute)
	if n := a.link(b.id).signals - signals; n < 50 || n > 155 {
		t.Errorf("%d calls in five minutes to a peer that is away and that there is data for", n)
	}
	b.host.Down = false
	b.setRelay(true)
	b.flow(a, 100*time.Millisecond, true)
	s.run(time.Second)
	if kinds(a, b) != bothRelay {
		t.Errorf("paths %v, want relay", kinds(a, b))
	}
}

// Peers that only relays join are tried again, ever more seldom.
func TestRetries(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.add(hard), s.add(hard)
	a.flow(b, 100*time.Millisecond, true)
	s.run(time.Minute)
	checks := a.checks
	s.run(10 * time.Minute)
	if n := a.checks - checks; n < 20 || n > 600 {
		t.Errorf("%d checks in ten minutes", n)
	}
	if rtt := a.link(b.id).path.RTT; rtt != 4*s.relay {
		t.Errorf("round trip by the relay %s, want %s", rtt, 4*s.relay)
	}
}

// An idle second side answers calls as long as the first has data, and then both fall asleep.
func TestNobodyKeepsTheOtherAwake(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.add(hard), s.add(hard)
	stop := a.flow(b, 100*time.Millisecond, false)
	s.run(time.Minute)
	stop()
	s.run(2 * time.Minute)
	signals := a.link(b.id).signals + b.link(a.id).signals
	s.run(10 * time.Minute)
	if n := a.link(b.id).signals + b.link(a.id).signals; n != signals {
		t.Errorf("%d signals while both ought to sleep", n-signals)
	}
}

// A peer that could make nothing of our last signal gets it again at once, be it a call or an answer, and no more often than signals go at all.
func TestAgain(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.add(blocked), s.add(easy)
	a.handle(path.Again{Peer: b.id}) // without a session there is nothing to say
	a.flow(b, 100*time.Millisecond, false)
	s.run(5 * time.Second)
	for _, n := range []*node{a, b} {
		other := a
		if n == a {
			other = b
		}
		before := n.link(other.id).signals
		n.handle(path.Again{Peer: other.id})
		s.run(100 * time.Millisecond)
		if got := n.link(other.id).signals - before; got != 1 {
			t.Errorf("%s: %d signals, want 1", n.host.Name, got)
		}
	}
	before := a.link(b.id).signals
	for range 1000 {
		a.handle(path.Again{Peer: b.id})
		s.run(time.Millisecond)
	}
	if got := a.link(b.id).signals - before; got > 21 {
		t.Errorf("%d signals in a second", got)
	}
	c := newSim(t, 2)
	caller, away := c.add(easy), c.add(easy)
	away.host.Down, away.relayUp = true, false
	caller.flow(away, 100*time.Millisecond, false)
	c.run(10 * time.Second)
	before = caller.link(away.id).signals
	caller.handle(path.Again{Peer: away.id})
	if got := caller.link(away.id).signals - before; got != 1 {
		t.Errorf("while it calls: %d signals, want 1", got)
	}
}
