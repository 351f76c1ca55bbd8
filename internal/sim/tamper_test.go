package sim

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"warren/internal/sim/natmodel"
	"warren/nat/path"
)

// Each invariant sees what it is there to see: with a core that behaves, something is done that a core must not do.
func TestInvariantsSee(t *testing.T) {
	easy := *natmodel.Easy()
	often := func(w *world, do func()) {
		var again func()
		again = func() { do(); w.after(20*time.Millisecond, again) }
		again()
	}
	for want, tamper := range map[string]func(w *world, a, b *device){
		"which never answered": func(w *world, a, b *device) {
			p := a.link(b).path
			p.Remote = netip.AddrPortFrom(p.Remote.Addr(), 9)
			a.setPath(path.SetPath{Peer: b.id, Path: p})
		},
		"last answered": func(w *world, a, b *device) {
			old := a.link(b).path
			w.cuts[[2]*box{w.boxes[0], w.boxes[1]}] = true
			a.goodSince = w.now.Add(time.Hour) // or else it would be seen that nothing arrives
			often(w, func() { a.link(b).path = old })
		},
		"into the void": func(w *world, a, b *device) {
			a.core.Handle(w.now, path.SetRelay{}) // it thinks that it has no relay
			w.cuts[[2]*box{w.boxes[0], w.boxes[1]}] = true
			w.change(false)
		},
		"no direct path": func(w *world, a, b *device) { delete(w.boxes[1].hosts, b.ifaces[0].v4); w.change(false) },
		"black hole": func(w *world, a, b *device) {
			w.startFlow(flow{from: a, to: b, every: 50 * time.Millisecond, long: true})
			w.boxes[0].largest = 1300
			often(w, func() { a.link(b).path.MTU = tunnelMTU })
		},
		"though nothing changes": func(w *world, a, b *device) {
			often(w, func() { a.setPath(path.SetPath{Peer: b.id, Path: a.link(b).path, Cause: path.Better}) })
		},
		"though nothing has changed": func(w *world, a, b *device) {
			a.setPath(path.SetPath{Peer: b.id, Path: path.Path{Kind: path.Relay}, Cause: path.Unanswered})
		},
		"the model thinks impossible": func(w *world, a, b *device) {
			w.boxes[1].v4 = natmodel.New(natmodel.Options{NoUDP: true}, easy1, 1)
			a.setPath(path.SetPath{Peer: b.id, Path: a.link(b).path, Cause: path.Found})
		},
		"checks in a second": func(w *world, a, b *device) {
			for range 200 {
				a.do(path.SendCheck{Peer: b.id, Pair: a.link(b).path.Pair})
			}
		},
		"signals in a second": func(w *world, a, b *device) {
			for range 30 {
				a.do(path.SendSignal{Peer: b.id})
			}
		},
		"has no path": func(w *world, a, b *device) { often(w, func() { a.link(b).path = path.Path{} }) },
		"to a third party": func(w *world, a, b *device) {
			w.lied = w.now
			often(w, func() { a.do(path.SendCheck{Peer: b.id, Pair: path.Pair{Remote: netip.AddrPortFrom(victim, 1)}}) })
		},
		"extra sockets": func(w *world, a, b *device) { hold(a) },
		"in an idle hour": func(w *world, a, b *device) {
			w.after(30*time.Minute, func() { a.signal(path.SendSignal{Peer: b.id}) })
			w.rest()
		},
		"sessions after an idle hour": func(w *world, a, b *device) {
			w.stopFlow(a, b)
			w.run(time.Second)
			a.link(b).configured = false
			w.rest()
		},
	} {
		t.Run(want, func(t *testing.T) {
			w := scene(1, easy, easy)
			a, b := w.talk()
			w.run(settled + directSlow)
			if w.failure != nil || !direct(a, b) {
				t.Fatalf("before: %v, %v", a.link(b).path, w.failure)
			}
			tamper(w, a, b)
			w.run(3 * time.Minute)
			if w.failure == nil || !strings.Contains(w.failure.Error(), want) {
				t.Errorf("%.300v", w.failure)
			}
		})
	}
}

var easy1 = netip.MustParseAddr("203.0.113.11")

// hold opens sockets that nobody asked for.
func hold(d *device) {
	for s := range uint16(300) {
		d.extra[s+1] = 10001 + s
	}
}

// The drawing shows who is where, and the last packets, each with its fate.
func TestDrawing(t *testing.T) {
	w := scene(1, *natmodel.Easy(), *natmodel.Easy())
	w.talk()
	w.run(200 * time.Millisecond)
	got := w.drawing()
	for _, want := range []string{
		"a: 192.168.0.2 behind site 1 203.0.113.10 (endpoint-independent mapping",
		"\n            a       b       \n",
		"    1.0000  *       |       path to b: relay",
		"|------>|       call, by relay, 20ms on the way",
		"|<------|       signal, by relay, 20ms on the way",
		"x       |       check 203.0.113.10:4000 > 192.168.1.3:4001, no such host",
		"*       |       path to b: direct 203.0.113.11:4001 (a direct path answers)",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}
