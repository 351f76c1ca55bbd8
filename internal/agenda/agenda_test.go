package agenda

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// TestOrder compares with a stable sort, also where things are planned while others happen.
func TestOrder(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		type thing struct {
			At time.Duration
			N  int
		}
		var a Agenda
		var planned, happened []thing
		var plan func(after time.Duration)
		plan = func(after time.Duration) {
			th := thing{after + time.Duration(r.IntN(5))*time.Second, len(planned)}
			planned = append(planned, th)
			a.Plan(begin.Add(th.At), func() {
				happened = append(happened, th)
				if r.IntN(3) == 0 {
					plan(th.At)
				}
			})
		}
		for range 20 {
			plan(0)
		}
		for {
			at, do, ok := a.Next(begin.Add(time.Hour))
			if !ok {
				break
			}
			do()
			if last := happened[len(happened)-1]; !at.Equal(begin.Add(last.At)) {
				t.Fatalf("seed %d: what was planned for %s happens at %s", seed, last.At, at.Sub(begin))
			}
		}
		want := slices.Clone(planned)
		slices.SortStableFunc(want, func(a, b thing) int { return int(a.At - b.At) })
		if d := cmp.Diff(want, happened); d != "" {
			t.Fatalf("seed %d (-want +got):\n%s", seed, d)
		}
	}
}

func TestEnd(t *testing.T) {
	var a Agenda
	if at, ok := a.Due(); ok {
		t.Errorf("an empty agenda has something at %s", at)
	}
	a.Plan(begin.Add(time.Second), func() {})
	if _, _, ok := a.Next(begin.Add(time.Second - 1)); ok {
		t.Error("something happens before its time")
	}
	if at, ok := a.Due(); !ok || !at.Equal(begin.Add(time.Second)) {
		t.Errorf("due: %s, %v", at, ok)
	}
	if _, _, ok := a.Next(begin.Add(time.Second)); !ok {
		t.Error("what is due at the end does not happen")
	}
	if _, _, ok := a.Next(begin.Add(time.Hour)); ok {
		t.Error("something happens twice")
	}
}
