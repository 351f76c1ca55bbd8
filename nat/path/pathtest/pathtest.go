// Package pathtest is a model of the internet for tests of path choice in virtual time: hosts, the NAT boxes before them, delay, loss and
// faults. It keeps no time of its own. Net.Send says where a datagram goes and when it is there; Net.Arrive, called at that time, says
// whether it gets in. Nothing is sent anywhere.
package pathtest

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// NAT is how a box treats UDP.
type NAT int

// The kinds of NAT. Filtering is by address and port in both Easy and Hard, as Linux does it.
const (
	Public  NAT = iota // no NAT, no filter
	Easy               // endpoint-independent mapping, port kept when free
	Hard               // a mapping of its own for each destination
	Blocked            // no UDP at all
)

// String is the name that the lab uses.
func (n NAT) String() string { return [...]string{"none", "easy", "hard", "udp-blocked"}[n] }

// Box is what stands between a host and the internet.
type Box struct {
	Kind     NAT
	External netip.Addr
	// Expiry is how long a mapping lives without a packet.
	Expiry time.Duration

	// Random draws the ports of a hard NAT; nil: they come in sequence, 7 apart.
	Random *rand.Rand

	nextPort uint16
	flows    map[flow]*state
	// byOutside holds the same, by the address that others see.
	byOutside map[netip.AddrPort]*state
}

// flow is a mapping; remote is zero for those that hold for every destination.
type flow struct{ inside, remote netip.AddrPort }

type state struct {
	flow
	outside  netip.AddrPort
	lastUsed time.Time
	allowed  map[netip.AddrPort]time.Time
}

// NewBox makes a box.
func NewBox(kind NAT, external netip.Addr) *Box {
	return &Box{Kind: kind, External: external, Expiry: 30 * time.Second, nextPort: 20000, flows: map[flow]*state{}, byOutside: map[netip.AddrPort]*state{}}
}

// Forget loses every mapping, as a reboot does.
func (b *Box) Forget() {
	clear(b.flows)
	clear(b.byOutside)
}

// Host has one address, and one port for each socket.
type Host struct {
	Name string
	// At is where socket 0 is. Extra holds the ports of others.
	At    netip.AddrPort
	Extra map[uint16]uint16
	Box   *Box
	Down  bool
}

// Net is the internet. Delay is one way.
type Net struct {
	Hosts []*Host
	Rand  *rand.Rand
	Loss  float64
	Delay time.Duration
	// Largest is how long a datagram may be, in bytes of its payload; longer ones vanish. 0: as long as it likes.
	Largest int
	// Cut reports faults: nothing goes from one host to the other directly.
	Cut func(from, to *Host) bool
	// Lost counts what Loss took.
	Lost int
}

// Fate is what became of a datagram.
type Fate int

// Fates.
const (
	Arrived Fate = iota
	ByChance
	ByFault // filtered, cut, or nobody there
)

// Flight is a datagram on its way.
type Flight struct {
	From     *Host
	Src, Dst netip.AddrPort
	At       time.Time
	fate     Fate
	inside   bool // never left the box
}

// at is where a socket of the host is.
func (h *Host) at(socket uint16) netip.AddrPort {
	if port, ok := h.Extra[socket]; ok {
		return netip.AddrPortFrom(h.At.Addr(), port)
	}
	return h.At
}

// socket tells which socket is at an address.
func (h *Host) socket(at netip.AddrPort) (uint16, bool) {
	if at == h.At {
		return 0, true
	}
	if at.Addr() != h.At.Addr() {
		return 0, false
	}
	for id, port := range h.Extra {
		if port == at.Port() {
			return id, true
		}
	}
	return 0, false
}

// Send has a datagram of size bytes leave a socket of a host. A local address that the host does not have sends nothing.
func (n *Net) Send(now time.Time, from *Host, socket uint16, local netip.Addr, remote netip.AddrPort, size int) Flight {
	f := Flight{From: from, Src: from.at(socket), Dst: remote, At: now.Add(n.Delay)}
	switch {
	case from.Down || (local.IsValid() && local != from.At.Addr()):
		f.fate = ByFault
		return f
	case n.sameLAN(from, remote):
		f.At, f.inside = now.Add(100*time.Microsecond), true
		return f
	case remote.Addr().IsPrivate() || from.Box.Kind == Blocked:
		f.fate = ByFault
		return f
	}
	f.Src = from.Box.out(now, from.at(socket), remote)
	if n.Largest > 0 && size > n.Largest {
		f.fate = ByFault
		return f
	}
	if n.Loss > 0 && n.Rand.Float64() < n.Loss {
		n.Lost++
		f.fate = ByChance
	}
	return f
}

func (n *Net) sameLAN(from *Host, remote netip.AddrPort) bool {
	for _, h := range n.Hosts {
		if h != from && h.Box == from.Box && h.At == remote {
			return true
		}
	}
	return false
}

// Arrive tells which host gets the datagram, and at which socket.
func (n *Net) Arrive(f Flight) (*Host, uint16, Fate) {
	if f.fate != Arrived {
		return nil, 0, f.fate
	}
	for _, h := range n.Hosts {
		if h == f.From || h.Down || (n.Cut != nil && n.Cut(f.From, h)) {
			continue
		}
		inside, ok := f.Dst, h.Box == f.From.Box
		if !f.inside {
			inside, ok = h.Box.in(f.At, f.Src, f.Dst)
		}
		if socket, here := h.socket(inside); ok && here {
			return h, socket, Arrived
		}
	}
	return nil, 0, ByFault
}

// Mapped is what a STUN server at server would tell the host.
func (n *Net) Mapped(now time.Time, h *Host, server netip.AddrPort) (netip.AddrPort, bool) {
	if h.Box.Kind == Blocked || h.Down {
		return netip.AddrPort{}, false
	}
	return h.Box.out(now, h.At, server), true
}

// out maps a packet's source.
func (b *Box) out(now time.Time, inside, remote netip.AddrPort) netip.AddrPort {
	if b.Kind == Public {
		return inside
	}
	k := flow{inside: inside}
	if b.Kind == Hard {
		k.remote = remote
	}
	s := b.flows[k]
	if s == nil || now.Sub(s.lastUsed) > b.Expiry {
		if s != nil {
			b.drop(s)
		}
		s = &state{flow: k, outside: b.port(now, inside), allowed: map[netip.AddrPort]time.Time{}}
		b.flows[k], b.byOutside[s.outside] = s, s
	}
	s.lastUsed = now
	s.allowed[remote] = now
	return s.outside
}

// drop forgets a mapping.
func (b *Box) drop(s *state) {
	if b.flows[s.flow] == s {
		delete(b.flows, s.flow)
	}
	if b.byOutside[s.outside] == s {
		delete(b.byOutside, s.outside)
	}
}

func (b *Box) port(now time.Time, inside netip.AddrPort) netip.AddrPort {
	if keep := netip.AddrPortFrom(b.External, inside.Port()); b.Kind == Easy && !b.taken(now, keep) {
		return keep
	}
	for b.Random != nil {
		p := netip.AddrPortFrom(b.External, uint16(1024+b.Random.IntN(64512)))
		if !b.taken(now, p) {
			return p
		}
	}
	b.nextPort += 7
	return netip.AddrPortFrom(b.External, b.nextPort)
}

// taken reports whether a port is in use; a mapping that has expired makes room.
func (b *Box) taken(now time.Time, outside netip.AddrPort) bool {
	s := b.byOutside[outside]
	if s != nil && now.Sub(s.lastUsed) > b.Expiry {
		b.drop(s)
		return false
	}
	return s != nil
}

// in tells where behind the box a packet from src to dst goes.
func (b *Box) in(now time.Time, src, dst netip.AddrPort) (inside netip.AddrPort, ok bool) {
	switch b.Kind {
	case Public:
		return dst, true
	case Blocked:
		return inside, false
	}
	s := b.byOutside[dst]
	if s == nil || now.Sub(s.lastUsed) > b.Expiry {
		return inside, false
	}
	if at, ok := s.allowed[src]; !ok || now.Sub(at) > b.Expiry {
		return inside, false
	}
	s.lastUsed, s.allowed[src] = now, now
	return s.inside, true
}
