package gather

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"warren/internal/hostroutes"
)

func TestTableOfOne(t *testing.T) {
	p := netip.MustParsePrefix
	table := []hostroutes.Route{
		{Prefix: p("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.168.1.1"), Interface: 4, Metric: 25},
		{Prefix: p("0.0.0.0/0"), Gateway: netip.MustParseAddr("192.168.1.2"), Interface: 4, Metric: 20},
		{Prefix: p("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.0.0.1"), Interface: 5, Scoped: true},
		{Prefix: p("::/0"), Gateway: netip.MustParseAddr("fe80::1"), Interface: 5},
		{Prefix: p("192.168.1.0/24"), Interface: 4},
		{Prefix: p("192.168.1.7/32"), Interface: 4, Own: true},
		{Prefix: p("10.0.0.0/8"), Interface: 5, Scoped: true},
		{Prefix: p("172.16.0.0/12"), Interface: 9},
	}
	w := waysOf(table)
	if d := cmp.Diff(ways{metrics{4: 20, 5: 1 << 20}, metrics{5: 0}}, w, cmp.AllowUnexported(ways{})); d != "" {
		t.Errorf("ways (-want +got)\n%s", d)
	}
	if !w.v4.prefers(4) || w.v4.prefers(5) {
		t.Error("a route for bound sockets goes before the one for all")
	}
	want := map[int][]netip.Prefix{4: {p("192.168.1.0/24")}, 9: {p("172.16.0.0/12")}}
	if d := cmp.Diff(want, prefixesByLink(table), cmpopts.EquateComparable(netip.Prefix{})); d != "" {
		t.Errorf("prefixes (-want +got)\n%s", d)
	}
	links := linksOf(map[int]string{4: "", 5: "", 9: "tun"}, w)
	if d := cmp.Diff(map[int]link{4: {"", true}, 5: {"", true}, 9: {"tun", false}}, links, cmp.AllowUnexported(link{})); d != "" {
		t.Errorf("links (-want +got)\n%s", d)
	}
}

func TestKinds(t *testing.T) {
	for name, want := range map[string]string{
		"en0": "", "utun3": "tun", "utun": "tun", "utunnel": "", "ipsec0": "xfrm", "ppp0": "ppp", "gif0": "sit", "bridge0": "", "lo0": "", "tap1": "tun", "awdl0": "",
	} {
		if got := kindByName(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, c := range []struct {
		ifType      uint32
		description string
		want        string
	}{
		{6, "Intel(R) Ethernet Connection", ""}, {71, "Wi-Fi 6", ""}, {6, "TAP-Windows Adapter V9", "tun"}, {53, "Some Tunnel", "tun"},
		{53, "WireGuard Tunnel", "wireguard"}, {23, "WAN Miniport (PPPOE)", "ppp"}, {131, "Teredo", "sit"}, {6, "Wintun Userspace Tunnel", "tun"},
	} {
		if got := kindByType(c.ifType, c.description); got != c.want {
			t.Errorf("%d %s: %q, want %q", c.ifType, c.description, got, c.want)
		}
	}
}
