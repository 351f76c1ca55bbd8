package path_test

import (
	"testing"
	"time"

	"warren/nat/path"
)

// A side that only answers sees packets come and go, and takes its part in a fault for health. It hears of it by the call of the other.
func TestYield(t *testing.T) {
	for name, fault := range map[string]func(a, b *node){
		"both ways": cut(true, true), "forth": cut(true, false), "back": cut(false, true),
		"the address is gone": func(a, b *node) { a.handle(path.SetLocal{}) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, 1)
			s.net.Delay = 80 * time.Millisecond
			a, b := s.add(easy), s.add(easy)
			s.run(time.Second)
			a.flow(b, 90*time.Millisecond, true)
			s.run(4 * time.Second)
			if kinds(a, b) != bothDirect {
				t.Fatalf("before: %v", kinds(a, b))
			}
			fault(a, b)
			s.until("a has given up", func() bool { return kinds(a, b)[0] == path.Relay })
			if took := s.until("b has too", func() bool { return kinds(a, b) == bothRelay }); took > 2*s.relay {
				t.Errorf("b goes on for %s, want the time of a signal, %s", took, 2*s.relay)
			}
			if c := b.core.Explain(a.id).Cause; c != path.PeerLost {
				t.Errorf("by %v, want %v", c, path.PeerLost)
			}
		})
	}
}

// What the peer says of its own path is not believed against an answer of a moment ago.
func TestYieldNot(t *testing.T) {
	s, a, b, _ := pairOf(t)
	lost := path.Signal{Peer: a.id, Candidates: a.local, Call: true, Lost: true}
	answeredAgo := func() time.Duration {
		for _, p := range b.core.Explain(a.id).Pairs {
			if p.Current {
				return s.now.Sub(p.LastAnswer)
			}
		}
		return time.Hour
	}
	s.until("the last answer is old", func() bool { return answeredAgo() > time.Second })
	b.handle(lost)
	if kinds(a, b)[1] != path.Relay {
		t.Fatalf("the last answer is old and the path is %s", kinds(a, b)[1])
	}
	s.until("direct", func() bool { return kinds(a, b) == bothDirect })
	s.run(1500 * time.Millisecond)
	s.until("an answer", func() bool { return answeredAgo() < 10*time.Millisecond })
	b.handle(lost)
	if kinds(a, b)[1] != path.Direct {
		t.Errorf("a check was answered just now and the path is %s", kinds(a, b)[1])
	}
}

// A peer that says so all the time harms its own traffic, and that within bounds.
func TestYieldToALiar(t *testing.T) {
	s, a, b, _ := pairOf(t)
	before := len(b.link(a.id).history)
	for range 60 * 50 {
		b.handle(path.Signal{Peer: a.id, Candidates: a.local, Lost: true})
		s.run(20 * time.Millisecond)
	}
	if n := len(b.link(a.id).history) - before; n < 20 || n > 130 {
		t.Errorf("%d changes of path in a minute", n)
	}
	s.run(time.Second)
	if kinds(a, b) != bothDirect {
		t.Errorf("in the end %v", kinds(a, b))
	}
}

// A device that has found another path by the time that it can tell of the loss tells of it once.
func TestLostIsToldOnce(t *testing.T) {
	s, a, b, _ := pairOf(t)
	lost := 0
	a.loses = func(m path.SendSignal) bool {
		if m.Lost {
			lost++
		}
		return false
	}
	a.relayUp = false
	a.handle(path.SetRelay{})
	local := a.local
	a.handle(path.SetLocal{Candidates: local[1:]}) // its address is gone for a moment
	a.handle(path.SetLocal{Candidates: local})
	s.until("direct", func() bool { return kinds(a, b) == bothDirect })
	a.relayUp = true
	a.handle(path.SetRelay{Up: true})
	s.run(100 * time.Millisecond)
	for range 10 {
		a.handle(path.Signal{Peer: b.id, Candidates: b.local, Call: true})
		s.run(60 * time.Millisecond)
	}
	if lost != 1 {
		t.Errorf("told %d times", lost)
	}
}
