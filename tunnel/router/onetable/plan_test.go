package onetable

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"warren/internal/hostroutes"
)

const tunnel, lan, other = 9, 2, 3

func prefixes(text string) (out []netip.Prefix) {
	for _, f := range strings.Fields(text) {
		out = append(out, netip.MustParsePrefix(f))
	}
	return out
}

func onLink(prefix string, index int) hostroutes.Route {
	return hostroutes.Route{Prefix: netip.MustParsePrefix(prefix), Interface: index}
}

func via(prefix, gateway string, index int) hostroutes.Route {
	return hostroutes.Route{Prefix: netip.MustParsePrefix(prefix), Gateway: netip.MustParseAddr(gateway), Interface: index}
}

func own(r hostroutes.Route) hostroutes.Route { r.Own = true; return r }

func scoped(r hostroutes.Route) hostroutes.Route { r.Scoped = true; return r }

func costly(r hostroutes.Route) hostroutes.Route { r.Metric = 50; return r }

var sameAddr = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}

func TestPlan(t *testing.T) {
	home := []hostroutes.Route{via("0.0.0.0/0", "192.168.1.1", lan), onLink("192.168.1.0/24", lan), own(onLink("192.168.1.7/32", lan)), onLink("224.0.0.0/4", lan)}
	for name, c := range map[string]struct {
		routes, local string
		table         []hostroutes.Route
		want          []hostroutes.Route
	}{
		"nothing":                               {"", "", home, nil},
		"network":                               {"100.64.0.0/10 fd77::/48", "", home, []hostroutes.Route{onLink("100.64.0.0/10", tunnel), onLink("fd77::/48", tunnel)}},
		"a LAN that wins, where it is narrower": {"192.168.0.0/16", "192.168.1.0/24", home, []hostroutes.Route{onLink("192.168.0.0/16", tunnel)}},
		"a LAN that wins, of the same prefix":   {"192.168.1.0/24", "192.168.1.0/24", home, nil},
		"a café's LAN, but for its router": {"192.168.1.0/24", "192.168.1.1/32", home, []hostroutes.Route{
			onLink("192.168.1.0/25", tunnel), onLink("192.168.1.128/25", tunnel), onLink("192.168.1.1/32", lan),
		}},
		"a café's LAN inside the route": {"192.168.0.0/16", "192.168.1.1/32", home, []hostroutes.Route{
			onLink("192.168.0.0/16", tunnel), onLink("192.168.1.0/25", tunnel), onLink("192.168.1.128/25", tunnel), onLink("192.168.1.1/32", lan),
		}},
		"all": {"0.0.0.0/0", "192.168.1.0/24 10.9.0.0/16", home, []hostroutes.Route{
			onLink("0.0.0.0/1", tunnel), onLink("128.0.0.0/1", tunnel), via("10.9.0.0/16", "192.168.1.1", lan),
		}},
		"halves that are taken as well": {"0.0.0.0/0", "", []hostroutes.Route{via("0.0.0.0/0", "192.168.1.1", lan), onLink("128.0.0.0/1", other)}, []hostroutes.Route{
			onLink("0.0.0.0/1", tunnel), onLink("128.0.0.0/2", tunnel), onLink("192.0.0.0/2", tunnel),
		}},
		"one address that another has taken stays": {"10.0.0.1/32", "", []hostroutes.Route{via("10.0.0.1/32", "192.168.1.1", lan)}, nil},
		"what stays out has no way":                {"10.0.0.0/8", "10.1.0.0/16", nil, []hostroutes.Route{onLink("10.0.0.0/8", tunnel)}},
		"the cheaper of two": {"10.0.0.0/8", "10.1.0.0/16", []hostroutes.Route{costly(via("0.0.0.0/0", "172.16.0.1", other)), via("0.0.0.0/0", "192.168.1.1", lan)},
			[]hostroutes.Route{onLink("10.0.0.0/8", tunnel), via("10.1.0.0/16", "192.168.1.1", lan)}},
		"routes for bound sockets count as none": {"10.0.0.0/8", "10.1.0.0/16", []hostroutes.Route{scoped(via("0.0.0.0/0", "172.16.0.1", other))},
			[]hostroutes.Route{onLink("10.0.0.0/8", tunnel)}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Plan(tunnel, prefixes(c.routes), prefixes(c.local), c.table)
			if d := cmp.Diff(c.want, got, sameAddr); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// lookup is a table read from end to end.
func lookup(table []hostroutes.Route, a netip.Addr) (found hostroutes.Route, ok bool) {
	for _, r := range table {
		if r.Prefix.Contains(a) && (!ok || r.Prefix.Bits() > found.Prefix.Bits()) {
			found, ok = r, true
		}
	}
	return found, ok
}

// twoTables is what Linux does: the routes and the throws first, and then the host's own.
func twoTables(routes, local []netip.Prefix, under []hostroutes.Route, a netip.Addr) (hostroutes.Route, bool) {
	var first []hostroutes.Route
	for _, p := range local {
		first = append(first, hostroutes.Route{Prefix: p})
	}
	for _, p := range routes {
		first = append(first, hostroutes.Route{Prefix: p, Interface: tunnel})
	}
	if r, ok := lookup(first, a); ok && r.Interface == tunnel {
		return r, true
	}
	return lookup(under, a)
}

// TestPlanIsTwoTables compares with the rules that Linux goes by, for every address of a small world.
func TestPlanIsTwoTables(t *testing.T) {
	space := netip.MustParseAddr("10.0.0.0").As4()
	at := func(n uint32) netip.Addr {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(space[:])+n)
		return netip.AddrFrom4(b)
	}
	// One address narrower than 28 bits is never the end of a prefix: halves have to exist.
	random := func(r *rand.Rand, n int) (out []netip.Prefix) {
		for range r.IntN(n) {
			p := netip.PrefixFrom(at(r.Uint32N(256)), 23+r.IntN(6)).Masked()
			if !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
		return out
	}
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 0))
		routes, local := random(r, 5), random(r, 5)
		under := []hostroutes.Route{via("0.0.0.0/0", "192.168.1.1", lan)}
		for i, p := range random(r, 5) {
			under = append(under, hostroutes.Route{Prefix: p, Interface: 100 + i})
		}
		added := Plan(tunnel, routes, local, under)
		one := slices.Concat(under, added)
		for i, a := range added {
			if slices.ContainsFunc(one[:len(under)+i], func(r hostroutes.Route) bool { return r.Prefix == a.Prefix }) {
				t.Fatalf("seed %d: %s is added though it is there", seed, a.Prefix)
			}
		}
		for n := range uint32(256) {
			want, _ := twoTables(routes, local, under, at(n))
			got, _ := lookup(one, at(n))
			if want.Interface != got.Interface || want.Gateway != got.Gateway {
				t.Fatalf("seed %d: %s goes by %+v, want %+v\nroutes %v\nlocal %v\ntable %v\nadded %v", seed, at(n), got, want, routes, local, under, added)
			}
		}
	}
}
