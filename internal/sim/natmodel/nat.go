package natmodel

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// Protocol is what a packet carries.
type Protocol uint8

// Protocols. An ICMP query has its identifier for a port inside, and 0 for one at the remote end.
const (
	UDP Protocol = iota
	TCP
	ICMP
)

// String is the protocol's name.
func (p Protocol) String() string { return name(p, "UDP", "TCP", "ICMP") }

// Packet is what the model sees of one.
type Packet struct {
	Proto    Protocol
	Src, Dst netip.AddrPort
}

// Verdict says where a packet goes, or why nowhere.
type Verdict uint8

// Verdicts.
const (
	ToOutside  Verdict = iota
	ToInside           // from outside, or by hairpin
	Filtered           // the mapping is there, and lets nothing in from that endpoint
	Unmapped           // no mapping has this destination
	NotHairpin         // from inside to the external address, which the NAT does not turn around
	TableFull
	Blocked // a protocol that does not pass, or an address of the other family
)

// Passes reports whether the packet goes on.
func (v Verdict) Passes() bool { return v <= ToInside }

// String says it in words.
func (v Verdict) String() string {
	return name(v, "to outside", "to inside", "filtered", "unmapped", "no hairpin", "table full", "blocked")
}

// NAT is one box. It is not safe for concurrent use.
type NAT struct {
	o         Options
	external  netip.Addr
	rng       *rand.Rand
	byInside  map[insideKey]*mapping
	byOutside map[outsideKey]*mapping
	sessions  int
	next      uint16 // port, for sequential ones
	swept     time.Time
}

// insideKey finds the mapping of a packet from inside; scope is the part of the remote endpoint that makes a difference.
type insideKey struct {
	proto  Protocol
	inside netip.AddrPort
	scope  netip.AddrPort
}

type outsideKey struct {
	proto   Protocol
	outside netip.AddrPort
}

type mapping struct {
	key      insideKey
	outside  netip.AddrPort
	used     time.Time
	sessions map[netip.AddrPort]time.Time // when each remote endpoint was last used
	remotes  map[netip.Addr]time.Time     // the same of its address
}

// New makes a box that translates to the external address, which counts only if it maps. The seed decides about its random ports.
func New(o Options, external netip.Addr, seed uint64) *NAT {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Capacity == 0 {
		o.Capacity = DefaultCapacity
	}
	n := &NAT{o: o, external: external, rng: rand.New(rand.NewPCG(seed, 0x6e6174)), byInside: map[insideKey]*mapping{}, byOutside: map[outsideKey]*mapping{}}
	n.next = n.random()
	return n
}

// Options are those that New got, with the defaults filled in.
func (n *NAT) Options() Options { return n.o }

// External is the address that the box translates to.
func (n *NAT) External() netip.Addr { return n.external }

// Forget loses all state, as a reboot does.
func (n *NAT) Forget() {
	clear(n.byInside)
	clear(n.byOutside)
	n.sessions = 0
}

// Len is how many pairs of mapping and remote endpoint the table holds. Those that timed out may still be counted.
func (n *NAT) Len() int { return n.sessions }

// Out takes a packet from inside.
func (n *NAT) Out(now time.Time, p Packet) (Packet, Verdict) {
	if v := n.pass(p); !v.Passes() {
		return p, v
	}
	if n.o.Mapping == NoMapping && n.o.Filtering == FilterNone {
		return p, ToOutside
	}
	turn := n.o.Mapping != NoMapping && p.Dst.Addr() == n.external
	if turn && !n.o.Hairpin {
		return p, NotHairpin
	}
	m, v := n.outbound(now, p)
	if !v.Passes() {
		return p, v
	}
	p.Src = m.outside
	if turn {
		return n.In(now, p) // RFC 4787, REQ-9: it comes from the external endpoint
	}
	return p, ToOutside
}

// In takes a packet from outside.
func (n *NAT) In(now time.Time, p Packet) (Packet, Verdict) {
	if v := n.pass(p); !v.Passes() {
		return p, v
	}
	if n.o.Filtering == FilterNone && n.o.Mapping == NoMapping {
		return p, ToInside
	}
	m := n.live(now, n.byOutside[outsideKey{p.Proto, p.Dst}])
	if m == nil {
		return p, Unmapped
	}
	if !n.lets(now, m, p.Src) {
		return p, Filtered
	}
	if !n.o.OutboundRefresh {
		n.refresh(now, m, p.Src)
	}
	p.Dst = m.key.inside
	return p, ToInside
}

// Quoted takes the packet that an ICMP error from outside quotes: one that the box has sent, and that failed on its way. It gives the packet as the
// host inside has sent it. Nothing is refreshed (RFC 5508, section 4.2).
func (n *NAT) Quoted(now time.Time, p Packet) (Packet, Verdict) {
	if n.o.Mapping == NoMapping && n.o.Filtering == FilterNone {
		return p, ToInside
	}
	m := n.live(now, n.byOutside[outsideKey{p.Proto, p.Src}])
	if m == nil {
		return p, Unmapped
	}
	at, ok := m.sessions[p.Dst]
	if !ok || n.dead(now, p.Proto, at) {
		return p, Filtered
	}
	p.Src = m.key.inside
	return p, ToInside
}

// pass says whether the box deals with such a packet at all.
func (n *NAT) pass(p Packet) Verdict {
	otherFamily := n.o.Mapping != NoMapping && p.Dst.Addr().Is4() != n.external.Is4()
	if otherFamily || p.Src.Addr().Is4() != p.Dst.Addr().Is4() || n.o.NoUDP && p.Proto == UDP {
		return Blocked
	}
	return ToOutside
}

// outbound finds or makes the mapping of a packet from inside, and notes where it goes.
func (n *NAT) outbound(now time.Time, p Packet) (*mapping, Verdict) {
	key := insideKey{proto: p.Proto, inside: p.Src}
	switch n.o.Mapping {
	case AddressDependent:
		key.scope = netip.AddrPortFrom(p.Dst.Addr(), 0)
	case AddressAndPortDependent:
		key.scope = p.Dst
	}
	m := n.live(now, n.byInside[key])
	if m != nil {
		if _, known := m.sessions[p.Dst]; known {
			n.refresh(now, m, p.Dst)
			return m, ToOutside
		}
	}
	if n.sessions >= n.o.Capacity && !n.sweep(now) {
		return nil, TableFull
	}
	if m = n.live(now, m); m == nil {
		outside, ok := n.pick(now, p)
		if !ok {
			return nil, TableFull
		}
		m = &mapping{key: key, outside: outside, sessions: map[netip.AddrPort]time.Time{}, remotes: map[netip.Addr]time.Time{}}
		n.byInside[key], n.byOutside[outsideKey{p.Proto, outside}] = m, m
	}
	n.sessions++
	m.used, m.sessions[p.Dst], m.remotes[p.Dst.Addr()] = now, now, now
	return m, ToOutside
}

// refresh keeps a mapping alive, and what it knows of the remote endpoint. Where the filter is liberal that may be nothing.
func (n *NAT) refresh(now time.Time, m *mapping, remote netip.AddrPort) {
	m.used = now
	if _, ok := m.sessions[remote]; ok {
		m.sessions[remote] = now
	}
	if _, ok := m.remotes[remote.Addr()]; ok {
		m.remotes[remote.Addr()] = now
	}
}

// lets reports whether the filter lets a remote endpoint in.
func (n *NAT) lets(now time.Time, m *mapping, remote netip.AddrPort) bool {
	var at time.Time
	ok := true
	switch n.o.Filtering {
	case FilterNone:
		return true
	case FilterAddress:
		at, ok = m.remotes[remote.Addr()]
	default:
		at, ok = m.sessions[remote]
	}
	return ok && !n.dead(now, m.key.proto, at)
}

func (n *NAT) dead(now time.Time, proto Protocol, used time.Time) bool {
	timeout := n.o.Timeout
	if proto == TCP {
		timeout = max(timeout, TCPTimeout)
	}
	return now.Sub(used) > timeout
}

// live gives the mapping if it has not timed out, and removes it if it has.
func (n *NAT) live(now time.Time, m *mapping) *mapping {
	if m == nil || !n.dead(now, m.key.proto, m.used) {
		return m
	}
	n.remove(m)
	return nil
}

func (n *NAT) remove(m *mapping) {
	if n.byInside[m.key] != m {
		return
	}
	delete(n.byInside, m.key)
	delete(n.byOutside, outsideKey{m.key.proto, m.outside})
	n.sessions -= len(m.sessions)
}

// sweep removes what has timed out, at most once a second, and reports whether there is room then.
func (n *NAT) sweep(now time.Time) bool {
	if now.Sub(n.swept) < time.Second {
		return false
	}
	n.swept = now
	for _, m := range n.byInside {
		if n.live(now, m) == nil {
			continue
		}
		for remote, at := range m.sessions {
			if len(m.sessions) > 1 && n.dead(now, m.key.proto, at) { // each mapping counts as one at least
				delete(m.sessions, remote)
				n.sessions--
			}
		}
		for remote, at := range m.remotes {
			if n.dead(now, m.key.proto, at) {
				delete(m.remotes, remote)
			}
		}
	}
	return n.sessions < n.o.Capacity
}
