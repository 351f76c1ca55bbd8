package natmodel

import (
	"net/netip"
	"time"
)

// lowPort is the first that a box chooses by itself (RFC 4787, section 4.2.2: well-known ports stay out).
const lowPort = 1024

// pick chooses the external endpoint of a new mapping.
func (n *NAT) pick(now time.Time, p Packet) (netip.AddrPort, bool) {
	if n.o.Mapping == NoMapping {
		return p.Src, true
	}
	switch n.o.Ports {
	case SequentialPort:
		at, ok := n.firstFree(now, p.Proto, n.next)
		n.next = after(at.Port())
		return at, ok
	case PreservePort:
		if at := netip.AddrPortFrom(n.external, p.Src.Port()); n.free(now, p.Proto, at) {
			return at, true
		}
	}
	for range 16 {
		if at := netip.AddrPortFrom(n.external, n.random()); n.free(now, p.Proto, at) {
			return at, true
		}
	}
	return n.firstFree(now, p.Proto, n.random())
}

func (n *NAT) random() uint16 { return uint16(lowPort + n.rng.IntN(1<<16-lowPort)) }

func after(port uint16) uint16 { return max(port+1, lowPort) }

// firstFree looks for a port from one on, once around.
func (n *NAT) firstFree(now time.Time, proto Protocol, from uint16) (netip.AddrPort, bool) {
	port := from
	for range 1<<16 - lowPort {
		if at := netip.AddrPortFrom(n.external, port); n.free(now, proto, at) {
			return at, true
		}
		port = after(port)
	}
	return netip.AddrPort{}, false
}

// free reports whether no live mapping has the endpoint. One that timed out gives way.
func (n *NAT) free(now time.Time, proto Protocol, at netip.AddrPort) bool {
	return n.live(now, n.byOutside[outsideKey{proto, at}]) == nil
}
