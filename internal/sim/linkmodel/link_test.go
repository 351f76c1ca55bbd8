package linkmodel

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var began = time.Unix(1_000_000, 0)

// run sends n packets of a size, one each interval, and gives how long after the beginning each arrived; -1 for never.
func run(l *Link, n, size int, every time.Duration) (arrivals []time.Duration) {
	for i := range n {
		at, ok := l.Send(began.Add(time.Duration(i)*every), size)
		if !ok {
			arrivals = append(arrivals, -1)
			continue
		}
		arrivals = append(arrivals, at.Sub(began))
	}
	return arrivals
}

func TestWire(t *testing.T) {
	if diff := cmp.Diff([]time.Duration{0, 5, 10}, run(New(Options{}, 1), 3, 1500, 5)); diff != "" {
		t.Error(diff)
	}
}

func TestDelayAndRate(t *testing.T) {
	// 1,000 bytes take 8 ms at 1 Mbit/s; one comes each 5 ms.
	l := New(Options{Delay: 20 * time.Millisecond, Rate: 1_000_000}, 1)
	want := []time.Duration{28 * time.Millisecond, 36 * time.Millisecond, 44 * time.Millisecond}
	if diff := cmp.Diff(want, run(l, 3, 1000, 5*time.Millisecond)); diff != "" {
		t.Error(diff)
	}
	// After a pause the link is free again.
	if at, ok := l.Send(began.Add(time.Second), 1000); !ok || at.Sub(began) != 1028*time.Millisecond {
		t.Errorf("after a pause: %s, %t", at.Sub(began), ok)
	}
}

func TestQueueOverflows(t *testing.T) {
	l := New(Options{Rate: 1_000_000, Queue: 2500}, 1)
	want := []time.Duration{8 * time.Millisecond, 16 * time.Millisecond, -1, -1}
	if diff := cmp.Diff(want, run(l, 4, 1000, 0)); diff != "" { // the second waits for 1,000 bytes, the third would wait for 2,000
		t.Error(diff)
	}
	if at, ok := l.Send(began.Add(8*time.Millisecond), 1000); !ok || at.Sub(began) != 24*time.Millisecond {
		t.Errorf("when there is room again: %s, %t", at.Sub(began), ok)
	}
	if diff := cmp.Diff(Stats{Sent: 5, Overflowed: 2}, l.Stats()); diff != "" {
		t.Error(diff)
	}
	// A packet larger than the queue passes an idle link.
	if _, ok := New(Options{Rate: 1_000_000, Queue: 100}, 1).Send(began, 1000); !ok {
		t.Error("an idle link refuses a large packet")
	}
}

func TestLossAndReordering(t *testing.T) {
	const n = 20000
	l := New(Options{Delay: time.Millisecond, Loss: 0.1, Reorder: 0.05}, 3)
	arrivals := run(l, n, 100, 100*time.Microsecond)
	lost, late := 0, 0
	last := time.Duration(0)
	for i, at := range arrivals {
		sent := time.Duration(i) * 100 * time.Microsecond
		switch {
		case at < 0:
			lost++
		case at == sent+2*time.Millisecond:
			late++
		case at != sent+time.Millisecond || at < last:
			t.Fatalf("packet %d arrives at %s", i, at)
		default:
			last = at
		}
	}
	if lost != l.Stats().Lost || late != l.Stats().Reordered || lost < n/11 || lost > n/9 || late < n/25 || late > n/18 {
		t.Errorf("%d lost and %d late of %d; the link says %+v", lost, late, n, l.Stats())
	}
}

func TestJitterKeepsOrder(t *testing.T) {
	o := Options{Delay: 10 * time.Millisecond, Jitter: 5 * time.Millisecond}
	arrivals := run(New(o, 1), 1000, 100, 100*time.Microsecond)
	varies := false
	for i, at := range arrivals {
		sent := time.Duration(i) * 100 * time.Microsecond
		if at < sent+o.Delay || at > sent+o.Delay+o.Jitter || i > 0 && at < arrivals[i-1] {
			t.Fatalf("packet %d, sent at %s, arrives at %s after %s", i, sent, at, arrivals[i-1])
		}
		varies = varies || at != sent+o.Delay
	}
	if !varies {
		t.Error("there is no jitter")
	}
}

func TestOnlyTheSeedDecides(t *testing.T) {
	o := Options{Delay: time.Millisecond, Jitter: time.Millisecond, Rate: 10_000_000, Loss: 0.2, Reorder: 0.2}
	a := run(New(o, 5), 500, 700, 300*time.Microsecond)
	if diff := cmp.Diff(a, run(New(o, 5), 500, 700, 300*time.Microsecond)); diff != "" {
		t.Error(diff)
	}
	if cmp.Equal(a, run(New(o, 6), 500, 700, 300*time.Microsecond)) {
		t.Error("two seeds make no difference")
	}
}

// TestRateAgainstQueue compares with a naive queue that is kept packet by packet.
func TestRateAgainstQueue(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		o := Options{Rate: 8_000_000, Queue: 1000 + rng.IntN(5000)} // a byte takes a microsecond
		l := New(o, seed)
		now := began
		type packet struct {
			leaves time.Time
			size   int
		}
		var queue []packet
		for range 300 {
			now = now.Add(time.Duration(rng.IntN(1500)) * time.Microsecond)
			for len(queue) > 0 && !queue[0].leaves.After(now) {
				queue = queue[1:]
			}
			size, start, waiting := 1+rng.IntN(1500), now, 0
			if len(queue) > 0 {
				start = queue[len(queue)-1].leaves
				waiting = int(start.Sub(now) / time.Microsecond)
			}
			at, ok := l.Send(now, size)
			if want := len(queue) == 0 || waiting+size <= o.Queue; ok != want {
				t.Fatalf("seed %d: %d bytes wait of %d at most, %d more: %t", seed, waiting, o.Queue, size, ok)
			}
			if !ok {
				continue
			}
			want := start.Add(time.Duration(size) * time.Microsecond)
			if d := at.Sub(want); d > time.Microsecond || d < -time.Microsecond {
				t.Fatalf("seed %d: arrives at %s, want %s", seed, at.Sub(began), want.Sub(began))
			}
			queue = append(queue, packet{at, size})
		}
	}
}

func TestCheck(t *testing.T) {
	for want, o := range map[string]Options{
		"negative":      {Delay: -1},
		"0 to 1":        {Loss: 1.5},
		"-5 bit/s":      {Rate: -5},
		"no queue":      {Queue: 5},
		"reordering of": {Reorder: -0.1},
	} {
		if err := o.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v; want %q", o, err, want)
		}
	}
	if err := (Options{Delay: 1, Rate: 1, Queue: 1, Loss: 1}).Check(); err != nil {
		t.Error(err)
	}
}
