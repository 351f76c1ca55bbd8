package hostlinks

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"warren/internal/netdump"
	"warren/tunnel/routeplan"
)

// Read gives the links that are up and have addresses, by name.
func (r *Reader) Read() ([]routeplan.Link, error) {
	links, err := netdump.Whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("links of this host: %w", err)
	}
	addrs, err := netdump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("addresses of this host: %w", err)
	}
	routes, err := netdump.Whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("routes of this host: %w", err)
	}
	var out []routeplan.Link
	for _, l := range links {
		a := l.Attrs()
		if a.Name == r.Ignore || a.Flags&net.FlagLoopback != 0 || a.Flags&net.FlagUp == 0 {
			continue
		}
		link := routeplan.Link{
			Interface: a.Name, Prefixes: prefixesOf(addrs, a.Index), Own: ownOf(addrs, a.Index), Routers: routersOf(routes, a.Index),
			DHCP: dhcpServers(a.Index, a.Name),
		}
		if len(link.Prefixes) == 0 {
			continue
		}
		link.Served = len(link.Routers) == 0 && served(l.Type())
		link.Generation = r.generation(a.Name, fmt.Sprint(a.Index, a.OperState, link.Prefixes, link.Routers))
		out = append(out, link)
	}
	slices.SortFunc(out, func(a, b routeplan.Link) int { return strings.Compare(a.Interface, b.Interface) })
	r.keep(out)
	return out, nil
}

// served tells whether links of a kind lead to what the host itself runs, where no router is.
func served(kind string) bool {
	return slices.Contains([]string{"bridge", "veth", "dummy", "tuntap", "wireguard", "vxlan", "ipvlan", "macvlan"}, kind)
}

// prefixesOf are the connected networks of a link, each once.
func prefixesOf(addrs []netlink.Addr, index int) (out []netip.Prefix) {
	for _, a := range addrs {
		if a.LinkIndex != index || a.IPNet == nil {
			continue
		}
		network := a.IPNet
		if a.Peer != nil {
			network = a.Peer // of a point-to-point link, what is connected is the other end
		}
		p, ok := netipx.FromStdIPNet(network)
		if !ok || !p.IsValid() || p.IsSingleIP() || p.Addr().IsLinkLocalUnicast() || slices.Contains(out, p.Masked()) {
			continue
		}
		out = append(out, p.Masked())
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

// ownOf are the addresses that the host has on a link, also those of no network, as virtual ones are. Link-local ones are left out.
func ownOf(addrs []netlink.Addr, index int) (out []netip.Addr) {
	for _, a := range addrs {
		if a.LinkIndex != index || a.IPNet == nil {
			continue
		}
		if ip, ok := netip.AddrFromSlice(a.IPNet.IP); ok && !ip.Unmap().IsLinkLocalUnicast() {
			out = append(out, ip.Unmap())
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// routersOf are the next hops of default routes by a link.
func routersOf(routes []netlink.Route, index int) (out []netip.Addr) {
	add := func(to net.IP, by int) {
		if a, ok := netip.AddrFromSlice(to); ok && by == index && !slices.Contains(out, a.Unmap()) {
			out = append(out, a.Unmap())
		}
	}
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones > 0 {
				continue
			}
		}
		add(r.Gw, r.LinkIndex)
		for _, hop := range r.MultiPath {
			add(hop.Gw, hop.LinkIndex)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// dhcpServers finds the server that gave a link its address in the leases of the clients that most systems have. It is often the router; where it is
// not and nothing is found, the address is renewed by broadcast when the time comes.
func dhcpServers(index int, name string) (out []netip.Addr) {
	files := []string{fmt.Sprintf("/run/systemd/netif/leases/%d", index)}
	for _, pattern := range []string{"/var/lib/NetworkManager/*-" + name + ".lease", "/var/lib/dhcp/dhclient*" + name + "*.leases"} {
		found, _ := filepath.Glob(pattern) // the patterns are well formed, but for what a name may have in it
		files = append(files, found...)
	}
	for _, f := range files {
		if a, ok := leaseServer(f); ok && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// leaseServer reads the newest server out of a lease: SERVER_ADDRESS=A of systemd, or "option dhcp-server-identifier A;" of dhclient.
func leaseServer(file string) (server netip.Addr, ok bool) {
	f, err := os.Open(file)
	if err != nil {
		return server, false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		value, found := strings.CutPrefix(line, "SERVER_ADDRESS=")
		if !found {
			value, found = strings.CutPrefix(line, "option dhcp-server-identifier ")
		}
		if a, err := netip.ParseAddr(strings.TrimSuffix(value, ";")); found && err == nil {
			server, ok = a, true
		}
	}
	return server, ok
}
