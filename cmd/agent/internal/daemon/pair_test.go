package daemon

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"warren/cmd/agent/internal/state"
	"warren/coord/client"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
	"warren/tunnel/engine"
	"warren/tunnel/routeplan"
	"warren/tunnel/router"
	"warren/tunnel/tundev"
)

// world joins several devices' networks back to back, in virtual time.
type world struct {
	t       *testing.T
	now     time.Time
	nodes   []*node
	later   []event
	traffic []flow // that does not stop
}

type event struct {
	at time.Time
	do func()
}

type flow struct {
	from, to *node
	cidr     netip.Prefix
}

// node is a device, and stands for its engine, its host and the network behind it.
type node struct {
	*networks
	w      *world
	record *record.Device
	m      *client.Map

	dead       bool                // says and hears nothing
	up         map[netip.Addr]bool // hosts that answer, by the addresses that others see
	links      []routeplan.Link
	seen       []tundev.Host
	neighbours []netip.Addr
	sent       map[deviceKey][]tundev.Traffic
	probed     map[netip.Addr]int
	hands      []string // what the engine was told of who uses whom
	state      router.State
	err        error        // of Apply
	calls      atomic.Int32 // of Apply
	looks      int          // at traffic
}

const wordTakes = 5 * time.Millisecond

var (
	lanCIDR = netip.MustParsePrefix("10.1.0.0/16")
	lanHost = netip.MustParseAddr("10.1.0.9")
)

func newWorld(t *testing.T) *world {
	return &world{t: t, now: time.Date(2026, 11, 26, 8, 0, 0, 0, time.UTC)}
}

// add makes a device that carries CIDRs with a priority.
func (w *world) add(name string, priority uint8, routing state.Routing, carries ...string) *node {
	self := &record.Device{
		Key: key.NewDevice().Public(), NodeKey: key.NewNode().Public(), Name: name, Routes: prefixes(carries...),
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 0, byte(len(w.nodes) + 1)})},
	}
	n := &node{w: w, record: self, up: map[netip.Addr]bool{}, probed: map[netip.Addr]int{}, sent: map[deviceKey][]tundev.Traffic{}}
	routing.Priority = priority
	n.networks = newNetworks(self, routing, n, n, n, func() time.Time { return w.now }, slog.New(slog.DiscardHandler))
	w.nodes = append(w.nodes, n)
	return n
}

// publish gives each device the map that has all that are not left out.
func (w *world) publish(without ...*node) {
	out := map[*node]bool{}
	for _, n := range without {
		out[n] = true
	}
	for _, n := range w.nodes {
		m := &client.Map{Self: n.record, Statement: &record.Statement{MapStatement: new(pb.MapStatement), Prefixes: prefixes("100.64.0.0/16")}}
		for _, p := range w.nodes {
			if p == n || out[p] {
				continue
			}
			m.Peers = append(m.Peers, p.record)
			for _, r := range p.record.Routes {
				m.Statement.Routes = append(m.Statement.Routes, record.Route{Prefix: r, Gateway: p.record.Key.Raw(), Priority: p.routing.Rank()})
			}
		}
		var before []*record.Device
		if n.m != nil {
			before = n.m.Peers
		}
		gone, put := changed(before, m.Peers)
		n.m = m
		n.setMap(newKnown(m), n.record, defaultMTU, gone, put)
	}
	w.drain()
}

func (w *world) node(id deviceKey) *node {
	for _, n := range w.nodes {
		if n.record.Key.Raw() == id {
			return n
		}
	}
	return nil
}

// drain has every device take what waits for it.
func (w *world) drain() {
	for _, n := range w.nodes {
		for more := true; more; {
			select {
			case word := <-n.heard:
				n.locked(func() { n.hear(word) })
			case e := <-n.echoed:
				n.locked(func() { n.answered(e) })
			case s := <-n.networks.seen:
				n.locked(func() { n.evidence(s) })
			case <-n.used:
				n.locked(n.noteTraffic)
			default:
				more = false
			}
		}
	}
}

// run lets time pass, until done says so, and tells how much has.
func (w *world) run(wait time.Duration, done ...func() bool) time.Duration {
	began, end := w.now, w.now.Add(wait)
	traffic := w.now.Add(lookAtTraffic)
	for w.now.Before(end) && (len(done) == 0 || !done[0]()) {
		next, do := end, func() {}
		earlier := func(at time.Time, what func()) {
			if !at.IsZero() && at.Before(next) {
				next, do = at, what
			}
		}
		for i, e := range w.later {
			earlier(e.at, func() {
				w.later = append(w.later[:i:i], w.later[i+1:]...)
				e.do()
			})
		}
		for _, n := range w.nodes {
			earlier(n.next(), func() { n.locked(n.tick) })
		}
		earlier(traffic, func() {
			traffic = traffic.Add(lookAtTraffic)
			w.flow()
		})
		if next.After(w.now) {
			w.now = next
		}
		do()
		w.drain()
	}
	return w.now.Sub(began)
}

// flow has packets be sent, by whichever gateway is chosen.
func (w *world) flow() {
	for _, f := range w.traffic {
		if id, ok := f.from.chosen[f.cidr]; ok {
			before := f.from.sent[id]
			f.from.sent[id] = []tundev.Traffic{{Prefix: f.cidr, Sent: w.now}}
			if len(before) == 0 || w.now.Sub(before[0].Sent) >= tundev.UnusedFor {
				f.from.onUse()
			}
		}
	}
}

// uses tells which gateway a device uses.
func (n *node) uses(p netip.Prefix) string { return n.called(n.chosen[p]) }

func (n *node) called(id deviceKey) string { return cmp.Or(n.name(id), "none") }

func (n *node) usesNow(p netip.Prefix, gateway *node) func() bool {
	return func() bool { return n.chosen[p] == gateway.record.Key.Raw() }
}

func (n *node) Update(engine.Change) {}
func (n *node) Want(key.NodePublic)  {}

func (n *node) SendWord(to key.DevicePublic, payload []byte) error {
	other := n.w.node(to.Raw())
	if other == nil {
		return fmt.Errorf("no peer %s", to)
	}
	if from := n.record.Key; !n.dead {
		n.w.later = append(n.w.later, event{n.w.now.Add(wordTakes), func() {
			if !other.dead && !n.dead {
				other.onWord(from, payload)
			}
		}})
	}
	return nil
}

func (n *node) Probe(target netip.Addr, id, seq uint16) error {
	n.probed[target]++
	if n.up[target] {
		n.w.later = append(n.w.later, event{n.w.now.Add(time.Millisecond), func() { n.onProbe(target, id, seq) }})
	}
	return nil
}

func (n *node) Uses(device key.DevicePublic, cidr netip.Prefix, sibling key.DevicePublic) bool {
	n.hands = append(n.hands, fmt.Sprintf("%s of %s by %s", cidr, n.called(device.Raw()), n.called(sibling.Raw())))
	return true
}

func (n *node) Traffic(device key.DevicePublic) []tundev.Traffic {
	n.looks++
	return n.sent[device.Raw()]
}

func (n *node) Hosts(p netip.Prefix) (out []tundev.Host) {
	for _, h := range n.seen {
		if p.Contains(h.Addr) {
			out = append(out, tundev.Host{Addr: h.Addr, Seen: n.w.now})
		}
	}
	return out
}

func (n *node) Apply(s router.State) error {
	n.calls.Add(1)
	n.state = s
	return n.err
}

func (n *node) Notes() []string                   { return nil }
func (n *node) Read() ([]routeplan.Link, error)   { return n.links, nil }
func (n *node) Neighbours() ([]netip.Addr, error) { return n.neighbours, nil }
func (n *node) Forget()                           {}
