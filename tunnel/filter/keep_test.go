package filter

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// successor is a filter that has taken up the flows of another, whose clock begins anew.
func successor(f *Filter, now time.Duration, rules *Rules, p *Peer) (*Filter, int) {
	next := New(Config{Records: true})
	next.SetRules(rules, 0)
	return next, next.Restore(f.Keep(now), func(id [32]byte) *Peer {
		if id == p.ID {
			return p
		}
		return nil
	}, 0)
}

// TestAnswersAfterRestart: what began before the restart goes on in both directions, and what could not begin cannot after it either.
func TestAnswersAfterRestart(t *testing.T) {
	const rules = a4 + "," + a6 + " -> " + b4 + "," + b6 + " 6:80-80,17:53-53,1:0-0,58:0-0"
	for name, c := range map[string]struct {
		question, answer shape
		gone             time.Duration // between question and restart
		refused          bool          // the answer, after it
	}{
		"TCP":             {tcp(a4, b4, 9, 80, tcpSYN), tcp(b4, a4, 80, 9, 16), time.Second, false},
		"TCP, IPv6":       {tcp(a6, b6, 9, 80, tcpSYN), tcp(b6, a6, 80, 9, 16), time.Second, false},
		"UDP":             {udp(a4, b4, 9, 53), udp(b4, a4, 53, 9), time.Minute, false},
		"echo":            {icmp(a4, b4, 8, 7), icmp(b4, a4, 0, 7), time.Second, false},
		"idle too long":   {udp(a4, b4, 9, 53), udp(b4, a4, 53, 9), idleUDP, true},
		"nearly too long": {udp(a4, b4, 9, 53), udp(b4, a4, 53, 9), idleUDP - 1, false},
		"another port":    {udp(a4, b4, 9, 53), udp(b4, a4, 53, 10), time.Second, true},
	} {
		for _, d := range []Direction{In, Out} {
			t.Run(name+" "+d.String(), func(t *testing.T) {
				f, p := New(Config{Records: true}), &Peer{ID: [32]byte{1}}
				f.SetRules(mustCompile(rules), 0)
				if v := f.Judge(d, p, c.question.bytes(), 0).Verdict; v != Pass {
					t.Fatalf("question: %v", v)
				}
				next, _ := successor(f, c.gone, mustCompile(rules), p)
				if v := next.Judge(d.other(), p, c.answer.bytes(), 0).Verdict; (v == Denied) != c.refused {
					t.Errorf("answer: %v", v)
				}
			})
		}
	}
}

// TestRestoreJudgesAnew: rules and peers are the successor's; what they do not allow is not taken up.
func TestRestoreJudgesAnew(t *testing.T) {
	f, p := New(Config{Records: true}), &Peer{ID: [32]byte{1}}
	f.SetRules(mustCompile(a4+" -> "+b4+" 6:80-81"), 0)
	for port := uint16(80); port <= 81; port++ {
		f.Judge(In, p, tcp(a4, b4, 9, port, tcpSYN).bytes(), 0)
	}
	narrower := mustCompile(a4 + " -> " + b4 + " 6:80-80")
	if _, n := successor(f, 0, narrower, p); n != 1 {
		t.Errorf("%d flows taken, want that to port 80", n)
	}
	if _, n := successor(f, 0, narrower, &Peer{ID: [32]byte{2}}); n != 0 {
		t.Errorf("%d flows of a peer that is gone", n)
	}
	gone := &Peer{ID: p.ID}
	gone.gone.Store(true)
	if _, n := successor(f, 0, narrower, gone); n != 0 {
		t.Errorf("%d flows of a peer that is about to go", n)
	}
	next, _ := successor(f, 0, narrower, p)
	if n := next.Restore(f.Keep(0), func([32]byte) *Peer { return p }, 0); n != 0 {
		t.Errorf("%d flows taken twice", n)
	}
}

// TestKeepTwice: a filter that has taken flows up gives the same flows on, with their counts, and tells nobody of them anew.
func TestKeepTwice(t *testing.T) {
	rng, rules := rand.New(rand.NewPCG(1, 2)), mustCompile(a4+","+b4+" -> "+a4+","+b4+" 6:0-9,17:0-9,1:0-0")
	f, p := New(Config{Records: true}), &Peer{ID: [32]byte{1}}
	f.SetRules(rules, 0)
	now := time.Duration(0)
	for range 2000 {
		now += time.Duration(rng.IntN(20)) * time.Millisecond
		src, dst, d := a4, b4, Direction(rng.IntN(2))
		if rng.IntN(2) == 0 {
			src, dst = b4, a4
		}
		x, y := uint16(rng.IntN(20)), uint16(rng.IntN(12))
		for _, s := range []shape{tcp(src, dst, x, y, uint8(rng.IntN(32))&^5), udp(src, dst, x, y), icmp(src, dst, 8, x)} {
			f.Judge(d, p, s.bytes(), now)
		}
	}
	f.Collect(now, func(*Record) {}, func(*Peer, Omitted) {})
	want := f.Keep(now)
	next, n := successor(f, now, rules, p)
	if n != len(want) || n < 500 {
		t.Fatalf("%d taken of %d", n, len(want))
	}
	order := cmpopts.SortSlices(func(a, b Kept) bool {
		if c := a.Src.Compare(b.Src); c != 0 {
			return c < 0
		}
		if c := a.Dst.Compare(b.Dst); c != 0 {
			return c < 0
		}
		return a.Proto < b.Proto || a.Proto == b.Proto && a.Direction < b.Direction
	})
	equal := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if diff := cmp.Diff(want, next.Keep(0), order, equal); diff != "" {
		t.Errorf("(-kept +kept again)\n%s", diff)
	}
	next.Collect(0, func(r *Record) {
		if r.Kind == Began {
			t.Errorf("told again: %+v", r)
		}
	}, func(*Peer, Omitted) {})
	// Every packet has the same verdict from both: no connection was closed, and so forgotten.
	for range 5000 {
		src, dst, d := a4, b4, Direction(rng.IntN(2))
		if rng.IntN(2) == 0 {
			src, dst = b4, a4
		}
		b := tcp(src, dst, uint16(rng.IntN(20)), uint16(rng.IntN(12)), 16).bytes()
		if was, is := f.Again(p, b, now), next.Again(p, b, 0); d == Out && was != is {
			t.Fatalf("% x: %v before, %v after", b, was, is)
		}
	}
}

// FuzzRestore: whatever is handed over, no flow is taken up that the rules do not let begin, and the table stays within its bound.
func FuzzRestore(f *testing.F) {
	f.Add([]byte{1}, uint8(0), uint8(6), []byte{100, 64, 0, 1}, uint16(9), []byte{100, 64, 0, 2}, uint16(80), uint8(1), int64(5), int64(3), int64(9))
	f.Add([]byte{1}, uint8(1), uint8(1), []byte{100, 64, 0, 1}, uint16(9), []byte{100, 64, 0, 2}, uint16(9), uint8(0), int64(5), int64(3), int64(9))
	rules := mustCompile(a4 + " -> " + b4 + " 6:80-80,17:53-53,1:0-0")
	f.Fuzz(func(t *testing.T, id []byte, d, proto uint8, src []byte, sport uint16, dst []byte, dport uint16, seen uint8, age, idle, left int64) {
		x, _ := netip.AddrFromSlice(src)
		y, _ := netip.AddrFromSlice(dst)
		k := Kept{
			Direction: Direction(d), Proto: proto, Src: netip.AddrPortFrom(x, sport), Dst: netip.AddrPortFrom(y, dport), Seen: seen,
			Age: time.Duration(age), Idle: time.Duration(idle), Left: time.Duration(left),
		}
		copy(k.Peer[:], id)
		p := new(Peer)
		filter := New(Config{MaxFlows: 32})
		filter.SetRules(rules, 0)
		n := filter.Restore([]Kept{k, k}, func([32]byte) *Peer { return p }, 0)
		seenFlows := 0
		filter.Flows(nil, 0, func(r *Record) bool {
			seenFlows++
			if _, ok := rules.allow(r.Src.Addr(), r.Dst.Addr(), r.Proto, r.Dst.Port()); !ok {
				t.Errorf("not allowed: %+v", r)
			}
			return true
		})
		if n != seenFlows || n > 1 {
			t.Errorf("%d taken, %d there", n, seenFlows)
		}
	})
}
