package gateway_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"warren/internal/agenda"
	"warren/tunnel/gateway"
	"warren/tunnel/gateway/choose"
)

// busy is a world of two gateways and agents with traffic, all of whom use the first one.
func busy(t *testing.T, seed uint64, agents int) *world {
	t.Helper()
	w := newWorld(t, seed, agents, 200, 100)
	for i := range agents {
		w.after(time.Duration(w.rand.IntN(1000))*time.Millisecond, func() { w.agent(i).traffic(lan) })
	}
	w.run(20 * time.Second)
	w.all(0, 1)
	return w
}

// all checks that every agent uses a gateway, after so many changes.
func (w *world) all(g, changes int) {
	w.t.Helper()
	for _, d := range w.devices {
		if d.id[0] == 'a' && (d.chosen[lan] != gatewayID(g) || d.changes != changes) {
			w.t.Errorf("agent %s uses %s after %d changes, not gateway %d after %d", name(d.id), name(d.chosen[lan]), d.changes, g, changes)
		}
	}
}

// TestReturn shows when agents go back to the preferred gateway: after it was well for 10 s, then 20 s, and so on.
func TestReturn(t *testing.T) {
	w := busy(t, 1, 3)
	g := w.gateway(0)
	changes := 1
	for _, hold := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 300 * time.Second, 300 * time.Second} {
		g.noLAN = true
		w.run(5 * time.Second)
		changes++
		w.all(1, changes)
		g.noLAN = false
		w.run(hold - time.Second)
		w.all(1, changes)
		w.run(3 * time.Second)
		changes++
		w.all(0, changes)
	}
	w.run(11 * time.Minute)
	g.noLAN = true
	w.run(5 * time.Second)
	g.noLAN = false
	w.run(12 * time.Second)
	w.all(0, changes+2) // all is forgiven
}

// TestFlapping has a gateway come and go without an end.
func TestFlapping(t *testing.T) {
	for name, flap := range map[string]func(g *device, up bool){
		"LAN":    func(g *device, up bool) { g.noLAN = !up },
		"uplink": func(g *device, up bool) { g.offline = !up },
	} {
		t.Run(name, func(t *testing.T) {
			w := busy(t, 2, 2)
			for range 40 { // 20 minutes
				flap(w.gateway(0), false)
				w.run(8 * time.Second)
				flap(w.gateway(0), true)
				w.run(22 * time.Second)
			}
			for i := range 2 {
				if n := w.agent(i).changes; n > 8 {
					t.Errorf("agent %d changed %d times", i, n)
				}
			}
		})
	}
}

// TestAllDead shows that the last choice stays when nobody answers, and that connections through it go on afterwards.
func TestAllDead(t *testing.T) {
	for name, c := range map[string]struct{ break_, mend func(w *world) }{
		"gateways off the net": {func(w *world) { w.gateway(0).offline, w.gateway(1).offline = true, true },
			func(w *world) { w.gateway(0).offline, w.gateway(1).offline = false, false }},
		"agents off the net": {func(w *world) { w.agent(0).offline, w.agent(1).offline = true, true },
			func(w *world) { w.agent(0).offline, w.agent(1).offline = false, false }},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(3) {
				w := busy(t, seed, 2)
				for _, d := range []time.Duration{300, 1000, 1500, 3000, 20_000, 120_000} {
					c.break_(w)
					w.run(d * time.Millisecond)
					c.mend(w)
					w.run(30 * time.Second)
					w.all(0, 1)
					if t.Failed() {
						t.Fatalf("seed %d, %s", seed, d*time.Millisecond)
					}
				}
			}
		})
	}
}

// TestLANGone has both gateways lose their LAN at the same time. One finds out before the other, so that agents may try the other one first.
func TestLANGone(t *testing.T) {
	w := busy(t, 1, 2)
	w.gateway(0).noLAN, w.gateway(1).noLAN = true, true
	w.run(time.Minute)
	changes := w.agent(0).changes
	if changes > 2 {
		t.Errorf("%d changes", changes)
	}
	w.run(5 * time.Minute)
	w.gateway(0).noLAN, w.gateway(1).noLAN = false, false
	w.run(30 * time.Second)
	for i := range 2 {
		if a := w.agent(i); a.chosen[lan] != gatewayID(0) || a.changes > changes+1 {
			t.Errorf("agent %d uses %s after %d more changes", i, name(a.chosen[lan]), a.changes-changes)
		}
	}
}

// TestSleep has agents sleep, and their clocks set, under traffic.
func TestSleep(t *testing.T) {
	for name, jump := range map[string]time.Duration{"an hour": time.Hour, "a few seconds": 4 * time.Second, "back": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			w := busy(t, 4, 1)
			a := w.agent(0)
			// What is under way meanwhile is lost.
			w.plans, a.active = agenda.Agenda{}, false
			w.now = w.now.Add(jump)
			for _, d := range w.devices {
				if d != a {
					d.start()
				}
			}
			a.doChoose(nil)
			a.traffic(lan)
			w.run(20 * time.Second)
			w.all(0, 1)
		})
	}
}

// TestRestart has gateways restart, which know nothing of their users then.
func TestRestart(t *testing.T) {
	w := busy(t, 5, 5)
	w.gateway(0).noLAN = true
	w.run(5 * time.Second)
	w.all(1, 2)
	w.handsAgree(0)
	w.gateway(0).start() // still without its LAN
	w.run(5 * time.Second)
	w.all(1, 2)
	w.handsAgree(1)
}

// TestLate has words take up to three seconds, so that they overtake each other. What all know in the end is what is true.
func TestLate(t *testing.T) {
	for seed := range uint64(10) {
		w := newWorld(t, seed, 4, 200, 100)
		for i := range 4 {
			w.agent(i).traffic(lan)
		}
		w.run(10 * time.Second)
		w.delay = func(_, _ gateway.ID) time.Duration { return time.Duration(w.rand.IntN(3000)) * time.Millisecond }
		w.loss = 0.1
		for range 30 {
			w.gateway(w.rand.IntN(2)).noLAN = w.rand.IntN(2) == 0
			w.run(time.Duration(w.rand.IntN(1500)) * time.Millisecond)
		}
		w.loss = 0
		w.run(10 * time.Second)
		w.delay = func(_, _ gateway.ID) time.Duration { return 10 * time.Millisecond }
		w.run(10 * time.Second)
		for i := range 4 {
			for j, g := range w.agent(i).choose.Status()[0].Gateways {
				if want := w.gateway(j).health[lan]; g.LAN != want {
					t.Errorf("seed %d: agent %d believes that the LAN of gateway %d is %s, and it is %s", seed, i, j, g.LAN, want)
				}
			}
		}
		w.handsAgree(seed)
	}
}

// TestIdle shows what an idle agent costs, and that it knows the state of its gateways all the same.
func TestIdle(t *testing.T) {
	w := newWorld(t, 6, 1, 200, 100)
	w.run(time.Minute)
	for _, g := range []*device{w.gateway(0), w.gateway(1)} { // whose words among themselves are not counted
		g.doChoose(choose.SetRoutes{})
	}
	w.words = 0
	w.run(10 * time.Minute)
	if most := 2 * 2 * 600 / 25; w.words > most || w.words < most-8 {
		t.Errorf("%d words in 10 minutes, not %d", w.words, most)
	}
	w.gateway(0).down = true
	w.run(40 * time.Second)
	w.all(1, 2)

	w = newWorld(t, 7, 1, 100)
	w.run(10 * time.Minute)
	if w.words > 0 {
		t.Errorf("%d words with a gateway that has no alternative", w.words)
	}
}

// TestTraffic shows that the first packet has the gateways asked at once: one that has died unseen is found out in time.
func TestTraffic(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(t, seed, 1, 200, 100)
		w.run(40*time.Second + time.Duration(w.rand.IntN(25000))*time.Millisecond)
		w.gateway(0).down = true
		a := w.agent(0)
		a.traffic(lan)
		w.run(5 * time.Second)
		if a.worst > 1500*time.Millisecond || a.chosen[lan] != gatewayID(1) {
			t.Errorf("seed %d: without for %s, uses %s", seed, a.worst, name(a.chosen[lan]))
		}
	}
}

var nested = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), lan, netip.MustParsePrefix("10.1.4.0/22")}

// expect is what an agent is to use for a CIDR when all has been quiet for long: by the rules, read naively.
func (w *world) expect(p netip.Prefix) gateway.ID {
	var best choose.Route
	for _, r := range w.routes {
		if r.Prefix == p && w.devices[r.Gateway].serves(p) && (best.Gateway == gateway.ID{} || r.Priority > best.Priority) {
			best = r
		}
	}
	return best.Gateway
}

// TestChaos breaks and mends gateways of nested CIDRs at random. Whatever happens, an agent with traffic is not without for long if there is a
// gateway that has worked for a while, and in the end all is as the naive rules say.
func TestChaos(t *testing.T) {
	for seed := range uint64(10) {
		chaos(t, seed)
	}
}

func FuzzChaos(f *testing.F) {
	f.Add(uint64(1000))
	f.Fuzz(chaos)
}

func chaos(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 9))
	var routes []choose.Route
	priorities := r.Perm(200)
	for i := range 2 + r.IntN(3) {
		for _, p := range nested {
			if r.IntN(2) == 0 {
				routes = append(routes, choose.Route{Prefix: p, Gateway: gatewayID(i), Priority: uint8(1 + priorities[len(routes)])})
			}
		}
	}
	if len(routes) == 0 {
		return
	}
	w := newWorldOf(t, seed, 2, routes)
	about := routes[r.IntN(len(routes))].Prefix
	a := w.agent(0)
	a.traffic(about)
	var gateways []*device
	for _, d := range w.devices {
		if d.id[0] == 'g' {
			gateways = append(gateways, d)
		}
	}
	slices.SortFunc(gateways, func(a, b *device) int { return gateway.Compare(a.id, b.id) })
	stable := map[*device]time.Time{}
	for range 30 {
		g := gateways[r.IntN(len(gateways))]
		switch r.IntN(6) {
		case 0:
			g.offline = !g.offline
		case 1:
			g.noLAN = !g.noLAN
		case 2:
			p := nested[r.IntN(len(nested))]
			g.lost[p] = !g.lost[p]
		case 3:
			if g.down {
				g.start()
			} else {
				g.down = true
			}
		case 4:
			g.offline, g.noLAN = false, false
			clear(g.lost)
		case 5:
			if !g.down {
				g.start()
			}
		}
		stable[g] = w.now
		a.worst, a.works = 0, w.now
		w.run(time.Duration(r.IntN(20_000)) * time.Millisecond)
		// One that carries the very CIDR, and has been well for longer than any hold-off of those that are not.
		ok := slices.ContainsFunc(routes, func(x choose.Route) bool {
			g := w.devices[x.Gateway]
			return x.Prefix == about && g.serves(about) && w.now.Sub(stable[g]) > 30*time.Second
		})
		if limit := 3 * time.Second; ok && a.worst > limit {
			t.Fatalf("seed %d: without for %s", seed, a.worst)
		}
	}
	a.active = r.IntN(4) == 0
	w.run(15 * time.Minute)
	for i := range 2 {
		for _, p := range nested {
			if !slices.ContainsFunc(routes, func(r choose.Route) bool { return r.Prefix == p }) {
				continue
			}
			want, got := w.expect(p), w.agent(i).chosen[p]
			if want != (gateway.ID{}) && got != want {
				t.Errorf("seed %d: agent %d uses %s for %s, not %s", seed, i, name(got), p, name(want))
			}
			if want == (gateway.ID{}) { // a wider one serves, if there is one that works
				by, id := w.agent(i).uses(p)
				wider := false
				for _, q := range nested { // the narrowest of them counts, unless it leads to a gateway that says that it does not reach p
					if to := w.expect(q); q.Bits() < p.Bits() && to != (gateway.ID{}) {
						wider = !slices.ContainsFunc(routes, func(r choose.Route) bool { return r.Prefix == p && r.Gateway == to })
					}
				}
				if g := w.devices[id]; wider && !g.serves(by) {
					t.Errorf("seed %d: agent %d has %s for %s by %s, which does not work, though a wider one does", seed, i, name(id), p, by)
				}
			}
		}
	}
	w.handsAgree(seed)
}
