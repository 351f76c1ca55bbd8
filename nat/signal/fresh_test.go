package signal

import (
	"errors"
	"math/rand/v2"
	"testing"

	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// met makes the boxes of two devices that have heard of each other.
func met(t testing.TB, x, y key.NodePrivate) (a, b *Box) {
	t.Helper()
	a, b = box(t, x, y), box(t, y, x)
	for _, way := range [][2]*Box{{a, b}, {b, a}, {a, b}} {
		if _, err := way[1].Open(seal(t, way[0], some), overlay); err != nil {
			t.Fatal(err)
		}
	}
	return a, b
}

var (
	again   = Signal{Talk: pb.Talk_TALK_AGAIN}
	serious = Signal{Call: true, Lost: true, TriesPorts: true, Step: pb.HardNAT_STEP_READY}
)

// TestRestart: whoever begins anew is heard after one question, and the other's signals at once.
func TestRestart(t *testing.T) {
	x, y := node(t, 1), node(t, 2)
	_, b := met(t, x, y)
	for range 3 {
		a := box(t, x, y)
		if _, err := b.Open(seal(t, a, some), overlay); !errors.Is(err, ErrStart) {
			t.Fatalf("the first signal after a restart: %v", err)
		}
		if _, err := a.Open(seal(t, b, again), overlay); err != nil {
			t.Fatalf("the question: %v", err)
		}
		if got, err := b.Open(seal(t, a, serious), overlay); err != nil || !got.Lost || got.Step == 0 {
			t.Fatalf("the answer: %+v, %v", got, err)
		}
		if _, err := a.Open(seal(t, b, some), overlay); err != nil {
			t.Fatalf("what follows: %v", err)
		}
	}
}

// TestBothRestart: one begins anew and believes an old signal; then the other does. They find together all the same.
func TestBothRestart(t *testing.T) {
	x, y := node(t, 1), node(t, 2)
	before, _ := met(t, x, y)
	old := seal(t, before, serious)
	a, b := box(t, x, y), box(t, y, x)
	if got, err := b.Open(old, overlay); err != nil || !got.Call || got.Lost || got.TriesPorts || got.Step != 0 {
		t.Fatalf("an old signal, after a restart: %+v, %v; want it to be good for a call alone", got, err)
	}
	if _, err := b.Open(seal(t, a, some), overlay); !errors.Is(err, ErrStart) {
		t.Fatalf("the true peer: %v", err)
	}
	if _, err := a.Open(seal(t, b, again), overlay); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Open(seal(t, a, serious), overlay); err != nil || !got.Lost {
		t.Fatalf("the true peer, asked again: %+v, %v", got, err)
	}
	if _, err := b.Open(old, overlay); !errors.Is(err, ErrStart) {
		t.Errorf("the old signal, once more: %v", err)
	}
}

// TestLateKept: what the relay kept back of a start, even if it echoes what was the challenge then, is nothing after the next start.
func TestLateKept(t *testing.T) {
	x, y := node(t, 1), node(t, 2)
	a, b := met(t, x, y)
	var kept [][]byte
	for range 4 {
		kept = append(kept, seal(t, a, serious))
	}
	a = box(t, x, y)
	b.Open(seal(t, a, some), overlay)
	a.Open(seal(t, b, again), overlay)
	kept = append(kept, seal(t, a, serious)) // this one it lets through
	if _, err := b.Open(kept[4], overlay); err != nil {
		t.Fatal(err)
	}
	for i, k := range kept {
		if _, err := b.Open(k, overlay); err == nil {
			t.Errorf("signal %d was accepted", i)
		}
	}
	if _, err := b.Open(seal(t, a, some), overlay); err != nil {
		t.Errorf("the true peer after all that: %v", err)
	}
}

// TestFreshnessModel has a relay that keeps all signals, loses some, brings any of them as often as it likes, and sees the devices begin anew.
// What counts as proven is never an old one, nothing is accepted twice by one start, and as soon as the relay behaves the two hear each other.
func TestFreshnessModel(t *testing.T) {
	type sent struct {
		stamp
		from, start int // which device, and which of its starts
	}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 5))
		ends := [2]freshness{newFreshness(), newFreshness()}
		starts := [2]int{}
		var all []sent
		taken := [2]map[stamp]bool{{}, {}} // by the present start of each
		proven := [2]int{-1, -1}           // the latest start of the other that was proven to the present one
		send := func(i int) sent {
			s := sent{ends[i].next(), i, starts[i]}
			all = append(all, s)
			return s
		}
		bring := func(s sent) (asks, ok bool) {
			to := 1 - s.from
			f := &ends[to]
			if err := f.check(s.stamp); err != nil {
				return errors.Is(err, ErrStart), false
			}
			if taken[to][s.stamp] {
				t.Fatalf("seed %d: accepted twice: %+v", seed, s)
			}
			taken[to][s.stamp] = true
			if f.accept(s.stamp) {
				if s.start < proven[to] {
					t.Fatalf("seed %d: start %d proven after %d", seed, s.start, proven[to])
				}
				proven[to] = s.start
			}
			return false, true
		}
		for range 400 {
			i := r.IntN(2)
			switch r.IntN(12) {
			case 0:
				starts[i]++
				ends[i], taken[i], proven[i] = newFreshness(), map[stamp]bool{}, -1
			case 1, 2, 3, 4:
				if len(all) > 0 {
					if asks, _ := bring(all[r.IntN(len(all))]); asks && r.IntN(2) == 0 {
						send(r.IntN(2))
					}
				}
			case 5:
				send(i)
			default:
				s := send(i)
				if asks, _ := bring(s); asks {
					bring(send(1 - i))
				}
			}
		}
		for i := range ends { // now the relay behaves: a question is the most that it takes
			s := send(i)
			asks, ok := bring(s)
			if asks {
				if _, heard := bring(send(1 - i)); !heard {
					t.Fatalf("seed %d: the question is not heard", seed)
				}
				_, ok = bring(send(i))
			}
			if !ok {
				t.Fatalf("seed %d: device %d is not heard", seed, i)
			}
		}
	}
}
