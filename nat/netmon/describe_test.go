package netmon

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/internal/hostroutes"
)

func TestDescribe(t *testing.T) {
	prefixes := func(text ...string) (out []netip.Prefix) {
		for _, p := range text {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	interfaces := []hostroutes.Interface{
		{Index: 4, Name: "en0", Flags: net.FlagUp, Prefixes: prefixes("192.168.1.7/24", "fe80::7/64")},
		{Index: 5, Name: "en1", Prefixes: prefixes("10.0.0.7/24")},
		{Index: 9, Name: "utun4", Flags: net.FlagUp, Prefixes: prefixes("100.64.0.5/32")},
	}
	route := func(p string, index int) hostroutes.Route {
		return hostroutes.Route{Prefix: netip.MustParsePrefix(p), Interface: index}
	}
	way := route("0.0.0.0/0", 4)
	way.Gateway = netip.MustParseAddr("192.168.1.1")
	neighbour := route("192.168.1.1/32", 4)
	neighbour.Own = true
	table := []hostroutes.Route{way, route("192.168.1.0/24", 4), neighbour, route("100.64.0.0/10", 9), route("fe80::/64", 4), route("224.0.0.0/4", 4)}
	want := strings.Join([]string{"address 192.168.1.7/24 on 4", "route 0.0.0.0/0 by 192.168.1.1 on 4", "route 192.168.1.0/24 by invalid IP on 4"}, "\n")
	if d := cmp.Diff(want, describe(interfaces, table, "utun4")); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	slices.Reverse(table)
	if d := cmp.Diff(want, describe(interfaces, table, "utun4")); d != "" {
		t.Errorf("in another order (-want +got)\n%s", d)
	}
	table[len(table)-1].Gateway = netip.MustParseAddr("192.168.1.254")
	if describe(interfaces, table, "utun4") == want {
		t.Error("another router makes no difference")
	}
}
