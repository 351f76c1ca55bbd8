package path_test

import (
	"testing"
	"time"

	"warren/nat/path"
)

const wireguard = 32 // what a packet grows by in the tunnel

func mtus(a, b *node) [2]int { return [2]int{a.link(b.id).path.MTU, b.link(a.id).path.MTU} }

func TestMTU(t *testing.T) {
	for _, tc := range []struct {
		name           string
		largest, iface int
		want           int
	}{
		{"all gets through", 0, 1420, 1420},
		{"IPv6 tunnel broker", 1400 + wireguard, 1420, 1392},
		{"between two sizes", 1333 + wireguard, 1420, 1328},
		{"least that IPv6 allows", 1280 + wireguard, 1420, 1280},
		{"less than IPv6 allows", 1100, 1420, 1008},
		{"next to nothing", 700, 1420, 576},
		{"jumbo frames", 9000, 8936, 8936},
		{"jumbo frames on one side only", 1500, 8936, 1408},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSim(t, 1)
			s.net.Largest = tc.largest
			a, b := s.add(easy), s.add(easy)
			for _, n := range s.nodes {
				n.handle(path.InterfaceMTU{MTU: tc.iface})
			}
			s.run(time.Second)
			a.flow(b, 20*time.Millisecond, true)
			s.until("direct", func() bool { return kinds(a, b) == bothDirect })
			s.run(2500 * time.Millisecond)
			if got := mtus(a, b); got != [2]int{tc.want, tc.want} {
				t.Errorf("MTU %v, want %d", got, tc.want)
			}
			checks, history := a.checks, len(a.link(b.id).history)
			s.run(10 * time.Minute)
			if got := mtus(a, b); got != [2]int{tc.want, tc.want} {
				t.Errorf("after ten minutes: MTU %v, want %d", got, tc.want)
			}
			if n := a.checks - checks; n > 600 {
				t.Errorf("%d checks in ten minutes", n)
			}
			if len(a.link(b.id).history) != history {
				t.Errorf("the path changed: %v", a.link(b.id).history[history:])
			}
		})
	}
}

// A path that becomes a black hole for long packets, under traffic that goes on, is noticed within 3 s; when it carries them again, within
// a round.
func TestBlackHole(t *testing.T) {
	for seed := range uint64(50) {
		s := newSim(t, seed)
		a, b := s.add(easy), s.add(none)
		s.run(time.Second)
		a.flow(b, 20*time.Millisecond, true)
		s.run(time.Duration(s.rand.Int64N(int64(10*time.Second))) + 2*time.Second)
		if got := mtus(a, b); got != [2]int{1420, 1420} {
			t.Fatalf("seed %d: MTU %v", seed, got)
		}
		s.net.Largest = 1400
		if took := s.until("less is sent", func() bool {
			m := mtus(a, b)
			return m[0] <= 1368 && m[1] <= 1368
		}); took > 3*time.Second {
			t.Errorf("seed %d: a black hole for %s", seed, took)
		}
		s.run(2 * time.Second)
		if got := mtus(a, b); got != [2]int{1360, 1360} {
			t.Errorf("seed %d: MTU %v, want 1360", seed, got)
		}
		s.net.Largest = 0
		s.run(65 * time.Second)
		if got := mtus(a, b); got != [2]int{1420, 1420} {
			t.Errorf("seed %d: MTU %v when all gets through again", seed, got)
		}
		if kinds(a, b) != bothDirect {
			t.Errorf("seed %d: %v", seed, kinds(a, b))
		}
	}
}

// Loss alone does not shrink packets for long.
func TestMTUUnderLoss(t *testing.T) {
	s := newSim(t, 7)
	s.lenient = true
	a, b := s.add(easy), s.add(easy)
	s.run(time.Second)
	a.flow(b, 20*time.Millisecond, true)
	s.run(5 * time.Second)
	s.net.Loss = 0.05
	small := 0
	for range 600 {
		s.run(time.Second)
		if kinds(a, b) == bothDirect && mtus(a, b) != [2]int{1420, 1420} {
			small++
		}
	}
	if small > 60 {
		t.Errorf("packets were smaller than need be for %d of 600 s", small)
	}
}
