package hostlinks

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"warren/internal/hostroutes"
	"warren/tunnel/routeplan"
)

// linksOf is Read on systems with one routing table. dhcp gives the server that an interface has its address from, served those that the host made itself.
func (r *Reader) linksOf(interfaces []hostroutes.Interface, table []hostroutes.Route, dhcp func(hostroutes.Interface) []netip.Addr, served func(string) bool) []routeplan.Link {
	var out []routeplan.Link
	for _, i := range interfaces {
		if i.Name == r.Ignore || i.Flags&net.FlagLoopback != 0 || i.Flags&net.FlagUp == 0 {
			continue
		}
		link := routeplan.Link{Interface: i.Name, Routers: gatewaysBy(table, i.Index)}
		for _, p := range i.Prefixes {
			if p.Addr().IsLinkLocalUnicast() {
				continue
			}
			if !slices.Contains(link.Own, p.Addr()) {
				link.Own = append(link.Own, p.Addr())
			}
			if !p.IsSingleIP() && !slices.Contains(link.Prefixes, p.Masked()) {
				link.Prefixes = append(link.Prefixes, p.Masked())
			}
		}
		if len(link.Prefixes) == 0 {
			continue
		}
		slices.SortFunc(link.Own, netip.Addr.Compare)
		slices.SortFunc(link.Prefixes, netip.Prefix.Compare)
		link.DHCP = dhcp(i)
		link.Served = len(link.Routers) == 0 && served(i.Name)
		link.Generation = r.generation(i.Name, fmt.Sprint(i.Index, i.Flags&net.FlagRunning, link.Prefixes, link.Routers))
		out = append(out, link)
	}
	slices.SortFunc(out, func(a, b routeplan.Link) int { return strings.Compare(a.Interface, b.Interface) })
	r.keep(out)
	return out
}

// gatewaysBy are the next hops of default routes by an interface, also those for bound sockets.
func gatewaysBy(table []hostroutes.Route, index int) (out []netip.Addr) {
	for _, t := range table {
		if t.Default() && t.Interface == index && t.Gateway.IsValid() && !slices.Contains(out, t.Gateway) {
			out = append(out, t.Gateway)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// servedByName tells the interfaces of virtual machines and containers on macOS and Windows by what their makers call them.
func servedByName(name string) bool {
	for _, prefix := range []string{"bridge", "vmnet", "vmenet", "vboxnet", "utun", "feth", "vEthernet", "VMware", "VirtualBox"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// neighboursOf are the hosts among what the neighbour caches have, but for the tunnel's and link-local ones.
func neighboursOf(found map[netip.Addr]int, tunnel int) (out []netip.Addr) {
	for a, by := range found {
		if by != tunnel && !a.IsLinkLocalUnicast() && !a.IsMulticast() {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}
