package hostroutes

import (
	"fmt"
	"net/netip"

	"golang.org/x/net/route"
	"golang.org/x/sys/unix"
)

// rtfOwn are the flags of entries that are no ways to elsewhere.
const rtfOwn = unix.RTF_LLINFO | unix.RTF_WASCLONED | unix.RTF_LOCAL | unix.RTF_BROADCAST | unix.RTF_MULTICAST

// Read gives the routing table.
func Read() ([]Route, error) {
	messages, err := dump(route.RIBTypeRoute, 0)
	if err != nil {
		return nil, fmt.Errorf("routes of this host: %w", err)
	}
	var out []Route
	for _, m := range messages {
		if r, ok := read(m); ok {
			out = append(out, r)
		}
	}
	return out, nil
}

func dump(kind route.RIBType, flags int) ([]*route.RouteMessage, error) {
	b, err := route.FetchRIB(unix.AF_UNSPEC, kind, flags)
	if err != nil {
		return nil, err
	}
	// The answer has the format of routes, whatever was asked for.
	all, err := route.ParseRIB(route.RIBTypeRoute, b)
	if err != nil {
		return nil, err
	}
	var out []*route.RouteMessage
	for _, m := range all {
		if r, ok := m.(*route.RouteMessage); ok {
			out = append(out, r)
		}
	}
	return out, nil
}

// read turns a message into a Route, unless it is of another family, or for packets that are refused.
func read(m *route.RouteMessage) (Route, bool) {
	if m.Flags&unix.RTF_UP == 0 || m.Flags&(unix.RTF_REJECT|unix.RTF_BLACKHOLE) != 0 || len(m.Addrs) <= unix.RTAX_GATEWAY {
		return Route{}, false
	}
	to, ok := addrOf(m.Addrs[unix.RTAX_DST])
	if !ok {
		return Route{}, false
	}
	bits := to.BitLen()
	if m.Flags&unix.RTF_HOST == 0 {
		bits = 0 // the default route's mask is left out, as that of nothing
		if len(m.Addrs) > unix.RTAX_NETMASK {
			if bits, ok = bitsOf(m.Addrs[unix.RTAX_NETMASK]); !ok {
				return Route{}, false
			}
		}
	}
	r := Route{
		Prefix: netip.PrefixFrom(to, bits).Masked(), Interface: m.Index,
		Scoped: m.Flags&unix.RTF_IFSCOPE != 0, Own: m.Flags&rtfOwn != 0,
	}
	if m.Flags&unix.RTF_GATEWAY != 0 {
		r.Gateway, _ = addrOf(m.Addrs[unix.RTAX_GATEWAY])
	}
	return r, r.Prefix.IsValid()
}

func addrOf(a route.Addr) (netip.Addr, bool) {
	switch a := a.(type) {
	case *route.Inet4Addr:
		return netip.AddrFrom4(a.IP), true
	case *route.Inet6Addr:
		return clearZone(netip.AddrFrom16(a.IP)), true
	}
	return netip.Addr{}, false
}

func bitsOf(a route.Addr) (int, bool) {
	switch a := a.(type) {
	case nil:
		return 0, true
	case *route.Inet4Addr:
		return maskBits(a.IP[:])
	case *route.Inet6Addr:
		return maskBits(a.IP[:])
	}
	return 0, false
}

// Neighbours gives the hosts on this host's links of which it knows the link-layer address, with the interface's index.
func Neighbours() (map[netip.Addr]int, error) {
	messages, err := dump(route.RIBType(unix.NET_RT_FLAGS), unix.RTF_LLINFO)
	if err != nil {
		return nil, fmt.Errorf("neighbours of this host: %w", err)
	}
	out := map[netip.Addr]int{}
	for _, m := range messages {
		if len(m.Addrs) <= unix.RTAX_GATEWAY {
			continue
		}
		a, ok := addrOf(m.Addrs[unix.RTAX_DST])
		link, known := m.Addrs[unix.RTAX_GATEWAY].(*route.LinkAddr)
		if ok && known && len(link.Addr) > 0 && m.Flags&(unix.RTF_LOCAL|unix.RTF_BROADCAST|unix.RTF_MULTICAST) == 0 {
			out[a] = m.Index
		}
	}
	return out, nil
}
