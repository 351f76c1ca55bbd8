package home

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// world is a device among relays, in virtual time.
type world struct {
	t         testing.TB
	core      *Core
	now, next time.Time
	relays    map[ID]*sim
	chosen    []ID
	changes   []time.Time
	connects  int
}

// sim is a relay.
type sim struct {
	dead      bool
	rtt       time.Duration
	connected bool
	up        bool
	upAt      time.Time
}

func id(n int) ID { return ID{byte(n)} }

func newWorld(t testing.TB, rtts ...int) *world {
	w := &world{t: t, core: New(), now: time.Unix(1000, 0), relays: map[ID]*sim{}}
	var ids []ID
	for i, ms := range rtts {
		w.relays[id(i)] = &sim{rtt: time.Duration(ms) * time.Millisecond}
		ids = append(ids, id(i))
	}
	w.handle(SetRelays{ids})
	return w
}

func (w *world) handle(e Event) {
	actions, next := w.core.Handle(w.now, e)
	w.next = next
	for _, a := range actions {
		switch a := a.(type) {
		case Connect:
			r := w.relays[a.Relay]
			if r.connected {
				w.t.Fatalf("relay %d is connected already", a.Relay[0])
			}
			w.connects++
			r.connected, r.upAt = true, w.now.Add(3*r.rtt)
		case Disconnect:
			r := w.relays[a.Relay]
			if !r.connected {
				w.t.Fatalf("relay %d is not connected", a.Relay[0])
			}
			r.connected, r.up = false, false
		case Chosen:
			w.chosen = a.Relays
			w.changes = append(w.changes, w.now)
		}
	}
	n := 0
	for _, r := range w.relays {
		if r.connected {
			n++
		}
	}
	if n > MaxConnected {
		w.t.Fatalf("%d relays are connected", n)
	}
	if next.Equal(w.now) || !next.IsZero() && next.Before(w.now) {
		w.t.Fatal("wants to be called at once")
	}
	if len(w.chosen) == 2 && w.chosen[0] == w.chosen[1] {
		w.t.Fatal("the standby is the home")
	}
}

func (w *world) run(d time.Duration) {
	const step = 50 * time.Millisecond
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(step) {
		if !w.next.IsZero() && !w.next.After(w.now) {
			w.handle(nil)
		}
		for i := range len(w.relays) {
			r := w.relays[id(i)]
			switch {
			case r.up && r.dead:
				r.up = false
				w.handle(Down{id(i)})
			case r.connected && !r.up && !r.dead && !r.upAt.After(w.now):
				r.up = true
				w.handle(Up{id(i)})
				w.handle(RTT{id(i), r.rtt})
			case r.up && w.now.Sub(r.upAt)%(5*time.Second) < step:
				w.handle(RTT{id(i), r.rtt})
			}
		}
	}
}

func (w *world) connected() (out []int) {
	for i := range len(w.relays) {
		if w.relays[id(i)].connected {
			out = append(out, i)
		}
	}
	return out
}

func (w *world) want(what string, home int, connected ...int) {
	w.t.Helper()
	if len(w.chosen) == 0 || w.chosen[0] != id(home) {
		w.t.Errorf("%s: home is %v, want %d", what, w.chosen, home)
	}
	if diff := cmp.Diff(connected, w.connected()); diff != "" {
		w.t.Errorf("%s: connected relays (-want +got):\n%s", what, diff)
	}
}

func TestNearestIsHome(t *testing.T) {
	w := newWorld(t, 80, 10, 40, 200)
	w.run(20 * time.Second)
	w.want("settled", 1, 1, 2)
	if len(w.changes) > 3 || w.changes[0].Sub(time.Unix(1000, 0)) > 2*time.Second {
		t.Errorf("chosen at %v", w.changes)
	}
	w.handle(Use{id(3)})
	w.run(30 * time.Second)
	w.want("on demand", 1, 1, 2, 3)
	w.run(idleAfter)
	w.want("idle again", 1, 1, 2)
}

func TestAlone(t *testing.T) {
	w := newWorld(t, 30)
	w.run(5 * time.Second)
	w.want("one relay", 0, 0)
	w.relays[id(0)].dead = true
	w.run(5 * time.Minute)
	w.relays[id(0)].dead = false
	w.run(time.Second)
	w.want("back", 0, 0)
	none := newWorld(t)
	if !none.next.IsZero() {
		t.Error("without relays there is nothing to wait for")
	}
}

// TestHomeDies: the standby is home in the same moment, another becomes standby, and the old home is home again when it is back for a while.
func TestHomeDies(t *testing.T) {
	w := newWorld(t, 10, 40, 80)
	w.run(20 * time.Second)
	w.relays[id(0)].dead = true
	w.run(100 * time.Millisecond)
	if w.chosen[0] != id(1) {
		t.Fatalf("home is %v right after", w.chosen)
	}
	w.run(20 * time.Second)
	if len(w.chosen) != 2 || w.chosen[1] != id(2) {
		t.Errorf("no new standby: %v", w.chosen)
	}
	w.relays[id(0)].dead = false
	w.run(surveyEvery + nearerFor + 30*time.Second)
	if diff := cmp.Diff([]ID{id(0), id(1)}, w.chosen); diff != "" {
		t.Errorf("in the end (-want +got):\n%s", diff)
	}
}

// TestHysteresis: no change for little, nor for a moment.
func TestHysteresis(t *testing.T) {
	w := newWorld(t, 40, 44)
	w.run(time.Minute)
	n := len(w.changes)
	for i := range 60 {
		w.relays[id(i%2)].rtt = 36 * time.Millisecond
		w.relays[id(1-i%2)].rtt = 44 * time.Millisecond
		w.run(10 * time.Second)
	}
	w.relays[id(0)].rtt = 400 * time.Millisecond // for a moment
	w.run(nearerFor / 4)
	w.relays[id(0)].rtt = 40 * time.Millisecond
	w.run(5 * time.Minute)
	if len(w.changes) != n {
		t.Errorf("%d changes", len(w.changes)-n)
	}
	w.relays[id(0)].rtt = 400 * time.Millisecond // for good
	w.run(3 * time.Minute)
	w.want("far away", 1, 0, 1)
	if len(w.changes) != n+1 {
		t.Errorf("%d changes for one reason", len(w.changes)-n)
	}
}

// TestMany: of more relays than may be connected, the nearest is found all the same, with few connections.
func TestMany(t *testing.T) {
	var rtts []int
	for i := range 40 {
		rtts = append(rtts, 300-5*i)
	}
	w := newWorld(t, rtts...)
	w.run(3 * time.Minute)
	home, standby := rtts[w.chosen[0][0]], rtts[w.chosen[1][0]]
	if most := 105*4/3 + 7; home > most || standby > most+20 || len(w.connected()) != 2 {
		t.Errorf("home is %d ms away, standby %d ms, the nearest 105 ms; connected %v", home, standby, w.connected())
	}
	w.connects = 0
	w.run(time.Hour)
	if w.connects > 6*41 {
		t.Errorf("%d connections in an hour", w.connects)
	}
	for i := range 40 {
		w.handle(Use{id(i)})
		w.run(100 * time.Millisecond)
	}
	if c := w.connected(); len(c) != MaxConnected || !slices.Contains(c, 39) || !slices.Contains(c, int(w.chosen[0][0])) {
		t.Errorf("on demand: %v, home %d", c, w.chosen[0][0])
	}
	w.run(time.Minute)
	w.handle(Search{})
	if n := len(w.connected()); n != MaxConnected {
		t.Errorf("%d relays are searched", n)
	}
}

func TestRelayRemoved(t *testing.T) {
	w := newWorld(t, 10, 20, 30)
	w.run(20 * time.Second)
	w.handle(SetRelays{[]ID{id(1), id(2), id(1)}})
	w.run(20 * time.Second)
	w.want("without the home", 1, 1, 2)
	w.handle(SetRelays{nil})
	if len(w.chosen) != 0 || len(w.connected()) != 0 {
		t.Errorf("home %v, connected %v", w.chosen, w.connected())
	}
	w.handle(Up{id(1)}) // too late
	if len(w.chosen) != 0 {
		t.Error("a relay that is gone became home")
	}
}

// TestChaos: whatever dies, while any relay has been alive for a while the home is alive, and in the end it is the nearest.
func TestChaos(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var rtts []int
		for range 1 + rng.IntN(12) {
			rtts = append(rtts, 5+rng.IntN(300))
		}
		w := newWorld(t, rtts...)
		for range 60 {
			r := w.relays[id(rng.IntN(len(rtts)))]
			r.dead = !r.dead
			if rng.IntN(4) == 0 {
				w.handle(Use{id(rng.IntN(len(rtts)))})
			}
			if rng.IntN(10) == 0 {
				w.handle(Search{})
			}
			w.run(time.Duration(rng.IntN(60)) * time.Second)
		}
		for _, r := range w.relays {
			r.dead = false
		}
		w.run(surveyEvery + 3*time.Minute)
		best := slices.Min(rtts)
		got := rtts[w.chosen[0][0]]
		if float64(got) > float64(best)*1.34+7 {
			t.Errorf("seed %d: home is %d ms away, the nearest %d ms", seed, got, best)
		}
		if !w.relays[w.chosen[0]].up {
			t.Errorf("seed %d: the home is not up", seed)
		}
	}
}

func ExampleCore() {
	c := New()
	now := time.Unix(0, 0)
	actions, _ := c.Handle(now, SetRelays{[]ID{{1}}})
	fmt.Println(len(actions))
	c.Handle(now, Up{ID{1}})
	actions, _ = c.Handle(now, RTT{ID{1}, 20 * time.Millisecond})
	fmt.Println(actions[0].(Chosen).Relays[0][0])
	// Output:
	// 1
	// 1
}
