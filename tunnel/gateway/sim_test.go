package gateway_test

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"warren/tunnel/gateway"
	"warren/tunnel/gateway/carry"
	"warren/tunnel/gateway/choose"
)

// world is agents and the gateways of one office, in virtual time. All have both cores, as real devices do.
type world struct {
	t       testing.TB
	rand    *rand.Rand
	now     time.Time
	queue   queue
	order   int
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

	down    bool // it is off
	offline bool // its uplink is
	noLAN   bool // its LAN is lost, or it does not forward
	active  bool // it sends packets
	// works and broken are when packets last got through, and since when they do not; worst is the longest time without.
	works time.Time
	worst time.Duration
}

type event struct {
	at    time.Time
	order int
	do    func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].order < q[j].order
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

var lan = netip.MustParsePrefix("10.1.0.0/16")

// host is the one that gateways probe, and that agents send packets to.
var host = netip.MustParseAddr("10.1.0.9")

// newWorld has gateways with the given priorities, and agents that are idle.
func newWorld(t testing.TB, seed uint64, agents int, priorities ...uint8) *world {
	w := &world{t: t, rand: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1000, 0), devices: map[gateway.ID]*device{}}
	w.delay = func(_, _ gateway.ID) time.Duration { return time.Duration(5+w.rand.IntN(15)) * time.Millisecond }
	var routes []choose.Route
	for i, p := range priorities {
		routes = append(routes, choose.Route{Prefix: lan, Gateway: gatewayID(i), Priority: p})
	}
	for i := range priorities {
		d := w.add(gatewayID(i))
		var siblings []gateway.ID
		for j := range priorities {
			if j != i {
				siblings = append(siblings, gatewayID(j))
			}
		}
		d.doCarry(carry.SetCarried{CIDRs: []carry.CIDR{{Prefix: lan, Siblings: siblings, Targets: []netip.Addr{host}}}})
		d.doChoose(choose.SetRoutes{Routes: routes, Carried: []netip.Prefix{lan}})
	}
	for i := range agents {
		w.add(agentID(i)).doChoose(choose.SetRoutes{Routes: routes})
	}
	return w
}

func gatewayID(i int) gateway.ID { return gateway.ID{'g', byte(i)} }
func agentID(i int) gateway.ID   { return gateway.ID{'a', byte(i >> 8), byte(i)} }

func name(id gateway.ID) string { return fmt.Sprintf("%x", id[:3]) }

func (w *world) gateway(i int) *device { return w.devices[gatewayID(i)] }
func (w *world) agent(i int) *device   { return w.devices[agentID(i)] }

func (w *world) add(id gateway.ID) *device {
	d := &device{w: w, id: id, chosen: map[netip.Prefix]gateway.ID{}, hands: map[carry.HandOver]bool{}, health: map[netip.Prefix]gateway.Health{}}
	w.devices[id] = d
	d.start()
	return d
}

// start makes new cores, as a process does that starts.
func (d *device) start() {
	d.choose = choose.New(choose.Config{Self: d.id, Start: d.w.rand.Uint64() | 1})
	d.carry = carry.New(carry.Config{Self: d.id, Start: d.w.rand.Uint64() | 1})
	clear(d.hands)
}

func (w *world) after(wait time.Duration, do func()) {
	w.order++
	heap.Push(&w.queue, event{w.now.Add(wait), w.order, do})
}

// run lets time pass.
func (w *world) run(d time.Duration) {
	until := w.now.Add(d)
	for len(w.queue) > 0 && !w.queue[0].at.After(until) {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do()
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
				if !d.noLAN && a.Target == host {
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

// traffic has an agent send a packet to the host in the office every 10 ms, and notes what becomes of them.
func (d *device) traffic() {
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
			d.doChoose(choose.Sent{Prefix: lan})
		}
		if g := w.devices[d.chosen[lan]]; g != nil && !g.down && !g.noLAN && !g.offline && !d.offline {
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
			for seed := range uint64(6) {
				w := newWorld(t, seed, 5, 200, 100)
				w.loss = c.loss
				for i := range 5 {
					w.after(time.Duration(w.rand.IntN(1000))*time.Millisecond, w.agent(i).traffic)
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
	for _, g := range w.devices {
		if g.id[0] != 'g' || g.down || g.offline {
			continue
		}
		for _, a := range w.devices {
			if a.id[0] != 'a' || a.offline {
				continue
			}
			use := a.chosen[lan]
			if got := g.hands[carry.HandOver{Device: a.id, Prefix: lan, To: use}]; got != (use != g.id && use != gateway.ID{}) {
				w.t.Errorf("seed %d: agent %x uses %x, and gateway %x hands over: %v", seed, a.id[1:3], use[:2], g.id[:2], got)
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
		w.agent(0).traffic()
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
