// Package hostroutes reads, changes and watches the routing table of macOS and Windows. Read gives it whole; Add and Remove change one route; Watch
// tells of changes; Best and Gateway look something up in what Read gave. On Linux, netlink's own library is used instead, and only the parts of
// this package that ask no system exist.
package hostroutes

import (
	"net"
	"net/netip"
)

// Route is one entry.
type Route struct {
	Prefix netip.Prefix
	// Gateway is the next hop; not valid: the destination itself is on the link.
	Gateway netip.Addr
	// Interface is the index of the one that it leaves by.
	Interface int
	// Metric is what it costs, on Windows with what the interface costs. The lowest wins among those of one prefix.
	Metric int
	// Scoped says that it counts only for sockets that are bound to the interface (macOS).
	Scoped bool
	// Own says that the system made it for the host's own addresses, or as an entry of its neighbour cache: it is no way to anywhere else.
	Own bool
}

// Default reports whether all of a family goes there.
func (r Route) Default() bool { return r.Prefix.Bits() == 0 }

// Best is the route that packets for a take, among those for which ok is true.
func Best(table []Route, a netip.Addr, ok func(Route) bool) (best Route, found bool) {
	for _, r := range table {
		switch {
		case r.Scoped || !r.Prefix.Contains(a) || !ok(r):
		case !found, r.Prefix.Bits() > best.Prefix.Bits(), r.Prefix == best.Prefix && r.Metric < best.Metric:
			best, found = r, true
		}
	}
	return best, found
}

// Interface is what is told of a network interface here.
type Interface struct {
	Index    int
	Name     string
	Flags    net.Flags
	Prefixes []netip.Prefix // addresses with the length of their network's prefix, unmasked, without zones
}

// Interfaces gives those of the host, with what could be read of their addresses.
func Interfaces() ([]Interface, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []Interface
	for _, i := range list {
		addrs, err := i.Addrs()
		if err != nil { // it went away in between
			continue
		}
		out = append(out, Interface{i.Index, i.Name, i.Flags, prefixesOf(addrs)})
	}
	return out, nil
}

func prefixesOf(addrs []net.Addr) (out []netip.Prefix) {
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		ones, bits := n.Mask.Size()
		if ip = ip.Unmap(); ok && bits == ip.BitLen() {
			out = append(out, netip.PrefixFrom(ip, ones))
		}
	}
	return out
}

// Gateway is the next hop of the IPv4 default route that does not lead into the interface except, and the host's own address on that link.
func Gateway(table []Route, interfaces []Interface, except string) (gateway, local netip.Addr, ok bool) {
	byIndex := map[int]Interface{}
	for _, i := range interfaces {
		byIndex[i.Index] = i
	}
	r, found := Best(table, netip.IPv4Unspecified(), func(r Route) bool {
		i, known := byIndex[r.Interface]
		return r.Default() && r.Gateway.Is4() && known && i.Name != except
	})
	if !found {
		return gateway, local, false
	}
	for _, p := range byIndex[r.Interface].Prefixes {
		switch {
		case !p.Addr().Is4():
		case p.Contains(r.Gateway):
			return r.Gateway, p.Addr(), true
		case !local.IsValid():
			local = p.Addr()
		}
	}
	return r.Gateway, local, local.IsValid()
}

// clearZone takes out the interface's index that BSD kernels keep in the second group of link-local addresses.
func clearZone(a netip.Addr) netip.Addr {
	b := a.As16()
	if a.Is6() && (a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast()) {
		b[2], b[3] = 0, 0
		return netip.AddrFrom16(b)
	}
	return a.WithZone("")
}

// withZone is the reverse: how BSD kernels want a link-local address of an interface.
func withZone(a netip.Addr, index int) []byte {
	b := a.AsSlice()
	if a.Is6() && a.IsLinkLocalUnicast() {
		b[2], b[3] = byte(index>>8), byte(index)
	}
	return b
}

// maskBits is the length of a netmask whose ones come first; ok is false for any other.
func maskBits(mask []byte) (bits int, ok bool) {
	for i, b := range mask {
		for bit := 7; bit >= 0; bit-- {
			if b>>bit&1 == 1 {
				if bits != i*8+7-bit {
					return 0, false
				}
				bits++
			}
		}
	}
	return bits, true
}

// mask is the netmask of a length.
func mask(p netip.Prefix) []byte { return net.CIDRMask(p.Bits(), p.Addr().BitLen()) }
