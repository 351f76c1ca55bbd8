package gateway_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"warren/internal/agenda"
	"warren/tunnel/gateway"
	"warren/tunnel/gateway/carry"
	"warren/tunnel/gateway/choose"
)

// world is agents and gateways, in virtual time. All have both cores, as real devices do.
type world struct {
	routes  []choose.Route
	t       testing.TB
	rand    *rand.Rand
	now     time.Time
	plans   agenda.Agenda
	devices map[gateway.ID]*device
	// loss is the share of words that are lost, one way; delay is theirs, from the one to the other.
	loss  float64
	delay func(a, b gateway.ID) time.Duration
	words int
}

type device struct {
	w       *world
	id      gateway.ID
	choose  *choose.Core
	carry   *carry.Core
	wakes   [2]int // the last ones asked for
	chosen  map[netip.Prefix]gateway.ID
	hands   map[carry.HandOver]bool // with To: in force
	health  map[netip.Prefix]gateway.Health
	told    time.Time // when health last changed
	changes int

	down    bool                  // it is off
	offline bool                  // its uplink is
	noLAN   bool                  // its LAN is lost, or it does not forward
	lost    map[netip.Prefix]bool // of these CIDRs only
	active  bool                  // it sends packets
	// works is when packets last got through; worst is the longest time without.
	works time.Time
	worst time.Duration
}

var lan = netip.MustParsePrefix("10.1.0.0/16")

// host is the one in a CIDR that gateways probe, and that agents send packets to.
func host(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	return netip.AddrFrom4([4]byte{b[0], b[1], b[2], 9 + byte(p.Bits())})
}

// newWorld has gateways of one office with the given priorities, and agents that are idle.
func newWorld(t testing.TB, seed uint64, agents int, priorities ...uint8) *world {
	var routes []choose.Route
	for i, p := range priorities {
		routes = append(routes, choose.Route{Prefix: lan, Gateway: gatewayID(i), Priority: p})
	}
	return newWorldOf(t, seed, agents, routes)
}

func newWorldOf(t testing.TB, seed uint64, agents int, routes []choose.Route) *world {
	w := &world{t: t, routes: routes, rand: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1000, 0), devices: map[gateway.ID]*device{}}
	w.delay = func(_, _ gateway.ID) time.Duration { return time.Duration(5+w.rand.IntN(15)) * time.Millisecond }
	for _, r := range routes {
		if w.devices[r.Gateway] == nil {
			w.add(r.Gateway)
		}
	}
	for i := range agents {
		w.add(agentID(i))
	}
	return w
}

// carries are the CIDRs of a device.
func (d *device) carries() (out []carry.CIDR) {
	for _, r := range d.w.routes {
		if r.Gateway != d.id {
			continue
		}
		c := carry.CIDR{Prefix: r.Prefix, Targets: []netip.Addr{host(r.Prefix)}}
		for _, s := range d.w.routes {
			if s.Prefix == r.Prefix && s.Gateway != d.id {
				c.Siblings = append(c.Siblings, s.Gateway)
			}
		}
		out = append(out, c)
	}
	return out
}

func gatewayID(i int) gateway.ID { return gateway.ID{'g', byte(i)} }
func agentID(i int) gateway.ID   { return gateway.ID{'a', byte(i >> 8), byte(i)} }

func name(id gateway.ID) string { return fmt.Sprintf("%x", id[:3]) }

func (w *world) gateway(i int) *device { return w.devices[gatewayID(i)] }
func (w *world) agent(i int) *device   { return w.devices[agentID(i)] }

func (w *world) add(id gateway.ID) *device {
	d := &device{w: w, id: id, chosen: map[netip.Prefix]gateway.ID{}, hands: map[carry.HandOver]bool{},
		health: map[netip.Prefix]gateway.Health{}, lost: map[netip.Prefix]bool{}}
	w.devices[id] = d
	d.start()
	return d
}

// start makes new cores, as a process does that starts.
func (d *device) start() {
	d.down = false
	d.choose = choose.New(choose.Config{Self: d.id, Start: d.w.rand.Uint64() | 1})
	d.carry = carry.New(carry.Config{Self: d.id, Start: d.w.rand.Uint64() | 1})
	clear(d.hands)
	clear(d.chosen)
	var carried []netip.Prefix
	cidrs := d.carries()
	for _, c := range cidrs {
		carried = append(carried, c.Prefix)
	}
	d.doCarry(carry.SetCarried{CIDRs: cidrs})
	d.doChoose(choose.SetRoutes{Routes: d.w.routes, Carried: carried})
}

func (w *world) after(wait time.Duration, do func()) {
	w.plans.Plan(w.now.Add(wait), do)
}

// run lets time pass.
func (w *world) run(d time.Duration) {
	until := w.now.Add(d)
	for {
		at, do, ok := w.plans.Next(until)
		if !ok {
			break
		}
		w.now = at
		do()
	}
	w.now = until
}

func (d *device) doChoose(e choose.Event) {
	if d.down {
		return
	}
	actions, next := d.choose.Handle(d.w.now, e)
	d.wake(0, next, func() { d.doChoose(nil) })
	for _, a := range actions {
		switch a := a.(type) {
		case choose.Send:
			d.send(a.To, a.Ping)
		case choose.Choose:
			if d.chosen[a.Prefix] == a.Gateway {
				d.w.t.Errorf("%x is told twice to use %x", d.id[:3], a.Gateway[:3])
			}
			d.chosen[a.Prefix] = a.Gateway
			d.changes++
		}
	}
}

func (d *device) doCarry(e carry.Event) {
	if d.down {
		return
	}
	actions, next := d.carry.Handle(d.w.now, e)
	d.wake(1, next, func() { d.doCarry(nil) })
	for _, a := range actions {
		switch a := a.(type) {
		case carry.Send:
			d.send(a.To, a.Report)
		case carry.Probe:
			d.w.after(2*time.Millisecond, func() {
				if d.reaches(a.Target) {
					d.doCarry(carry.Echoed(a))
				}
			})
		case carry.Health:
			d.health[a.Prefix], d.told = a.Health, d.w.now
		case carry.HandOver:
			for h := range d.hands {
				if h.Device == a.Device && h.Prefix == a.Prefix {
					delete(d.hands, h)
				}
			}
			if a.To != (gateway.ID{}) {
				d.hands[a] = true
			}
		}
	}
}

// reaches tells whether the host answers, through the LAN of the CIDR that it is in.
func (d *device) reaches(a netip.Addr) bool {
	for _, r := range d.w.routes {
		if r.Gateway == d.id && host(r.Prefix) == a {
			return !d.noLAN && !d.lost[r.Prefix]
		}
	}
	return false
}

// serves tells whether packets for p get through d to where they are to go.
func (d *device) serves(p netip.Prefix) bool {
	return d != nil && !d.down && !d.offline && !d.noLAN && !d.lost[p]
}

// uses is the gateway that d's packets for p go to, and the CIDR that brings them there.
func (d *device) uses(p netip.Prefix) (netip.Prefix, gateway.ID) {
	best := netip.Prefix{}
	for q, id := range d.chosen {
		if id != (gateway.ID{}) && q.Bits() <= p.Bits() && q.Overlaps(p) && (!best.IsValid() || q.Bits() > best.Bits()) {
			best = q
		}
	}
	return best, d.chosen[best]
}

// wake calls a core at the time that it has asked for last.
func (d *device) wake(core int, at time.Time, do func()) {
	d.wakes[core]++
	mine := d.wakes[core]
	if at.IsZero() {
		return
	}
	if !at.After(d.w.now) {
		d.w.t.Fatalf("core %d of %x wants to be called at once, for ever", core, d.id[:3])
	}
	d.w.after(at.Sub(d.w.now), func() {
		if d.wakes[core] == mine {
			do()
		}
	})
}

func (d *device) send(to gateway.ID, word gateway.Word) {
	b, err := gateway.Append(nil, word)
	if err != nil {
		d.w.t.Fatal(err)
	}
	d.w.words++
	if d.w.rand.Float64() < d.w.loss || d.offline {
		return
	}
	d.w.after(d.w.delay(d.id, to), func() {
		peer := d.w.devices[to]
		if peer.down || peer.offline {
			return
		}
		word, err := gateway.Parse(b)
		if err != nil {
			d.w.t.Fatal(err)
		}
		switch word := word.(type) {
		case gateway.Ping:
			peer.doCarry(carry.Heard{Device: d.id, Ping: word})
		case gateway.Report:
			peer.doChoose(choose.Heard{Gateway: d.id, Report: word})
		}
	})
}

// traffic has a device send a packet for a CIDR every 10 ms, and notes what becomes of them.
func (d *device) traffic(about netip.Prefix) {
	d.active, d.works = true, d.w.now
	noted := time.Time{}
	received := map[gateway.ID]time.Time{}
	var packet func()
	packet = func() {
		if !d.active {
			return
		}
		w := d.w
		if w.now.Sub(noted) >= time.Second {
			noted = w.now
			by, _ := d.uses(about)
			d.doChoose(choose.Sent{Prefix: by})
		}
		by, id := d.uses(about)
		if g := w.devices[id]; g.serves(by) && !d.offline && !d.down {
			d.works = w.now
			if w.now.Sub(received[g.id]) >= 200*time.Millisecond {
				received[g.id] = w.now
				d.doChoose(choose.Received{Gateway: g.id})
			}
		}
		d.worst = max(d.worst, w.now.Sub(d.works))
		w.after(10*time.Millisecond, packet)
	}
	packet()
}

// TestSwitchOver breaks the preferred gateway in each of the ways that there are, under traffic of several agents, and measures for how long their
// packets are lost.
func TestSwitchOver(t *testing.T) {
	for _, c := range []struct {
		name  string
		loss  float64
		bound time.Duration
		fault func(g *device)
	}{
		{"it dies", 0, 2 * time.Second, func(g *device) { g.down = true }},
		{"its uplink dies", 0, 2 * time.Second, func(g *device) { g.offline = true }},
		{"it loses its LAN", 0, 1200 * time.Millisecond, func(g *device) { g.noLAN = true }},
		{"it is stopped", 0, 50 * time.Millisecond, func(g *device) { g.doCarry(carry.Leave{}); g.down = true }},
		{"it dies, and a tenth of the words is lost", 0.1, 2500 * time.Millisecond, func(g *device) { g.down = true }},
		{"it loses its LAN, and a tenth of the words is lost", 0.1, 1700 * time.Millisecond, func(g *device) { g.noLAN = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var all []time.Duration
			for seed := range uint64(4) {
				w := newWorld(t, seed, 5, 200, 100)
				w.loss = c.loss
				for i := range 5 {
					w.after(time.Duration(w.rand.IntN(1000))*time.Millisecond, func() { w.agent(i).traffic(lan) })
				}
				w.run(30*time.Second + time.Duration(w.rand.IntN(1000))*time.Millisecond)
				for i := range 5 {
					if a := w.agent(i); a.chosen[lan] != gatewayID(0) || a.worst > 0 {
						t.Fatalf("seed %d: agent %d uses %s, and was without for %s", seed, i, name(a.chosen[lan]), a.worst)
					}
				}
				c.fault(w.gateway(0))
				w.run(5 * time.Second)
				for i := range 5 {
					a := w.agent(i)
					if all = append(all, a.worst); a.worst > c.bound || a.chosen[lan] != gatewayID(1) || a.changes != 2 {
						t.Errorf("seed %d: agent %d was without for %s, %d changes, uses %s", seed, i, a.worst, a.changes, name(a.chosen[lan]))
					}
				}
				w.handsAgree(seed)
			}
			t.Log(summary(all))
		})
	}
}

// handsAgree checks that each gateway that is up hands the packets for each agent to the one that it uses.
func (w *world) handsAgree(seed uint64) {
	w.t.Helper()
	for _, r := range w.routes {
		g := w.devices[r.Gateway]
		if g.down || g.offline {
			continue
		}
		for _, a := range w.devices {
			if a.id[0] != 'a' || a.offline || a.down {
				continue
			}
			use := a.chosen[r.Prefix]
			if got := g.hands[carry.HandOver{Device: a.id, Prefix: r.Prefix, To: use}]; got != (use != g.id && use != gateway.ID{}) {
				w.t.Errorf("seed %d: agent %s uses %s for %s, and gateway %s hands over: %v", seed, name(a.id), name(use), r.Prefix, name(g.id), got)
			}
		}
	}
}

func summary(all []time.Duration) string {
	sum, worst := time.Duration(0), time.Duration(0)
	for _, d := range all {
		sum, worst = sum+d, max(worst, d)
	}
	return fmt.Sprintf("mean %s, worst %s of %d", sum/time.Duration(len(all)), worst, len(all))
}

// TestToldInTime shows that every agent in session hears of a lost LAN within half a second of the gateway's finding out.
func TestToldInTime(t *testing.T) {
	for _, loss := range []float64{0, 0.2} {
		w := newWorld(t, 3, 300, 200, 100)
		w.run(time.Minute) // all are idle, and in session because there is a choice
		w.agent(0).traffic(lan)
		w.run(10 * time.Second)
		w.loss = loss
		w.gateway(0).noLAN = true
		for w.gateway(0).health[lan] != gateway.Failing {
			w.run(time.Millisecond)
		}
		w.run(500 * time.Millisecond)
		untold := 0
		for i := range 300 {
			s := w.agent(i).choose.Status()[0]
			if s.Gateways[0].LAN != gateway.Failing {
				untold++
			}
		}
		if allowed := int(loss * 300 / 50); untold > allowed {
			t.Errorf("with a loss of %v, %d of 300 agents do not know after 500 ms", loss, untold)
		}
	}
}
