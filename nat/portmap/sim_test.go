package portmap

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"warren/nat/portmap/natpmp"
	"warren/nat/portmap/pcp"
)

var (
	home    = Network{netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("192.168.1.5"), 41641}
	cafe    = Network{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.77"), 41641}
	public  = netip.MustParseAddr("198.51.100.9")
	public2 = netip.MustParseAddr("198.51.100.10")
	private = netip.MustParseAddr("10.9.9.9")
)

// entry is a port that a gateway forwards.
type entry struct {
	to    netip.AddrPort
	nonce pcp.Nonce // zero where the protocol has none
	until time.Time
}

// gateway is the naive model of one: a table, and what it answers.
type gateway struct {
	speaks   [UPnP + 1]bool
	delay    [UPnP + 1]time.Duration
	external netip.Addr
	refuse   bool
	table    map[uint16]entry
	bootedAt time.Time
	lie      func(b []byte) []byte // changes what is sent
	life     time.Duration         // granted instead of what is asked; 0: as asked
}

// world runs a Core against gateways in virtual time.
type world struct {
	t         testing.TB
	rng       *rand.Rand
	now       time.Time
	core      *Core
	next      time.Time
	net       Network
	gateways  map[netip.Addr]*gateway
	queue     []arrival
	loss      float64
	published Mapping
	at        time.Time // when it was published
	changes   int
	requests  int
	failures  []string
	attempts  int
	stopped   bool
}

type arrival struct {
	at time.Time
	ev func() Event
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1e9, 0), gateways: map[netip.Addr]*gateway{}}
	for _, n := range []Network{home, cafe, {}} {
		g := &gateway{external: public, table: map[uint16]entry{}, bootedAt: w.now.Add(-time.Hour)}
		for _, p := range Protocols() {
			g.speaks[p], g.delay[p] = true, time.Millisecond
		}
		w.gateways[n.Gateway] = g
	}
	w.core = New(Config{Random: func(b []byte) {
		for i := range b {
			b[i] = byte(w.rng.Uint32())
		}
	}})
	return w
}

func (w *world) only(ps ...Protocol) *gateway {
	g := w.gateways[home.Gateway]
	for _, p := range Protocols() {
		g.speaks[p] = slices.Contains(ps, p)
	}
	return g
}

// handle passes an event and does what the core says.
func (w *world) handle(ev Event) {
	if n, ok := ev.(SetNetwork); ok {
		w.net = n.Network
	}
	actions, next := w.core.Handle(w.now, ev)
	if !next.IsZero() && !next.After(w.now) {
		w.t.Fatalf("after %#v the core wants to be called at once again", ev)
	}
	w.next = next
	for _, a := range actions {
		w.do(a)
	}
	if m := w.published; m != (Mapping{}) && (Useful(m.External.Addr()) != NoReason || m.Internal != netip.AddrPortFrom(w.net.Local, w.net.Port)) {
		w.t.Fatalf("published %+v in %+v", m, w.net)
	}
}

func (w *world) do(a Action) {
	g := w.gateways[w.net.Gateway]
	switch a := a.(type) {
	case Send:
		w.requests++
		if w.lost() {
			return
		}
		p, b := g.answer(w.now, w.net.Local, a.B)
		if g.lie != nil && b != nil {
			b = g.lie(b)
		}
		if b != nil && !w.lost() {
			w.arrive(g.delay[p], Datagram{From: netip.AddrPortFrom(w.net.Gateway, pcp.Port), B: b})
		}
	case Discover:
		w.requests++
		ev := Found{Op: a.Op, External: g.external}
		if !g.speaks[UPnP] {
			ev = Found{Op: a.Op, Reason: NotSupported}
		}
		w.arrive(g.delay[UPnP], ev)
	case AddMapping:
		w.requests++
		w.arrive(g.delay[UPnP], g.add(w.now, a))
	case DeleteMapping:
		w.requests++
		delete(g.table, a.External)
		w.arrive(g.delay[UPnP], Deleted{a.Op})
	case Publish:
		w.published, w.at = a.Mapping, w.now
		w.changes++
	case Attempt:
		w.attempts++
	case Failure:
		w.failures = append(w.failures, fmt.Sprintf("%s: %s", a.Protocol, a.Reason))
	case Stopped:
		w.stopped = true
	}
}

func (w *world) lost() bool { return w.rng.Float64() < w.loss }

func (w *world) arrive(after time.Duration, ev Event) {
	w.queue = append(w.queue, arrival{w.now.Add(after), func() Event { return ev }})
}

// pass lets time go by.
func (w *world) pass(d time.Duration) {
	end := w.now.Add(d)
	for steps := 0; ; steps++ {
		if steps > 100_000 {
			w.t.Fatal("the core does not come to rest")
		}
		slices.SortStableFunc(w.queue, func(a, b arrival) int { return cmp.Compare(a.at.UnixNano(), b.at.UnixNano()) })
		at, isEvent := w.next, false
		if len(w.queue) > 0 && (at.IsZero() || !w.queue[0].at.After(at)) {
			at, isEvent = w.queue[0].at, true
		}
		if at.IsZero() || at.After(end) {
			w.now = end
			return
		}
		w.now = at
		if !isEvent {
			w.handle(nil)
			continue
		}
		ev := w.queue[0].ev()
		w.queue = w.queue[1:]
		w.handle(ev)
	}
}

// epoch is the gateway's clock.
func (g *gateway) epoch(now time.Time) uint32 { return uint32(now.Sub(g.bootedAt) / time.Second) }

func (g *gateway) reboot(now time.Time) { g.table, g.bootedAt = map[uint16]entry{}, now }

// forwards finds where a packet to a port goes.
func (g *gateway) forwards(now time.Time, external netip.AddrPort) netip.AddrPort {
	e, ok := g.table[external.Port()]
	if !ok || external.Addr() != g.external || now.After(e.until) {
		return netip.AddrPort{}
	}
	return e.to
}

// grant finds or makes an entry and gives its port.
func (g *gateway) grant(now time.Time, e entry, wish uint16) uint16 {
	for port, old := range g.table {
		if old.to == e.to && old.nonce == e.nonce {
			wish = port
		}
	}
	for wish == 0 || (g.table[wish] != entry{} && g.table[wish].to != e.to && now.Before(g.table[wish].until)) {
		wish++
	}
	g.table[wish] = e
	return wish
}

func (g *gateway) lifetime(asked time.Duration) time.Duration {
	if g.life != 0 && asked != 0 {
		return g.life
	}
	return asked
}

// answer is what a request in PCP or NAT-PMP gets.
func (g *gateway) answer(now time.Time, from netip.Addr, b []byte) (Protocol, []byte) {
	if b[0] == pcp.Version {
		if g.speaks[PCP] {
			return PCP, g.answerPCP(now, from, b)
		}
		if g.speaks[NATPMP] { // RFC 6887 appendix A
			return NATPMP, binary.BigEndian.AppendUint32([]byte{0, b[1] | 0x80, 0, 1}, g.epoch(now))
		}
		return None, nil
	}
	if g.speaks[NATPMP] {
		return NATPMP, g.answerNATPMP(now, from, b)
	}
	if g.speaks[PCP] {
		r := make([]byte, 24)
		r[0], r[1], r[3] = 2, b[1]|0x80, 1
		binary.BigEndian.PutUint32(r[8:], g.epoch(now))
		return PCP, r
	}
	return None, nil
}

func (g *gateway) answerPCP(now time.Time, from netip.Addr, b []byte) []byte {
	r := slices.Clone(b)
	r[1] |= 0x80
	binary.BigEndian.PutUint32(r[8:], g.epoch(now))
	if g.refuse {
		r[3] = byte(pcp.NotAuthorized)
		binary.BigEndian.PutUint32(r[4:], 30)
		return r
	}
	internal, wish := binary.BigEndian.Uint16(b[40:]), binary.BigEndian.Uint16(b[42:])
	life := g.lifetime(time.Duration(binary.BigEndian.Uint32(b[4:])) * time.Second)
	e := entry{netip.AddrPortFrom(from, internal), pcp.Nonce(b[24:36]), now.Add(life)}
	binary.BigEndian.PutUint32(r[4:], uint32(life/time.Second))
	if life == 0 {
		for port, old := range g.table {
			if old.to == e.to && old.nonce == e.nonce {
				delete(g.table, port)
			}
		}
		return r
	}
	binary.BigEndian.PutUint16(r[42:], g.grant(now, e, wish))
	ext := g.external.As16()
	copy(r[44:], ext[:])
	return r
}

func (g *gateway) answerNATPMP(now time.Time, from netip.Addr, b []byte) []byte {
	r := binary.BigEndian.AppendUint32([]byte{0, b[1] | 0x80, 0, 0}, g.epoch(now))
	if b[1] == 0 {
		return append(r, g.external.AsSlice()...)
	}
	internal, wish := binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	life := g.lifetime(time.Duration(binary.BigEndian.Uint32(b[8:])) * time.Second)
	e := entry{to: netip.AddrPortFrom(from, internal), until: now.Add(life)}
	switch {
	case g.refuse:
		r[3], wish, life = byte(natpmp.NotAuthorized), 0, 0
	case life == 0:
		for port, old := range g.table {
			if old.to == e.to && old.nonce == (pcp.Nonce{}) {
				delete(g.table, port)
			}
		}
	default:
		wish = g.grant(now, e, wish)
	}
	r = binary.BigEndian.AppendUint16(r, internal)
	r = binary.BigEndian.AppendUint16(r, wish)
	return binary.BigEndian.AppendUint32(r, uint32(life/time.Second))
}

func (g *gateway) add(now time.Time, a AddMapping) Added {
	switch old, taken := g.table[a.External]; {
	case !g.speaks[UPnP]:
		return Added{Op: a.Op, Reason: Unanswered}
	case g.refuse:
		return Added{Op: a.Op, Reason: Refused}
	case taken && old.to != a.Internal && now.Before(old.until):
		return Added{Op: a.Op, Reason: Conflict}
	}
	life := g.lifetime(a.Life)
	g.table[a.External] = entry{to: a.Internal, until: now.Add(life)}
	return Added{Op: a.Op, External: netip.AddrPortFrom(g.external, a.External), Life: life}
}

// ours counts the entries that lead to us.
func (w *world) ours() (n int) {
	for _, e := range w.gateways[w.net.Gateway].table {
		if e.to == netip.AddrPortFrom(w.net.Local, w.net.Port) && w.now.Before(e.until) {
			n++
		}
	}
	return n
}

// works tells whether a packet to the published address reaches us.
func (w *world) works() bool {
	g := w.gateways[w.net.Gateway]
	return w.published != (Mapping{}) && g.forwards(w.now, w.published.External) == w.published.Internal
}

// best is the protocol that ought to be used now.
func (w *world) best() Protocol {
	g := w.gateways[w.net.Gateway]
	if !w.net.complete() || g.refuse || Useful(g.external) != NoReason {
		return None
	}
	for _, p := range Protocols() {
		if g.speaks[p] {
			return p
		}
	}
	return None
}
