package portmap

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// trouble is something that happens to the network; it returns its name.
var troubles = []func(w *world, g *gateway) string{
	func(w *world, g *gateway) string { g.reboot(w.now); return "reboot" },
	func(w *world, g *gateway) string {
		g.reboot(w.now)
		w.announce(g)
		return "reboot, announced"
	},
	func(w *world, g *gateway) string { w.loss = w.rng.Float64() * 0.7; return "loss" },
	func(w *world, g *gateway) string { w.loss = 1; return "all lost" },
	func(w *world, g *gateway) string { w.loss = 0; return "no loss" },
	func(w *world, g *gateway) string { g.external = private; return "double NAT" },
	func(w *world, g *gateway) string { g.external = public2; return "another address" },
	func(w *world, g *gateway) string { g.external = public; return "public address" },
	func(w *world, g *gateway) string {
		p := Protocols()[w.rng.IntN(3)]
		g.speaks[p] = !g.speaks[p]
		return fmt.Sprintf("%s is %t", p, g.speaks[p])
	},
	func(w *world, g *gateway) string { g.refuse = !g.refuse; return fmt.Sprintf("refuses %t", g.refuse) },
	func(w *world, g *gateway) string {
		for _, p := range Protocols() {
			g.delay[p] = time.Duration(w.rng.IntN(400)) * time.Millisecond
		}
		return "slower"
	},
	func(w *world, g *gateway) string {
		g.table[w.net.Port] = entry{to: netip.MustParseAddrPort("192.168.1.99:1"), until: w.now.Add(time.Hour)}
		return "port taken"
	},
	func(w *world, g *gateway) string { w.handle(SetNetwork{w.net}); return "woke" },
	func(w *world, g *gateway) string { w.move(home); return "home" },
	func(w *world, g *gateway) string { w.move(cafe); return "café" },
	func(w *world, g *gateway) string { n := home; n.Port++; w.move(n); return "another port" },
	func(w *world, g *gateway) string { w.move(Network{}); return "no network" },
}

// move changes the network; what was on its way does not arrive.
func (w *world) move(n Network) {
	w.queue = nil
	w.handle(SetNetwork{n})
}

// announce multicasts that the table is new (RFC 6887 section 14.1.3, RFC 6886 section 3.2.1).
func (w *world) announce(g *gateway) {
	from := netip.AddrPortFrom(w.net.Gateway, 5351)
	if g.speaks[PCP] {
		b := make([]byte, 24)
		b[0], b[1] = 2, 0x80
		binary.BigEndian.PutUint32(b[8:], g.epoch(w.now))
		w.handle(Datagram{From: from, Announced: true, B: b})
	}
	if g.speaks[NATPMP] {
		w.handle(Datagram{From: from, Announced: true, B: g.answerNATPMP(w.now, w.net.Local, []byte{0, 0})})
	}
}

// TestModel lets seeds make trouble, and then asks of the core what the naive gateway says: with a gateway that can, there is a mapping, by the
// best protocol, that works; with one that cannot there is none; it costs little; and nothing is left after Stop.
func TestModel(t *testing.T) {
	const (
		seeds = 400
		// settled is when everything must be right again: the longest back-off, and then some for repetitions.
		settled = maxRetry + time.Minute
	)
	for seed := range uint64(seeds) {
		w := newWorld(t, seed)
		var story []string
		w.handle(SetNetwork{home})
		for range 3 + w.rng.IntN(12) {
			name := troubles[w.rng.IntN(len(troubles))](w, w.gateways[w.net.Gateway])
			d := time.Duration(w.rng.Int64N(int64([]time.Duration{time.Second, time.Minute, time.Hour}[w.rng.IntN(3)])))
			story = append(story, fmt.Sprintf("%s, %s", name, d))
			w.pass(d)
		}
		w.loss = 0
		w.pass(settled)
		fail := func(format string, args ...any) {
			t.Helper()
			t.Errorf("seed %d: %s; published %+v in %+v, %+v; failures %q; after %q",
				seed, fmt.Sprintf(format, args...), w.published, w.net, w.core.Report(), w.failures, story)
		}
		switch best := w.best(); {
		case best == None && w.published != (Mapping{}):
			fail("a mapping that nobody gives")
		case best != None && !w.works():
			fail("the mapping does not work, %s should", best)
		}
		before := w.requests
		w.pass(time.Hour)
		if n := w.requests - before; n > 60 {
			fail("%d requests in an hour in which nothing happens", n)
		}
		w.handle(Stop{})
		w.pass(stopLimit)
		if !w.stopped {
			fail("not stopped")
		}
		if w.best() == PCP && w.ours() != 0 { // without a nonce an older protocol's entry may wait for its end
			fail("%d entries left", w.ours())
		}
		if t.Failed() {
			return
		}
	}
}

// FuzzHandle lets a hostile gateway, or somebody in its place, say anything at any time.
func FuzzHandle(f *testing.F) {
	f.Add([]byte{0, 10, 1, 20, 2, 60, 3, 4, 0, 128, 0, 0, 0, 0, 0, 10, 203, 0, 113, 5})
	f.Add([]byte{4, 12, 0, 128, 0, 0, 0, 0, 0, 10, 203, 0, 113, 5, 5, 200, 6, 0, 7, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		w := newWorld(t, 1)
		w.handle(SetNetwork{home})
		take := func() byte {
			if len(data) == 0 {
				return 0
			}
			b := data[0]
			data = data[1:]
			return b
		}
		for n := 0; len(data) > 0 && n < 100; n++ {
			switch take() % 8 {
			case 0:
				w.pass(time.Duration(take()) * time.Millisecond * 10)
			case 1:
				w.pass(time.Duration(take()) * 2 * time.Second)
			case 2:
				w.loss = float64(take()) / 255
			case 3, 4:
				size := min(int(take()), len(data))
				w.handle(Datagram{From: netip.AddrPortFrom(home.Gateway, 5351), Announced: take()%2 == 0, B: data[:min(size, len(data))]})
				data = data[min(size, len(data)):]
			case 5:
				w.handle(Added{Op: uint64(take()), External: netip.AddrPortFrom(netip.AddrFrom4([4]byte{take(), 0, 0, 1}), uint16(take())), Life: time.Duration(take()) * time.Minute})
			case 6:
				w.handle(Found{Op: uint64(take()), External: netip.AddrFrom4([4]byte{take(), 0, 0, 1}), Reason: Reason(take() % 10)})
			case 7:
				w.handle([]Event{Unreachable{}, SetNetwork{home}, Deleted{uint64(take())}}[take()%3])
			}
		}
		w.handle(Stop{})
		w.pass(stopLimit)
		if !w.stopped {
			t.Fatal("not stopped")
		}
	})
}
