// Package routeplan decides which of the CIDRs that a device may use become routes into the tunnel, and what stays on the networks that the host is
// connected to. It is pure: Make gives the Plan for an Input, and Sites remembers which networks were shown to be a site.
//
// The routes of a plan go into a routing table of their own, which is looked at before the host's. A packet for a Local prefix is sent back to the
// host's own table (a throw route); one for a Refused prefix is answered with an ICMP error. As in any table, the longest prefix counts.
//
// Where a route and a connected network overlap, these are the rules, the first that applies:
//
//   - A link that the host itself serves wins: containers and virtual machines are not taken away from it.
//   - A network of which this device carries a part wins: it is a gateway there.
//   - What --prefer-lan names wins.
//   - A network that is shown to be the site that the route leads to wins: the office laptop in its office. It also wins over other routes that are
//     as wide or wider.
//   - Otherwise it is some café's, which has the same addresses by chance or on purpose (CVE-2023-36672, "TunnelCrack"), and the route wins. Only the
//     link's own router and DHCP server stay reached directly.
//
// The last rule holds also where the route is the narrower of the two: it has its own part.
//
// A network is shown to be the site of a route if a gateway of that route answers authenticated checks there, at an address of that network, and saw them come
// from this host's own address in it. That the gateway's address is in the network proves nothing by itself: whoever runs the café
// may have a host at that address pass the checks on. Then they come from somewhere else.
//
// What a device carries itself never goes into the tunnel, which is a part of why two gateways of one site do not send packets in circles (see
// tunnel/gateway/choose).
//
// With an exit node, connected networks go there too, but for routers and DHCP servers, unless access to the LAN is allowed. Even then only those
// with private or link-local addresses stay: nobody can have traffic for the internet stay outside by giving the host a public "local" network.
package routeplan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Link is a connected network of the host, other than the tunnel itself.
type Link struct {
	Interface string
	// Prefixes are the connected ones.
	Prefixes []netip.Prefix
	// Own are the host's addresses there, but for link-local ones.
	Own []netip.Addr
	// Routers are the next hops of default routes through it, DHCP the servers that gave its addresses.
	Routers, DHCP []netip.Addr
	// Served says that no router is there and the host made the link itself: bridge, veth, dummy, or an interface of another tunnel.
	Served bool
	// Generation is another one whenever the link may lead elsewhere: it lost its carrier or an address, or the host slept.
	Generation uint64
}

// Carried is what this device carries.
type Carried struct {
	Prefix netip.Prefix // as others see it
	LAN    netip.Prefix // as the LAN has it; Prefix unless translated
}

// Input is what a plan is made from.
type Input struct {
	// Networks are the network's own prefixes.
	Networks []netip.Prefix
	// Chosen are the CIDRs that have a gateway, with all addresses of a family for an exit node.
	Chosen  []netip.Prefix
	Carried []Carried
	Links   []Link
	// Shown says which networks are sites; see Sites.
	Shown []Shown
	// PreferLAN are the CIDRs for which connected networks win.
	PreferLAN []netip.Prefix
	// Exit says that all traffic is to leave through an exit node: a family without one is refused. AllowLAN excepts private connected networks.
	Exit, AllowLAN bool
}

// Plan is how packets are to go.
type Plan struct {
	// Routes lead into the tunnel, Local is left to the host's own table, Refused is unreachable. All are sorted, and no prefix is in two of them.
	Routes, Local, Refused []netip.Prefix
	Conflicts              []Conflict
}

// Conflict is where a route and a connected network overlap.
type Conflict struct {
	Route, Connected netip.Prefix
	Interface        string
	// LAN says that the connected network wins.
	LAN bool
	// Why is for a person.
	Why string
}

// Make makes the plan.
func Make(in Input) Plan {
	p := &planner{Input: in, routes: set{}, local: set{}, refused: set{}}
	for _, r := range slices.Concat(in.Networks, in.Chosen) {
		p.routes[r] = true
	}
	p.sorted = p.routes.sorted()
	if in.Exit {
		for _, all := range everything {
			if !p.routes[all] {
				p.refused[all] = true
			}
		}
	}
	for _, c := range in.Carried {
		p.own(c)
	}
	for _, link := range in.Links {
		for _, connected := range link.Prefixes {
			p.connected(link, connected.Masked())
		}
	}
	p.exits()
	return p.plan()
}

var everything = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// never are what a tunnel of routed packets cannot carry: they have a meaning on one link only.
var never = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

type set map[netip.Prefix]bool

func (s set) sorted() []netip.Prefix {
	var out []netip.Prefix
	for p := range s {
		out = append(out, p)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

type planner struct {
	Input
	routes, local, refused set
	sorted                 []netip.Prefix // routes
	conflicts              []Conflict
}

// own keeps what this device carries out of the tunnel. An exit node's own traffic has the host's default route anyway.
func (p *planner) own(c Carried) {
	for _, prefix := range []netip.Prefix{c.Prefix, c.LAN} {
		if prefix.Bits() > 0 {
			p.local[prefix] = true
		}
	}
}

// connected settles what becomes of one connected prefix and all routes that overlap it.
func (p *planner) connected(link Link, connected netip.Prefix) {
	for _, route := range p.sorted {
		if route.Bits() == 0 || connected.Bits() == 0 || !route.Overlaps(connected) {
			continue
		}
		part := narrower(route, connected)
		why := p.lanWins(link, connected, route, part)
		wins := why != ""
		if wins {
			p.local[part] = true
		} else {
			p.keepServers(link, connected, func(a netip.Addr) bool { return route.Contains(a) })
			p.preferParts(part)
			why = p.tunnelWins(link, part)
		}
		p.conflicts = append(p.conflicts, Conflict{route, connected, link.Interface, wins, why})
	}
}

// narrower is the part that two overlapping prefixes have in common.
func narrower(a, b netip.Prefix) netip.Prefix {
	if a.Bits() > b.Bits() {
		return a
	}
	return b
}

// inside tells whether all of a is in b.
func inside(a, b netip.Prefix) bool { return a.Bits() >= b.Bits() && b.Overlaps(a) }

// lanWins says why the connected network has the part, or "" if it has not.
func (p *planner) lanWins(link Link, connected, route, part netip.Prefix) string {
	if link.Served {
		return fmt.Sprintf("this host itself serves %s", link.Interface)
	}
	for _, c := range p.Carried {
		if c.LAN.Bits() > 0 && c.LAN.Overlaps(connected) {
			return fmt.Sprintf("this device carries %s, which is here", c.LAN)
		}
	}
	for _, mine := range p.PreferLAN {
		if inside(part, mine) {
			return fmt.Sprintf("--prefer-lan %s says so", mine)
		}
	}
	for _, s := range p.Shown {
		here := s.Network == connected && s.Interface == link.Interface && s.Generation == link.Generation
		switch {
		case !here || !p.routes[s.Route]:
		case s.Route == route:
			return "this is that site: a gateway of it is reached here"
		case inside(connected, route) && s.Route.Bits() > 0 && s.Route.Overlaps(connected):
			return fmt.Sprintf("this is the site of %s: a gateway of it is reached here", s.Route)
		}
	}
	return ""
}

func (p *planner) tunnelWins(link Link, part netip.Prefix) string {
	why := "this network has the same addresses, but is not shown to be that site"
	var kept []string
	for _, a := range slices.Concat(link.Routers, link.DHCP) {
		if s := a.Unmap().WithZone("").String(); part.Contains(a.Unmap().WithZone("")) && !slices.Contains(kept, s) {
			kept = append(kept, s)
		}
	}
	if len(kept) > 0 {
		why += "; only its router or DHCP server is reached here (" + strings.Join(kept, ", ") + ")"
	}
	return why + "; to reach its other hosts, use --prefer-lan " + part.String()
}

// preferParts has the LAN have what a person has named that is narrower than what a route and a network have in common.
func (p *planner) preferParts(part netip.Prefix) {
	for _, mine := range p.PreferLAN {
		if inside(mine, part) {
			p.local[mine] = true
		}
	}
}

// keepServers leaves a link's router and DHCP server reachable, where they are in the connected network and also accepted.
func (p *planner) keepServers(link Link, connected netip.Prefix, accept func(netip.Addr) bool) {
	for _, a := range slices.Concat(link.Routers, link.DHCP) {
		if a = a.Unmap().WithZone(""); connected.Contains(a) && accept(a) {
			p.local[netip.PrefixFrom(a, a.BitLen())] = true
		}
	}
}

// exits settles what becomes of connected networks where all traffic of a family leaves through an exit node, or is refused.
func (p *planner) exits() {
	for _, all := range everything {
		if !p.routes[all] && !p.refused[all] {
			continue
		}
		for _, n := range never {
			if n.Addr().Is4() == all.Addr().Is4() {
				p.local[n] = true
			}
		}
		for _, link := range p.Links {
			for _, connected := range link.Prefixes {
				connected = connected.Masked()
				switch {
				case connected.Addr().Is4() != all.Addr().Is4() || connected.Bits() == 0:
				case link.Served, p.AllowLAN && Private(connected):
					p.keep(connected)
				default:
					p.keepServers(link, connected, func(a netip.Addr) bool { return Private(netip.PrefixFrom(a, a.BitLen())) })
				}
			}
		}
	}
}

// keep leaves a connected network to the LAN, unless a route has the whole of it, which has been settled.
func (p *planner) keep(connected netip.Prefix) {
	for route := range p.routes {
		if route.Bits() > 0 && inside(connected, route) {
			return
		}
	}
	p.local[connected] = true
}

// Private tells whether all of a prefix is private (RFC 1918, RFC 4193), or of link-local scope.
func Private(p netip.Prefix) bool {
	return slices.ContainsFunc(privates, func(q netip.Prefix) bool { return inside(p, q) })
}

var privates = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"),
}

// plan leaves out what makes no difference.
func (p *planner) plan() Plan {
	for i := range p.conflicts {
		if c := &p.conflicts[i]; !c.LAN && p.local[narrower(c.Route, c.Connected)] {
			c.LAN, c.Why = true, "another link with the same network wins"
		}
	}
	for l := range p.local {
		delete(p.routes, l)
	}
	local := set{}
	for l := range p.local {
		if p.around(l) {
			local[l] = true
		}
	}
	slices.SortStableFunc(p.conflicts, func(a, b Conflict) int { return strings.Compare(a.Interface, b.Interface) })
	return Plan{p.routes.sorted(), local.sorted(), p.refused.sorted(), p.conflicts}
}

// around tells whether packets for l would not be left to the host without it: the next wider prefix of the table is a route or refused.
func (p *planner) around(l netip.Prefix) bool {
	for bits := l.Bits() - 1; bits >= 0; bits-- {
		q := netip.PrefixFrom(l.Addr(), bits).Masked()
		switch {
		case p.routes[q], p.refused[q]:
			return true
		case p.local[q]:
			return false
		}
	}
	return false
}
