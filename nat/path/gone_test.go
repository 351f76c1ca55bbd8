package path_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"warren/nat/path"
)

// away makes two devices, of which the second is not at the relay, and has the first send to it.
func away(t *testing.T) (s *sim, a, b *node, stop func()) {
	t.Helper()
	s = newSim(t, 1)
	a, b = s.add(easy), s.add(easy)
	b.setRelay(false)
	b.host.Down = true
	stop = a.flow(b, 20*time.Millisecond, false)
	s.run(10 * time.Minute)
	if k := kinds(a, b)[0]; k != path.None {
		t.Fatalf("path %s to a peer that is not at the relay, want none", k)
	}
	return s, a, b, stop
}

// A peer that the relay says is gone, for every packet as for every call, is called every two seconds all the same: it may have come back with
// no session that could make anything of our packets.
func TestGoneIsCalled(t *testing.T) {
	now, peer := time.Unix(1_000_000, 0), path.ID{7}
	c := path.New(now, path.Config{Rand: rand.New(rand.NewPCG(1, 2)), Traffic: func(path.ID) path.Traffic { return path.Traffic{Sent: now} }})
	var called time.Time
	var longest time.Duration
	handle := func(e path.Event) {
		actions, _ := c.Handle(now, e)
		for _, a := range actions {
			if a, ok := a.(path.SendSignal); ok && a.Call {
				if !called.IsZero() {
					longest = max(longest, now.Sub(called))
				}
				called = now
			}
		}
	}
	handle(path.SetRelay{Up: true})
	handle(path.Activate{Peer: peer})
	for end := now.Add(10 * time.Minute); now.Before(end); now = now.Add(50 * time.Millisecond) {
		handle(path.PeerGone{Peer: peer})
	}
	if longest = max(longest, now.Sub(called)); longest > 3*time.Second {
		t.Errorf("no call for %s", longest)
	}
}

// Without data for it, such a peer is left in peace; the first packet for it is sign enough.
func TestGoneWithoutData(t *testing.T) {
	s, a, b, stop := away(t)
	stop()
	s.run(10 * time.Second)
	signals := a.link(b.id).signals
	s.run(10 * time.Minute)
	if n := a.link(b.id).signals - signals; n > 2 {
		t.Errorf("%d calls in ten minutes without data", n)
	}
	b.host.Down, b.relayUp = false, true
	b.start()
	s.run(time.Second)
	a.data(b, false)
	if took := s.until("direct", func() bool { return kinds(a, b) == bothDirect }); took > 1500*time.Millisecond {
		t.Errorf("direct %s after the first packet", took)
	}
}

// A check of the peer says that it is awake, so that it may be at the relay again.
func TestGoneShowsItself(t *testing.T) {
	s, a, b, stop := away(t)
	stop()
	s.run(20 * time.Second)
	before := a.link(b.id).signals
	for range 100 {
		a.handle(path.Request{Peer: b.id, Pair: path.Pair{Local: a.host.At.Addr(), Remote: b.host.At}})
		s.run(100 * time.Millisecond)
	}
	if n := a.link(b.id).signals - before; n < 4 || n > 6 {
		t.Errorf("%d calls in 10 s of checks, want one in 2 s", n)
	}
}

// However many peers are away and have data for them, the calls to them together are bounded, and each gets its own.
func TestGoneTogether(t *testing.T) {
	const peers, seconds = 1000, 300
	now := time.Unix(1_000_000, 0)
	c := path.New(now, path.Config{Rand: rand.New(rand.NewPCG(1, 2)), Traffic: func(path.ID) path.Traffic { return path.Traffic{Sent: now} }})
	calls, settled, next := map[path.ID]int{}, false, now
	var handle func(path.Event)
	handle = func(e path.Event) {
		var actions []path.Action
		actions, next = c.Handle(now, e)
		for _, a := range actions {
			if a, ok := a.(path.SendSignal); ok {
				if settled {
					calls[a.Peer]++
				}
				handle(path.PeerGone{Peer: a.Peer})
			}
		}
	}
	handle(path.SetRelay{Up: true})
	for i := range peers {
		handle(path.Activate{Peer: path.ID{byte(i), byte(i >> 8)}})
	}
	for end := now.Add(10 * time.Minute); now.Before(end); now = next {
		handle(nil)
	}
	settled = true
	for end := now.Add(seconds * time.Second); now.Before(end); now = next {
		handle(nil)
	}
	all, least := 0, seconds
	for _, n := range calls {
		all, least = all+n, min(least, n)
	}
	if len(calls) != peers || least < 4 || all > seconds*(20+2*peers/60) {
		t.Errorf("%d calls in %d s to %d of %d peers, %d to the one with fewest", all, seconds, len(calls), peers, least)
	}
}
