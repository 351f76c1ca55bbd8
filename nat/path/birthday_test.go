package path_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"warren/nat/path"
)

// easyHard makes a device behind an easy and one behind a hard NAT, with traffic.
func easyHard(t *testing.T, seed uint64, tell bool) (s *sim, e, h *node) {
	t.Helper()
	s = newSim(t, seed)
	e, h = s.add(easy), s.add(hard)
	e.mayHunt, h.mayHunt = 100, 500
	if tell {
		e.handle(path.SetMapping{NAT: path.NAT{Mapping: path.MappingIndependent}})
		h.handle(path.SetMapping{NAT: path.NAT{Mapping: path.MappingDependent}})
	}
	s.run(time.Second)
	e.flow(h, 50*time.Millisecond, true)
	return s, e, h
}

// TestBirthday counts how many attempts make the path direct within 15 s, beside the value to be expected.
func TestBirthday(t *testing.T) {
	const runs = 200
	direct := 0
	var took []time.Duration
	for seed := range uint64(runs) {
		s, e, h := easyHard(t, seed, true)
		began := s.now
		for s.now.Sub(began) < 15*time.Second && kinds(e, h) != bothDirect {
			s.run(10 * time.Millisecond)
		}
		if kinds(e, h) == bothDirect {
			direct++
			took = append(took, s.now.Sub(began))
			s.run(time.Second)
			open := 1
			if h.link(e.id).path.Socket == 0 {
				open = 0 // the port of the ordinary socket was hit
			}
			if n := len(h.host.Extra); n != open {
				t.Fatalf("seed %d: %d sockets stay open, want the path's alone", seed, n)
			}
			s.run(2 * time.Minute)
			if kinds(e, h) != bothDirect {
				t.Errorf("seed %d: the path did not last: %v", seed, kinds(e, h))
			}
		} else {
			s.run(10 * time.Second)
			if len(h.host.Extra) != 0 {
				t.Errorf("seed %d: %d sockets left after a failure", seed, len(h.host.Extra))
			}
		}
	}
	slices.Sort(took)
	want := 1 - math.Pow(1-256.0/64512, 1100)
	t.Logf("%d of %d direct within 15 s (%.1f %%; expected %.1f %%), median %s", direct, runs, 100*float64(direct)/runs, 100*want, took[len(took)/2])
	if direct < runs*95/100 {
		t.Errorf("%d of %d became direct", direct, runs)
	}
}

// A failure is not repeated for an hour; then it is.
func TestBirthdayBacksOff(t *testing.T) {
	s, e, h := easyHard(t, 1, true)
	e.host.Box.Become(blocked) // whatever is sent, nothing arrives
	s.run(40 * time.Second)
	checks := e.checks
	if e.checks < 1100 || h.checks < 256 {
		t.Fatalf("%d and %d checks: no attempt was made", e.checks, h.checks)
	}
	s.run(55 * time.Minute)
	if n := e.checks - checks; n > 1500 {
		t.Errorf("%d checks in the hour after a failure", n)
	}
	checks = e.checks
	s.run(8 * time.Minute)
	if n := e.checks - checks; n < 1100 {
		t.Errorf("%d checks after an hour: no attempt was made", n)
	}
	if kinds(e, h) != bothRelay {
		t.Errorf("paths %v", kinds(e, h))
	}
}

// Nothing is tried without traffic, without knowledge of the NATs, or against two hard ones.
func TestNoBirthday(t *testing.T) {
	for name, change := range map[string]func(s *sim, e, h *node){
		"no traffic":     func(s *sim, e, h *node) { e.link(h.id).flowing++ },
		"unknown NATs":   func(s *sim, e, h *node) {},
		"hard and hard":  func(s *sim, e, h *node) { set(e, path.MappingDependent); set(h, path.MappingDependent) },
		"easy and easy":  func(s *sim, e, h *node) { set(e, path.MappingIndependent); set(h, path.MappingIndependent) },
		"peer not known": func(s *sim, e, h *node) { set(h, path.MappingDependent) },
	} {
		t.Run(name, func(t *testing.T) {
			s, e, h := easyHard(t, 1, name == "no traffic")
			change(s, e, h)
			s.run(20 * time.Second)
			if h.sockets != 0 {
				t.Errorf("%d sockets were opened", h.sockets)
			}
		})
	}
}

func set(n *node, m path.Mapping) { n.handle(path.SetMapping{NAT: path.NAT{Mapping: m}}) }

// A hard NAT that gives out ports in sequence is hit by the first few.
func TestSequentialPorts(t *testing.T) {
	s := newSim(t, 1)
	e, h := s.add(easy), s.add(sequential)
	e.mayHunt, h.mayHunt = 100, 500
	set(e, path.MappingIndependent)
	set(h, path.MappingSequential)
	s.run(time.Second)
	e.flow(h, 50*time.Millisecond, true)
	if took := s.until("direct", func() bool { return kinds(e, h) == bothDirect }); took > 4*time.Second {
		t.Errorf("direct after %s", took)
	}
	if e.checks > 200 {
		t.Errorf("%d checks", e.checks)
	}
}

// One attempt at a time, however many peers there are.
func TestOneBirthdayAtATime(t *testing.T) {
	s, _, h := easyHard(t, 3, false)
	set(h, path.MappingDependent)
	for range 5 {
		n := s.add(easy)
		n.mayHunt = 100
		set(n, path.MappingIndependent)
		s.run(500 * time.Millisecond)
		n.flow(h, 50*time.Millisecond, true)
	}
	most := 0
	for range 1200 {
		s.run(100 * time.Millisecond)
		most = max(most, len(h.host.Extra))
	}
	if most > 256+5 {
		t.Errorf("%d sockets open at once", most)
	}
	direct := 0
	for _, n := range s.nodes[2:] {
		if kinds(n, h) == bothDirect {
			direct++
		}
	}
	if direct < 4 {
		t.Errorf("%d of 5 peers became direct in two minutes", direct)
	}
}

// A peer that lies has us send a bounded number of datagrams, and not again for an hour.
func TestLyingReadiness(t *testing.T) {
	s, e, h := easyHard(t, 1, true)
	h.host.Box.Become(blocked)
	s.run(time.Second)
	before := e.checks
	for range 100 {
		e.handle(path.Signal{Peer: h.id, Candidates: h.local, NAT: path.NAT{Mapping: path.MappingDependent}, Step: path.StepReady})
		s.run(10 * time.Second)
	}
	if n := e.checks - before; n > 1100+1000 {
		t.Errorf("a liar had us send %d checks", n)
	}
}
