// Package pathtest is a small internet for tests of path choice in virtual time: hosts, the NATs before them (warren/internal/sim/natmodel),
// delay, loss and faults. It keeps no time of its own. Net.Send says where a datagram goes and when it is there; Net.Arrive, called at that
// time, says whether it gets in. Nothing is sent anywhere. Worlds with more in them are played by warren/internal/sim.
package pathtest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"warren/internal/sim/natmodel"
)

// NAT is how a box treats UDP.
type NAT int

// The kinds of NAT. Filtering is by address and port in all that map.
const (
	Public     NAT = iota // no NAT, no filter
	Easy                  // endpoint-independent mapping, port kept when free
	Hard                  // a mapping of its own for each destination, with random ports
	Blocked               // no UDP at all
	Sequential            // as Hard, with ports one after the other
)

// String is the name that the lab uses.
func (n NAT) String() string {
	return [...]string{"none", "easy", "hard", "udp-blocked", "sequential"}[n]
}

// Expiry is how long a mapping lives without a packet.
const Expiry = 30 * time.Second

func (n NAT) options() (o natmodel.Options) {
	switch n {
	case Public:
		return o
	case Easy:
		o = *natmodel.Easy()
	case Hard:
		o = *natmodel.Hard()
	case Blocked:
		o.NoUDP = true
	case Sequential:
		o = *natmodel.Hard()
		o.Ports = natmodel.SequentialPort
	default:
		panic(fmt.Sprintf("no such kind of NAT: %d", n))
	}
	o.Timeout = Expiry
	return o
}

// Box is what stands between hosts and the internet.
type Box struct {
	kind NAT
	seed uint64
	nat  *natmodel.NAT
}

// NewBox makes a box. The seed decides about its random ports.
func NewBox(kind NAT, external netip.Addr, seed uint64) *Box {
	return &Box{kind, seed, natmodel.New(kind.options(), external, seed)}
}

// Kind is what the box is now.
func (b *Box) Kind() NAT { return b.kind }

// External is its address, as others see it.
func (b *Box) External() netip.Addr { return b.nat.External() }

// Become makes it a box of another kind, which knows no mapping.
func (b *Box) Become(kind NAT) { *b = *NewBox(kind, b.External(), b.seed) }

// Renumber gives it another address; it knows no mapping then.
func (b *Box) Renumber(external netip.Addr) { *b = *NewBox(b.kind, external, b.seed) }

// Forget loses every mapping, as a reboot does.
func (b *Box) Forget() { b.nat.Forget() }

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
	case remote.Addr().IsPrivate():
		f.fate = ByFault
		return f
	}
	out, v := from.Box.nat.Out(now, natmodel.Packet{Src: f.Src, Dst: remote})
	if v != natmodel.ToOutside {
		f.fate = ByFault
		return f
	}
	f.Src = out.Src
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
		to, ok := f.Dst, h.Box == f.From.Box
		if !f.inside {
			in, v := h.Box.nat.In(f.At, natmodel.Packet{Src: f.Src, Dst: f.Dst})
			to, ok = in.Dst, v == natmodel.ToInside
		}
		if socket, here := h.socket(to); ok && here {
			return h, socket, Arrived
		}
	}
	return nil, 0, ByFault
}

// Mapped is what a STUN server at server would tell the host.
func (n *Net) Mapped(now time.Time, h *Host, server netip.AddrPort) (netip.AddrPort, bool) {
	out, v := h.Box.nat.Out(now, natmodel.Packet{Src: h.At, Dst: server})
	return out.Src, v == natmodel.ToOutside && !h.Down
}
