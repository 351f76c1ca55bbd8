package gather

import (
	"net/netip"

	"github.com/vishvananda/netlink"
)

// describeLinks asks the kernel about all interfaces, by index. What it does not tell is left out.
func describeLinks() map[int]link {
	out := map[int]link{}
	links, _ := netlink.LinkList() // an interrupted dump gives what it has
	for _, l := range links {
		kind := l.Type()
		switch kind { // the library has words of its own
		case "device":
			kind = ""
		case "tuntap":
			kind = "tun"
		}
		out[l.Attrs().Index] = link{kind: kind}
	}
	ways := defaultRoutes()
	for i, l := range out {
		_, v4 := ways.v4[i]
		_, v6 := ways.v6[i]
		l.uplink = v4 || v6
		out[i] = l
	}
	return out
}

// routesByLink are the prefixes of the main table's routes by interface.
func routesByLink() map[int][]netip.Prefix {
	out := map[int][]netip.Prefix{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, _ := netlink.RouteList(nil, family)
		for _, r := range routes {
			if r.Dst == nil || r.LinkIndex == 0 {
				continue
			}
			a, ok := netip.AddrFromSlice(r.Dst.IP)
			if ones, _ := r.Dst.Mask.Size(); ok {
				out[r.LinkIndex] = append(out[r.LinkIndex], netip.PrefixFrom(a.Unmap(), ones))
			}
		}
	}
	return out
}

// defaultRoutes looks at the main table: VPNs that take everything use others, or two halves.
func defaultRoutes() ways {
	out := ways{metrics{}, metrics{}}
	for family, through := range map[int]metrics{netlink.FAMILY_V4: out.v4, netlink.FAMILY_V6: out.v6} {
		routes, _ := netlink.RouteList(nil, family)
		for _, r := range routes {
			if r.Dst != nil {
				if ones, _ := r.Dst.Mask.Size(); ones != 0 {
					continue
				}
			}
			if r.LinkIndex != 0 {
				through.add(r.LinkIndex, r.Priority)
			}
			for _, hop := range r.MultiPath {
				through.add(hop.LinkIndex, r.Priority)
			}
		}
	}
	return out
}
