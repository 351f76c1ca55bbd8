package carrier

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// world is a device, a relay and a UDP path between them, in virtual time. The WebSocket connection never fails.
type world struct {
	t     testing.TB
	rng   *rand.Rand
	now   time.Time
	d     *Device
	relay Downlink
	next  time.Time
	queue []delivery

	// The path, each way.
	upCut, downCut bool
	loss           float64
	delay          time.Duration
	maxSize        int // of datagrams; 0 for any
	moved          bool

	using       bool
	newest      uint64
	pings       int
	switches    []time.Time
	rtt         time.Duration
	data        bool // both sides send all the time
	upAt, dnAt  time.Time
	worstGap    time.Duration // without a packet that came, in either direction, while data flows
	sentByUDP   int
	lostPackets int
}

type delivery struct {
	at time.Time
	f  func()
}

const step = 10 * time.Millisecond

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1000, 0), delay: 20 * time.Millisecond, d: NewDevice(seed)}
	w.upAt, w.dnAt = w.now, w.now
	return w
}

func (w *world) after(d time.Duration, f func()) {
	w.queue = append(w.queue, delivery{w.now.Add(d), f})
}

func (w *world) handle(e Event) {
	actions, next := w.d.Handle(w.now, e)
	w.next = next
	for _, a := range actions {
		switch a := a.(type) {
		case SendPing:
			w.pings++
			w.ping(a)
		case Use:
			if a.UDP == w.using {
				w.t.Fatalf("told twice to use UDP: %v", a.UDP)
			}
			w.using = a.UDP
			w.switches = append(w.switches, w.now)
			if !a.UDP {
				w.after(w.delay, w.relay.Stop)
			}
		case RTT:
			w.rtt = a.RTT
		}
	}
	if w.d.addresses > 0 && !next.After(w.now) {
		w.t.Fatal("wants to be called at once")
	}
	if len(w.d.pending) > maxPending {
		w.t.Fatalf("%d pings are kept", len(w.d.pending))
	}
}

func (w *world) lost(cut bool, long bool) bool {
	return cut || w.rng.Float64() < w.loss || long && w.maxSize != 0 && w.maxSize < 1452
}

func (w *world) ping(a SendPing) {
	if w.lost(w.upCut, a.Long) {
		return
	}
	w.after(w.delay, func() {
		if w.moved {
			w.moved = false
			w.after(w.delay, func() { w.handle(Challenged{a.ID}) })
			return
		}
		if a.ID > w.newest {
			w.newest = a.ID
			w.relay.Pinged(a.Using)
		}
		if !w.lost(w.downCut, a.Long) {
			w.after(w.delay, func() { w.handle(Answered{a.ID}) })
		}
	})
}

// packets sends one packet each way.
func (w *world) packets() {
	w.handle(Traffic{})
	w.send(w.using, w.upCut, &w.upAt)
	w.send(w.relay.Send(w.now.UnixNano()), w.downCut, &w.dnAt)
}

func (w *world) send(udp, cut bool, came *time.Time) {
	if udp {
		w.sentByUDP++
		if w.lost(cut, false) {
			w.lostPackets++
			return
		}
	}
	w.after(w.delay, func() { *came = w.now })
}

func (w *world) run(d time.Duration) {
	w.worstGap = 0
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(step) {
		due := w.queue
		w.queue = nil
		for _, q := range due {
			if q.at.After(w.now) {
				w.queue = append(w.queue, q)
			} else {
				q.f()
			}
		}
		if !w.next.IsZero() && !w.next.After(w.now) {
			w.handle(nil)
		}
		if w.data {
			w.packets()
			w.worstGap = max(w.worstGap, w.now.Sub(w.upAt), w.now.Sub(w.dnAt))
		} else {
			w.upAt, w.dnAt = w.now, w.now
		}
	}
}

func (w *world) start() *world {
	w.handle(Offered{1})
	w.run(time.Second)
	return w
}

func TestComesUp(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*world)
		want   bool
	}{
		"healthy":             {func(*world) {}, true},
		"far":                 {func(w *world) { w.delay = 250 * time.Millisecond }, true},
		"nothing goes up":     {func(w *world) { w.upCut = true }, false},
		"nothing comes down":  {func(w *world) { w.downCut = true }, false},
		"only short packets":  {func(w *world) { w.maxSize = 1300 }, false},
		"half is lost":        {func(w *world) { w.loss = 0.3 }, true},
		"challenged at first": {func(w *world) { w.moved = true }, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			tc.change(w)
			w.start()
			w.run(5 * time.Second)
			if w.using != tc.want {
				t.Errorf("UDP is used: %v", w.using)
			}
			if tc.want && w.loss == 0 && (w.rtt < 2*w.delay || w.rtt > 2*w.delay+2*step) {
				t.Errorf("round trip %s, the path's is %s", w.rtt, 2*w.delay)
			}
		})
	}
}

// TestFault: whatever direction fails, with traffic or when it begins anew, less than a second is lost, and UDP is used again afterwards.
func TestFault(t *testing.T) {
	for _, delay := range []time.Duration{0, 5 * time.Millisecond, 50 * time.Millisecond, 150 * time.Millisecond} {
		for name, cut := range map[string]func(w *world, v bool){
			"both": func(w *world, v bool) { w.upCut, w.downCut = v, v },
			"up":   func(w *world, v bool) { w.upCut = v },
			"down": func(w *world, v bool) { w.downCut = v },
		} {
			for _, idle := range []bool{false, true} {
				t.Run(fmt.Sprint(name, " ", delay, " idle ", idle), func(t *testing.T) {
					w := newWorld(t, 2)
					w.delay, w.data = delay, !idle
					w.start()
					w.run(20 * time.Second)
					if !w.using {
						t.Fatal("UDP is not used")
					}
					cut(w, true)
					w.data = true
					w.run(3 * time.Second)
					if w.worstGap > time.Second {
						t.Errorf("nothing came for %s", w.worstGap)
					}
					if w.using {
						t.Error("UDP is still used")
					}
					cut(w, false)
					w.run(2 * tryLast)
					if !w.using || w.worstGap > 100*time.Millisecond+2*delay {
						t.Errorf("UDP is used: %v; on the way back nothing came for %s", w.using, w.worstGap)
					}
				})
			}
		}
	}
}

// TestRebound: a NAT gives the device another address.
func TestRebound(t *testing.T) {
	w := newWorld(t, 3)
	w.data = true
	w.start()
	w.run(5 * time.Second)
	w.moved = true
	w.run(5 * time.Second)
	if !w.using || len(w.switches) != 1 {
		t.Errorf("UDP is used: %v, after %d changes", w.using, len(w.switches))
	}
}

// TestLossyPath: lost packets are no reason to change.
func TestLossyPath(t *testing.T) {
	for seed := range uint64(5) {
		w := newWorld(t, seed)
		w.loss, w.data = 0.10, true
		w.start()
		w.run(10 * time.Minute)
		if !w.using || len(w.switches) > 1 {
			t.Errorf("seed %d: UDP is used: %v, after %d changes in ten minutes", seed, w.using, len(w.switches))
		}
	}
}

// TestFewPings: an idle device sends few, used or not, and one without UDP too.
func TestFewPings(t *testing.T) {
	for name, tc := range map[string]struct {
		cut  bool
		most int
	}{"used": {false, 4 * 60}, "blocked": {true, 2*60 + 20}} {
		w := newWorld(t, 4)
		w.upCut = tc.cut
		w.start()
		w.run(time.Minute)
		w.pings = 0
		w.run(time.Hour)
		if w.pings == 0 || w.pings > tc.most {
			t.Errorf("%s: %d pings in an hour", name, w.pings)
		}
	}
	w := newWorld(t, 5)
	w.data = true
	w.start()
	w.pings = 0
	w.run(time.Minute)
	if w.pings > 60*5 {
		t.Errorf("%d pings in a busy minute", w.pings)
	}
}

// TestLyingRelay: challenges and answers without end or sense make the device send no more than it would.
func TestLyingRelay(t *testing.T) {
	w := newWorld(t, 6)
	w.upCut = true
	w.handle(Offered{3})
	for i := range uint64(20000) {
		w.handle(Challenged{6 + i%200})
		w.handle(Answered{1 << 40})
		w.handle(Challenged{w.d.lastID})
	}
	if w.pings > 3*4 || w.using {
		t.Errorf("%d pings; UDP is used: %v", w.pings, w.using)
	}
}

// TestNewSession: what belongs to an old one counts no more.
func TestNewSession(t *testing.T) {
	w := newWorld(t, 7).start()
	old := w.d.lastID
	w.using, w.upCut = false, true
	w.handle(Offered{2})
	if w.d.UDP() {
		t.Error("UDP is used before the new session was answered")
	}
	for id := range old + 1 {
		w.handle(Answered{id})
	}
	if w.d.UDP() {
		t.Error("an answer to an old ping was taken")
	}
	if _, next := w.d.Handle(w.now, Offered{0}); !next.IsZero() {
		t.Error("without addresses there is nothing to wait for")
	}
}

// FuzzDevice: any run of events keeps the bounds, and UDP is used only while pings are answered.
func FuzzDevice(f *testing.F) {
	f.Add([]byte{0, 10, 20, 30, 1, 2, 3})
	f.Add([]byte{5, 5, 5, 5, 255, 255, 128, 7})
	f.Fuzz(func(t *testing.T, b []byte) {
		w := newWorld(t, 8)
		w.handle(Offered{2})
		for _, op := range b {
			switch op % 8 {
			case 0:
				w.upCut = !w.upCut
			case 1:
				w.downCut = !w.downCut
			case 2:
				w.data = !w.data
			case 3:
				w.moved = true
			case 4:
				w.loss = float64(op) / 255
			case 5:
				w.handle(Challenged{w.d.lastID - uint64(op/8)})
			default:
				w.run(time.Duration(op) * 20 * time.Millisecond)
			}
		}
		w.upCut = true
		w.data = true
		w.run(2 * time.Second)
		if w.using || w.d.UDP() {
			t.Fatal("UDP is used though nothing was answered for 2 seconds")
		}
		w.upCut, w.downCut, w.loss, w.moved = false, false, 0, false
		w.run(tryLast + 2*time.Second)
		if !w.using {
			t.Fatal("UDP is not used though it works")
		}
	})
}
