package path_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"warren/nat/path"
	"warren/nat/path/pathtest"
)

// chaos does one thing to two devices; which, the byte says.
func chaos(s *sim, a, b *node, what byte) {
	n, o := a, b
	if what&0x80 != 0 {
		n, o = b, a
	}
	switch what % 16 {
	case 0:
		cut(true, true)(n, o)
	case 1:
		cut(true, false)(n, o)
	case 2, 3, 4:
		s.net.Cut = nil
	case 5:
		n.host.Box.Forget()
	case 6:
		move(n, what)
	case 7:
		n.handle(path.NetworkChanged{})
	case 8:
		n.setRelay(false)
	case 9, 10:
		n.setRelay(true)
	case 11:
		if !n.host.Down {
			n.setDown(true)
			s.after(300*time.Millisecond, func() {
				n.setDown(false)
				n.flow(o, 50*time.Millisecond, true)
			})
		}
	case 12:
		s.net.Loss = float64(what>>4) / 100
	case 13:
		n.flow(o, time.Duration(what)*time.Millisecond+time.Millisecond, what&0x10 != 0)
	case 14:
		n.link(o.id).flowing++
	case 15:
		n.handle(path.PeerGone{Peer: o.id})
	}
}

// play runs a program of chaos, heals everything, and wants the best path there can be.
func play(t testing.TB, seed uint64, kinds2 [2]pathtest.NAT, program []byte) {
	s := newSim(t, seed)
	a, b := s.add(kinds2[0]), s.add(kinds2[1])
	s.run(500 * time.Millisecond)
	a.flow(b, 50*time.Millisecond, true)
	s.logf("%v", kinds2)
	for i := 0; i+1 < len(program); i += 2 {
		s.logf("chaos %d", program[i]%16)
		chaos(s, a, b, program[i])
		s.run(time.Duration(program[i+1]) * 20 * time.Millisecond)
	}
	s.net.Cut, s.net.Loss = nil, 0
	s.run(time.Second)
	for _, n := range s.nodes {
		n.setRelay(true)
	}
	a.flow(b, 50*time.Millisecond, true)
	b.flow(a, 50*time.Millisecond, true)
	s.run(75 * time.Second)
	want := bothDirect
	if n := kinds2; n[0] == blocked || n[1] == blocked || n[0] != none && n[1] != none && (n[0] == hard || n[1] == hard) {
		want = bothRelay
	}
	if kinds(a, b) != want {
		t.Errorf("seed %d, %v: in the end %v, want %v", seed, kinds2, kinds(a, b), want)
	}
	for _, n := range s.nodes {
		if n.core.Sessions() > 1 {
			t.Errorf("%d sessions with one peer", n.core.Sessions())
		}
	}
}

func TestChaos(t *testing.T) {
	all := []pathtest.NAT{none, easy, hard, blocked}
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 3))
		program := make([]byte, 40)
		for i := range program {
			program[i] = byte(r.Uint32())
		}
		pair := [2]pathtest.NAT{all[r.IntN(4)], all[r.IntN(4)]}
		if seed%2 == 0 {
			pair = [2]pathtest.NAT{easy, easy}
		}
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { play(t, seed, pair, program) })
	}
}

func FuzzChaos(f *testing.F) {
	f.Add(uint64(1), byte(0), []byte{0, 100, 2, 100})
	f.Add(uint64(2), byte(5), []byte{8, 100, 1, 100, 9, 10, 6, 200})
	f.Add(uint64(3), byte(6), []byte{11, 100, 7, 1, 15, 50, 12, 9})
	f.Fuzz(func(t *testing.T, seed uint64, nats byte, program []byte) {
		program = program[:min(len(program), 60)]
		play(t, seed, [2]pathtest.NAT{pathtest.NAT(nats & 3), pathtest.NAT(nats >> 2 & 3)}, program)
	})
}
