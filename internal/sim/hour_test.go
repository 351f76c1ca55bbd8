package sim

import (
	"testing"
	"time"

	"warren/internal/sim/linkmodel"
	"warren/internal/sim/natmodel"
	"warren/nat/path"
)

// links are what a path that is healthy may be like.
var links = map[string]linkmodel.Options{
	"calm":   {Delay: 5 * time.Millisecond},
	"far":    {Delay: 80 * time.Millisecond},
	"jitter": {Delay: 20 * time.Millisecond, Jitter: 15 * time.Millisecond, Reorder: 0.02},
	"loss":   {Delay: 20 * time.Millisecond, Loss: 0.01},
}

// hour makes two devices with a direct path over each kind of link, and hands them to do, and then, an hour later, to after.
func hour(t *testing.T, do, after func(t *testing.T, w *world, a, b *device)) {
	for name, link := range links {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := scene(1, *natmodel.Easy(), *natmodel.Easy())
			w.boxes[0].setLink(link, 1)
			a, b := w.devices[0], w.devices[1]
			do(t, w, a, b)
			if took := w.until(10*time.Second, func() bool { return direct(a, b) }); !direct(a, b) {
				t.Fatalf("no direct path after %s; %v", took, w.failure)
			}
			w.run(10 * time.Second)
			before := w.stats.Demotions
			w.run(time.Hour)
			if n := w.stats.Demotions - before; n != 0 || w.failure != nil {
				t.Errorf("%d direct paths were given up; %v", n, w.failure)
			}
			after(t, w, a, b)
		})
	}
}

func staysDirect(t *testing.T, _ *world, a, b *device) {
	if !direct(a, b) {
		t.Errorf("in the end %s and %s", a.link(b).path.Kind, b.link(a).path.Kind)
	}
}

// TestOneWayStreamIsNeverDemoted: packets that nobody answers are no reason to give a healthy path up.
func TestOneWayStreamIsNeverDemoted(t *testing.T) {
	hour(t, func(_ *testing.T, w *world, a, b *device) {
		w.startFlow(flow{from: a, to: b, every: 40 * time.Millisecond})
	}, staysDirect)
}

// TestNoDemotionInAnHourOfLoad has streams in both directions, one of long packets and one that is answered.
func TestNoDemotionInAnHourOfLoad(t *testing.T) {
	hour(t, func(_ *testing.T, w *world, a, b *device) {
		w.startFlow(flow{from: a, to: b, every: 60 * time.Millisecond, long: true})
		w.startFlow(flow{from: b, to: a, every: 80 * time.Millisecond, echo: true})
	}, staysDirect)
}

// TestNoDemotionInAnIdleHour: a session without traffic falls asleep, which is no demotion, and a packet every now and then does it no harm.
func TestNoDemotionInAnIdleHour(t *testing.T) {
	t.Run("nothing", func(t *testing.T) {
		hour(t, func(_ *testing.T, w *world, a, b *device) {
			w.startFlow(flow{from: a, to: b, every: 50 * time.Millisecond, echo: true})
			w.after(3*time.Second, func() { w.stopFlow(a, b) })
		}, func(t *testing.T, _ *world, a, b *device) {
			for _, d := range []*device{a, b} {
				if n := d.core.Sessions(); n != 0 {
					t.Errorf("%s keeps %d sessions", d.name, n)
				}
			}
		})
	})
	t.Run("a packet a time", func(t *testing.T) {
		hour(t, func(_ *testing.T, w *world, a, b *device) {
			w.startFlow(flow{from: a, to: b, every: 20 * time.Second})
		}, staysDirect)
	})
	t.Run("no relay", func(t *testing.T) {
		hour(t, func(_ *testing.T, w *world, a, b *device) {
			w.startFlow(flow{from: a, to: b, every: time.Second, echo: true})
			w.after(5*time.Second, func() {
				w.relays[0].up = false
				w.settleRelays()
				w.change(true)
			})
		}, func(t *testing.T, _ *world, a, b *device) {
			if a.link(b).path.Kind != path.Direct || a.core.Explain(b.id).RelayUp {
				t.Errorf("in the end %+v, with a relay: %v", a.link(b).path, a.core.Explain(b.id).RelayUp)
			}
		})
	})
}
