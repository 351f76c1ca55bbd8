package path_test

import (
	"fmt"
	"testing"
	"time"

	"warren/nat/path"
	"warren/nat/path/pathtest"
)

const (
	none       = pathtest.Public
	easy       = pathtest.Easy
	hard       = pathtest.Hard
	blocked    = pathtest.Blocked
	sequential = pathtest.Sequential
)

func TestScenarios(t *testing.T) {
	for _, tc := range []struct {
		a, b   pathtest.NAT
		direct bool
	}{
		{none, none, true}, {none, easy, true}, {easy, none, true}, {easy, easy, true}, {hard, none, true}, {none, hard, true},
		{hard, easy, false}, {easy, hard, false}, {hard, hard, false},
		{blocked, easy, false}, {easy, blocked, false}, {blocked, none, false}, {blocked, blocked, false},
	} {
		t.Run(fmt.Sprintf("%s-%s", tc.a, tc.b), func(t *testing.T) {
			s := newSim(t, 1)
			a, b := s.add(tc.a), s.add(tc.b)
			s.run(time.Second)
			a.flow(b, 20*time.Millisecond, true)
			if k := a.link(b.id).path.Kind; k != path.Relay {
				t.Errorf("at first the path is %s, want relay", k)
			}
			if !tc.direct {
				s.run(30 * time.Second)
				if kinds(a, b) != bothRelay {
					t.Errorf("paths %v, want relay", kinds(a, b))
				}
				return
			}
			took := s.until("direct", func() bool { return kinds(a, b) == bothDirect })
			t.Logf("direct after %s", took)
			if took > 150*time.Millisecond {
				t.Errorf("direct after %s", took)
			}
			s.run(2 * time.Minute)
			if l := a.link(b.id); kinds(a, b) != bothDirect || l.changes != 2 {
				t.Errorf("paths %v, history %v", kinds(a, b), l.history)
			}
		})
	}
}

// The first packet comes at the moment the daemons start: the reflexive addresses are known only later.
func TestColdStart(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.add(easy), s.add(easy)
	a.flow(b, 20*time.Millisecond, true)
	if took := s.until("direct", func() bool { return kinds(a, b) == bothDirect }); took > 200*time.Millisecond {
		t.Errorf("direct after %s", took)
	}
}

// With a tenth of all packets lost it takes longer, and it stays.
func TestLoss(t *testing.T) {
	for seed := range uint64(20) {
		s := newSim(t, seed)
		s.net.Loss = 0.1
		a, b := s.add(easy), s.add(easy)
		s.run(time.Second)
		a.flow(b, 20*time.Millisecond, true)
		if took := s.until("direct", func() bool { return kinds(a, b) == bothDirect }); took > 3*time.Second {
			t.Errorf("seed %d: direct after %s", seed, took)
		}
		s.run(5 * time.Minute)
		if l := a.link(b.id); l.changes > 4 {
			t.Errorf("seed %d: %d changes of path in five minutes", seed, l.changes)
		}
	}
}

// Two hosts of one LAN behind one box use their private addresses.
func TestSameLAN(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.add(easy), s.add(easy)
	b.host.Box = a.host.Box
	b.gather()
	s.run(time.Second)
	a.flow(b, 20*time.Millisecond, true)
	s.run(time.Second)
	if p := a.link(b.id).path; p.Remote != b.host.At {
		t.Errorf("path %v, want %s", p, b.host.At)
	}
}

func TestFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		flow func(a, b *node)
		cut  func(a, b *node) // the fault
		want [2]path.Kind
	}{
		"both ways, echo": {
			func(a, b *node) { a.flow(b, 50*time.Millisecond, true) }, cut(true, true), bothRelay},
		"both ways, two streams": {
			func(a, b *node) { a.flow(b, 10*time.Millisecond, false); b.flow(a, 10*time.Millisecond, false) }, cut(true, true), bothRelay},
		"one way, two streams": {
			func(a, b *node) { a.flow(b, 10*time.Millisecond, false); b.flow(a, 10*time.Millisecond, false) }, cut(true, false), bothRelay},
		"one way, one stream": {
			func(a, b *node) { a.flow(b, 10*time.Millisecond, false) }, cut(true, false), bothRelay},
		"back way, one stream": {
			func(a, b *node) { a.flow(b, 10*time.Millisecond, false) }, cut(false, true), bothRelay},
		"seldom": {
			func(a, b *node) { a.flow(b, 700*time.Millisecond, true) }, cut(true, true), bothRelay},
		"the box forgets": {
			func(a, b *node) { a.flow(b, 10*time.Millisecond, true) }, func(a, b *node) { a.host.Box.Forget() }, bothDirect},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, 1)
			a, b := s.add(easy), s.add(easy)
			s.run(time.Second)
			tc.flow(a, b)
			s.run(5 * time.Second)
			if kinds(a, b) != bothDirect {
				t.Fatalf("paths before: %v", kinds(a, b))
			}
			tc.cut(a, b)
			s.run(10 * time.Second)
			if kinds(a, b) != tc.want {
				t.Errorf("paths %v, want %v", kinds(a, b), tc.want)
			}
			s.net.Cut = nil
			s.run(time.Minute)
			if kinds(a, b) != bothDirect {
				t.Errorf("paths after: %v", kinds(a, b))
			}
		})
	}
}

// cut stops packets from a to b, from b to a, or both.
func cut(forth, back bool) func(a, b *node) {
	return func(a, b *node) {
		a.sim.net.Cut = func(from, to *pathtest.Host) bool {
			return forth && from == a.host && to == b.host || back && from == b.host && to == a.host
		}
	}
}
