package gather

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"go4.org/netipx"

	"warren/internal/netdump"
)

// describeLinks asks the kernel about all interfaces, by index. What it does not tell is left out.
func describeLinks() map[int]link {
	out := map[int]link{}
	ways := defaultRoutes()
	links, _ := netdump.Whole(netlink.LinkList)
	for _, l := range links {
		kind, i := l.Type(), l.Attrs().Index
		switch kind { // the library has words of its own
		case "device":
			kind = ""
		case "tuntap":
			kind = "tun"
		}
		_, v4 := ways.v4[i]
		_, v6 := ways.v6[i]
		out[i] = link{kind, v4 || v6}
	}
	return out
}

// mainRoutes reads the main table: VPNs that take everything use others, or two halves.
func mainRoutes() []netlink.Route {
	routes, _ := netdump.Whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	return routes
}

func defaultRoutes() ways { return defaultsOf(mainRoutes()) }

func defaultsOf(routes []netlink.Route) ways {
	out := ways{metrics{}, metrics{}}
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones != 0 {
				continue
			}
		}
		through := out.v6
		if r.Family == netlink.FAMILY_V4 {
			through = out.v4
		}
		if r.LinkIndex != 0 {
			through.add(r.LinkIndex, r.Priority)
		}
		for _, hop := range r.MultiPath {
			through.add(hop.LinkIndex, r.Priority)
		}
	}
	return out
}

// routesByLink gives the default routes, and the prefixes of all routes by interface.
func routesByLink() (ways, map[int][]netip.Prefix) {
	routes, prefixes := mainRoutes(), map[int][]netip.Prefix{}
	for _, r := range routes {
		if r.Dst == nil || r.LinkIndex == 0 {
			continue
		}
		if p, ok := netipx.FromStdIPNet(r.Dst); ok {
			prefixes[r.LinkIndex] = append(prefixes[r.LinkIndex], p)
		}
	}
	return defaultsOf(routes), prefixes
}
