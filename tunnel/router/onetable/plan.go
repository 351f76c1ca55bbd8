// Package onetable has packets go as package router's State asks on hosts that have a single routing table, such as macOS and Windows, where no rule
// sends them to another table first. Plan is the pure part: which routes to add to the table that there is. A Host keeps interface and table in line
// with a State through the few calls of a System, and has what outlives a process in a journal; CleanUp takes that back after a crash.
package onetable

import (
	"net/netip"

	"github.com/gaissmai/bart"

	"warren/internal/hostroutes"
)

// Plan gives the routes to add to a table so that what the longest prefix in routes or local leads to a route goes by the interface tunnel, and all else
// as the table has it. Of the same prefix in both lists, that in local counts. The table has none of the routes that an earlier Plan asked for.
//
// A table has one route for a prefix. Where it has one already that is to go into the tunnel, its two halves are added in place of it, and so on. What has
// to stay out of the tunnel gets a route of its own, a copy of what it had. No route of others is removed or replaced.
//
// Left alone are the host's own addresses and its neighbours, and what has a meaning on one link only: multicast and link-local addresses.
func Plan(tunnel int, routes, local []netip.Prefix, table []hostroutes.Route) []hostroutes.Route {
	var out []hostroutes.Route
	for _, is4 := range []bool{true, false} {
		out = append(out, newPlanner(tunnel, is4, routes, local, table).plan()...)
	}
	return out
}

// way is where packets go.
type way struct {
	index   int
	gateway netip.Addr
}

type planner struct {
	tunnel way
	is4    bool
	asked  bart.Table[bool] // true: into the tunnel
	under  bart.Table[way]  // the table as it is
	whole  bart.Table[way]  // with what is added
	// nodes are the prefixes at which the way may change, by length.
	nodes [129][]netip.Prefix
	seen  map[netip.Prefix]bool
}

func newPlanner(tunnel int, is4 bool, routes, local []netip.Prefix, table []hostroutes.Route) *planner {
	p := &planner{tunnel: way{index: tunnel}, is4: is4, seen: map[netip.Prefix]bool{}}
	for i, list := range [][]netip.Prefix{routes, local} {
		for _, r := range list {
			if r.Addr().Is4() == is4 {
				p.asked.Insert(r, i == 0)
				p.node(r)
			}
		}
	}
	costs := map[netip.Prefix]int{}
	for _, r := range table {
		if r.Prefix.Addr().Is4() != is4 || !isWay(r) {
			continue
		}
		if cost, twice := costs[r.Prefix]; twice && cost <= r.Metric {
			continue
		}
		costs[r.Prefix] = r.Metric
		p.under.Insert(r.Prefix, way{r.Interface, r.Gateway})
		p.whole.Insert(r.Prefix, way{r.Interface, r.Gateway})
		p.node(r.Prefix)
	}
	return p
}

var loopback4 = netip.MustParsePrefix("127.0.0.0/8")

// isWay leaves out what no route of ours may change.
func isWay(r hostroutes.Route) bool {
	a := r.Prefix.Addr()
	return !r.Scoped && !r.Own && !a.IsMulticast() && !a.IsLinkLocalUnicast() && !a.IsLoopback() && !loopback4.Contains(a) &&
		r.Prefix != netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), 32)
}

func (p *planner) node(n netip.Prefix) {
	if !p.seen[n] {
		p.seen[n] = true
		p.nodes[n.Bits()] = append(p.nodes[n.Bits()], n)
	}
}

// plan goes from wide to narrow, so that what a prefix gets without a route of its own is known when it comes to it.
func (p *planner) plan() (out []hostroutes.Route) {
	for bits := range p.nodes {
		for i := 0; i < len(p.nodes[bits]); i++ {
			n := p.nodes[bits][i]
			want, ok := p.wanted(n)
			if _, taken := p.under.Get(n); taken {
				if ok && want == p.tunnel {
					p.halve(n)
				}
				continue
			}
			if has, some := p.whole.LookupPrefix(n); ok && (!some || has != want) {
				p.whole.Insert(n, want)
				out = append(out, hostroutes.Route{Prefix: n, Gateway: want.gateway, Interface: want.index})
			}
		}
	}
	return out
}

// wanted is the way of packets for n, but for its narrower parts.
func (p *planner) wanted(n netip.Prefix) (way, bool) {
	if into, _ := p.asked.LookupPrefix(n); into {
		return p.tunnel, true
	}
	return p.under.LookupPrefix(n)
}

// halve gives the halves of n routes of their own. One address has none, and stays with the route that it has.
func (p *planner) halve(n netip.Prefix) {
	if n.IsSingleIP() {
		return
	}
	b := n.Addr().AsSlice()
	b[n.Bits()/8] |= 0x80 >> (n.Bits() % 8)
	upper, _ := netip.AddrFromSlice(b)
	p.node(netip.PrefixFrom(n.Addr(), n.Bits()+1))
	p.node(netip.PrefixFrom(upper, n.Bits()+1))
}
