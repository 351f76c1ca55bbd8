package gather

import (
	"maps"
	"net"
	"net/netip"
	"slices"
)

// HostAddresses lists the addresses of the interfaces that are up, except those of one of them. Deprecated and tentative ones are not told
// apart here: a check that finds no answer harms nobody.
func HostAddresses(except string) ([]netip.Addr, error) {
	return hostAddresses(except, func(net.Interface, netip.Addr) bool { return true })
}

// CandidateAddresses is HostAddresses without those of other VPNs: a tunnel inside another's tunnel is slower than its underlay, goes round in
// circles when both do it, and the peer would have to be in that VPN too.
func CandidateAddresses(except string) ([]netip.Addr, error) {
	about := describeLinks()
	return hostAddresses(except, func(i net.Interface, a netip.Addr) bool {
		l := about[i.Index]
		return !foreign(l.kind, i.Flags, l.uplink, a)
	})
}

func hostAddresses(except string, keep func(net.Interface, netip.Addr) bool) ([]netip.Addr, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || i.Name == except {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // the interface went away in between
		}
		for _, a := range addrs {
			if p, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(p.IP); ok && keep(i, ip.Unmap()) {
					out = append(out, ip.Unmap())
				}
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}

// link is what the system tells about an interface: its kind, in the words of ip-link(8), empty for a real one and where that is not known, and
// whether a default route goes through it.
type link struct {
	kind   string
	uplink bool
}

var cgnat = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598; also what other mesh VPNs give their devices

// foreign tells whether an address on an interface is another VPN's. Many kinds of interface serve both VPNs and ways to the internet: there
// the default route, or a public address, tells.
func foreign(kind string, flags net.Flags, uplink bool, a netip.Addr) bool {
	pointToPoint := flags&net.FlagPointToPoint != 0
	public := a.IsGlobalUnicast() && !a.IsPrivate() && !cgnat.Contains(a)
	switch kind {
	case "wireguard":
		return true
	case "tun": // also TAP devices, by which containers and virtual machines may have their network
		return pointToPoint || !uplink
	case "ipip", "gre", "gretap", "ip6gre", "ip6gretap", "vti", "vti6", "xfrm", "ovpn", "l2tp":
		return !uplink
	case "ppp", "sit", "ip6tnl": // PPPoE and tunnel brokers
		return !uplink && !public
	}
	return pointToPoint && !uplink && !public
}

// Uplinks tells, for hosts with several ways out, by which interface, given by its index, what has a certain source address must leave: that of
// the address, if a default route goes through it. It leaves out what is on several interfaces. The kernel chooses by the destination alone, and so
// has all leave by the route that it prefers; with IPv6, where an interface costs the choice of the source address, that one is left out. With one
// way out there is nothing to tell.
func Uplinks(except string) (map[netip.Addr]int, error) {
	ways := defaultRoutes()
	out := map[netip.Addr]int{}
	_, err := hostAddresses(except, func(i net.Interface, a netip.Addr) bool {
		through := ways.of(a)
		if _, ok := through[i.Index]; !ok || len(through) < 2 || a.IsLinkLocalUnicast() || a.Is6() && through.prefers(i.Index) {
			return false
		}
		if _, twice := out[a]; twice {
			out[a] = 0
			return false
		}
		out[a] = i.Index
		return true
	})
	maps.DeleteFunc(out, func(_ netip.Addr, index int) bool { return index == 0 })
	return out, err
}

// Confined tells of the addresses whose interface has no default route while another has one: which prefixes are reached through it. What is sent from
// there to elsewhere leaves by a default route all the same, with a source to which no answer comes back.
func Confined(except string) (map[netip.Addr][]netip.Prefix, error) {
	ways, routes := routesByLink()
	out := map[netip.Addr][]netip.Prefix{}
	_, err := hostAddresses(except, func(i net.Interface, a netip.Addr) bool {
		through := ways.of(a)
		if _, ok := through[i.Index]; ok || len(through) == 0 || a.IsLinkLocalUnicast() {
			return false
		}
		for _, p := range routes[i.Index] {
			if p.Addr().Is4() == a.Is4() && !p.Addr().IsLinkLocalUnicast() && !p.Addr().IsMulticast() {
				out[a] = append(out[a], p)
			}
		}
		return true
	})
	return out, err
}

// OtherUplinks gives an address of each interface with a default route besides those that the kernel prefers: what is not pinned never leaves
// there.
func OtherUplinks(except string) (out []netip.Addr, err error) {
	ways := defaultRoutes()
	type end struct {
		index int
		is4   bool
	}
	seen := map[end]bool{}
	_, err = hostAddresses(except, func(i net.Interface, a netip.Addr) bool {
		at := end{i.Index, a.Is4()}
		through := ways.of(a)
		if _, ok := through[i.Index]; ok && len(through) > 1 && !through.prefers(i.Index) && !a.IsLinkLocalUnicast() && !seen[at] {
			seen[at] = true
			out = append(out, a)
		}
		return false
	})
	return out, err
}

// metrics are those of default routes, the lowest for each interface, by its index.
type metrics map[int]int

func (m metrics) add(index, metric int) {
	if old, ok := m[index]; !ok || metric < old {
		m[index] = metric
	}
}

// prefers reports whether the route through an interface is the one that is taken.
func (m metrics) prefers(index int) bool {
	for i, metric := range m {
		if i != index && metric <= m[index] {
			return false
		}
	}
	return true
}

// ways are default routes, by address family.
type ways struct{ v4, v6 metrics }

// of gives those of an address's family.
func (w ways) of(a netip.Addr) metrics {
	if a.Is4() {
		return w.v4
	}
	return w.v6
}
