package netmon

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// drive runs a monitor whose source and sleep are the test's, in fake time, and gives the events with their times in milliseconds.
func drive(t *testing.T, play func(notify func(), sleep func(time.Duration))) []int64 {
	var at []int64
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		var slept atomic.Int64
		var out chan<- struct{}
		ready := make(chan struct{})
		m := New(Config{OnEvent: func(e Event) {
			ms := time.Since(began).Milliseconds()
			if e.Woke {
				ms = -ms
			}
			at = append(at, ms)
		}})
		m.asleep, m.ticks = func() time.Duration { return time.Duration(slept.Load()) }, tickMonotonic
		m.look = func(string) string { return time.Now().String() } // always another
		m.source = func(ctx context.Context, _ string, changed chan<- struct{}) error {
			out = changed
			close(ready)
			<-ctx.Done()
			return nil
		}
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		<-ready
		play(func() { notify(out) }, func(d time.Duration) { slept.Add(int64(d)) })
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return at
}

func pass(d time.Duration) { <-time.After(d) }

func TestSettles(t *testing.T) {
	got := drive(t, func(notify func(), _ func(time.Duration)) {
		for range 5 { // a burst counts once, after it is over
			notify()
			pass(50 * time.Millisecond)
		}
		pass(time.Second)
		notify()
		pass(time.Second)
	})
	if diff := cmp.Diff([]int64{300, 1350}, got); diff != "" {
		t.Error(diff)
	}
}

func TestUnceasingChangeIsReported(t *testing.T) {
	got := drive(t, func(notify func(), _ func(time.Duration)) {
		for range 60 {
			notify()
			pass(20 * time.Millisecond)
		}
		pass(time.Second)
	})
	if len(got) < 2 || got[0] > 1100 {
		t.Errorf("events at %v ms; want one within about a second", got)
	}
}

func TestSameAsBeforeIsNoEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		events := 0
		m := New(Config{OnEvent: func(Event) { events++ }})
		m.look, m.ticks = func(string) string { return "the same" }, tickMonotonic
		m.source = func(ctx context.Context, _ string, changed chan<- struct{}) error {
			notify(changed)
			<-ctx.Done()
			return nil
		}
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		pass(5 * time.Second)
		cancel()
		<-done
		if events != 0 {
			t.Errorf("%d events though nothing was different", events)
		}
	})
}

func TestSleep(t *testing.T) {
	got := drive(t, func(_ func(), sleep func(time.Duration)) {
		pass(3 * time.Second)
		sleep(time.Second) // too short to matter
		pass(2500 * time.Millisecond)
		sleep(time.Hour)
		pass(5 * time.Second)
	})
	if diff := cmp.Diff([]int64{-6000}, got); diff != "" {
		t.Error(diff)
	}
}

func TestFailedSourceIsOpenedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		opened, events := 0, 0
		m := New(Config{OnEvent: func(Event) { events++ }})
		m.look, m.ticks = func(string) string { return time.Now().String() }, tickMonotonic
		m.source = func(ctx context.Context, _ string, _ chan<- struct{}) error {
			if opened++; opened < 3 {
				return errors.New("broken")
			}
			<-ctx.Done()
			return nil
		}
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		pass(5 * time.Second)
		synctest.Wait()
		if opened != 3 || events != 2 {
			t.Errorf("opened %d times, %d events", opened, events)
		}
		cancel()
		<-done
	})
}

// TestStopped: a tick that comes much too late tells of a stop, though no clock stood still; one that comes a little late does not, nor do those
// after an event that took long.
func TestStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		var at []time.Duration
		m := New(Config{OnEvent: func(e Event) {
			if e.Woke {
				at = append(at, time.Since(began))
			}
			pass(30 * time.Second)
		}})
		m.look, m.asleep = func(string) string { return "the same" }, func() time.Duration { return 0 }
		m.source = func(ctx context.Context, _ string, _ chan<- struct{}) error {
			<-ctx.Done()
			return nil
		}
		m.ticks = func(ctx context.Context, every time.Duration, tick chan<- struct{}) {
			for _, late := range []time.Duration{0, sleepGap, 0, sleepGap + time.Millisecond, 30 * time.Second, 0} {
				pass(every + late)
				notify(tick)
			}
		}
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		pass(5 * time.Minute)
		cancel()
		<-done
		// 2 + 5 + 2 + 5.001 s
		if diff := cmp.Diff([]time.Duration{14*time.Second + time.Millisecond}, at); diff != "" {
			t.Error(diff)
		}
	})
}
