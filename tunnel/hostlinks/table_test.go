package hostlinks

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"warren/internal/hostroutes"
	"warren/tunnel/routeplan"
)

func addrs(text ...string) (out []netip.Addr) {
	for _, a := range text {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func nets(text ...string) (out []netip.Prefix) {
	for _, p := range text {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestLinksOf(t *testing.T) {
	up := net.FlagUp | net.FlagRunning
	interfaces := []hostroutes.Interface{
		{Index: 1, Name: "lo0", Flags: up | net.FlagLoopback, Prefixes: nets("127.0.0.1/8")},
		{Index: 9, Name: "utun4", Flags: up, Prefixes: nets("100.64.0.5/32", "100.64.0.0/10")},
		{Index: 6, Name: "bridge100", Flags: up, Prefixes: nets("192.168.64.1/24")},
		{Index: 4, Name: "en0", Flags: up, Prefixes: nets("fe80::7/64", "192.168.1.7/24", "192.168.1.9/32", "2001:db8::7/64", "2001:db8::8/64")},
		{Index: 5, Name: "en1", Prefixes: nets("10.0.0.7/24")},
		{Index: 7, Name: "en5", Flags: up, Prefixes: nets("169.254.3.3/16")},
	}
	route := func(p, gateway string, index int) hostroutes.Route {
		return hostroutes.Route{Prefix: netip.MustParsePrefix(p), Gateway: netip.MustParseAddr(gateway), Interface: index}
	}
	scoped := route("::/0", "fe80::1", 4)
	scoped.Scoped = true
	table := []hostroutes.Route{route("0.0.0.0/0", "192.168.1.1", 4), scoped, route("10.0.0.0/8", "192.168.1.2", 4), route("0.0.0.0/0", "10.0.0.1", 5)}
	dhcp := func(i hostroutes.Interface) []netip.Addr {
		if i.Name == "en0" {
			return addrs("192.168.1.3")
		}
		return nil
	}
	r := &Reader{Ignore: "utun4"}
	read := func() []routeplan.Link { return r.linksOf(interfaces, table, dhcp, servedByName) }
	want := []routeplan.Link{
		{Interface: "bridge100", Prefixes: nets("192.168.64.0/24"), Own: addrs("192.168.64.1"), Served: true, Generation: 1},
		{
			Interface: "en0", Prefixes: nets("192.168.1.0/24", "2001:db8::/64"), Own: addrs("192.168.1.7", "192.168.1.9", "2001:db8::7", "2001:db8::8"),
			Routers: addrs("192.168.1.1", "fe80::1"), DHCP: addrs("192.168.1.3"), Generation: 2,
		},
	}
	same := cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}
	if d := cmp.Diff(want, read(), same); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	if d := cmp.Diff(want, read(), same); d != "" {
		t.Errorf("again (-want +got)\n%s", d)
	}
	table[0] = route("0.0.0.0/0", "192.168.1.254", 4)
	if got := read(); got[0].Generation != 1 || got[1].Generation != 3 {
		t.Errorf("another router: generations %d and %d", got[0].Generation, got[1].Generation)
	}
	interfaces[3].Flags = net.FlagUp
	if got := read(); got[1].Generation != 4 {
		t.Errorf("no carrier: generation %d", got[1].Generation)
	}
}

func TestNeighboursOf(t *testing.T) {
	found := map[netip.Addr]int{}
	for i, a := range addrs("192.168.1.9", "192.168.1.1", "100.64.0.9", "fe80::1", "224.0.0.251", "2001:db8::9") {
		found[a] = 4
		if i == 2 {
			found[a] = 9
		}
	}
	if d := cmp.Diff(addrs("192.168.1.1", "192.168.1.9", "2001:db8::9"), neighboursOf(found, 9), cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}
