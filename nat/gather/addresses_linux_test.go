package gather

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"warren/internal/netnstest"
)

func TestForeign(t *testing.T) {
	const p2p = net.FlagUp | net.FlagPointToPoint
	for _, tc := range []struct {
		name, kind string
		flags      net.Flags
		uplink     bool
		addr       string
		want       bool
	}{
		{"Ethernet", "", net.FlagUp, true, "192.168.1.5", false},
		{"Ethernet, no route", "", net.FlagUp, false, "192.168.1.5", false},
		{"bridge", "bridge", net.FlagUp, false, "172.17.0.1", false},
		{"VLAN behind CGNAT", "vlan", net.FlagUp, true, "100.64.3.3", false},
		{"WireGuard", "wireguard", p2p, false, "10.0.0.2", true},
		{"WireGuard with everything", "wireguard", p2p, true, "203.0.113.4", true},
		{"another mesh VPN", "tun", p2p, false, "100.101.1.1", true},
		{"OpenVPN with everything", "tun", p2p, true, "10.8.0.2", true},
		{"Ethernet VPN", "tun", net.FlagUp, false, "10.147.17.2", true},
		{"container's TAP", "tun", net.FlagUp, true, "10.0.2.100", false},
		{"PPPoE", "ppp", p2p, true, "203.0.113.4", false},
		{"PPPoE behind CGNAT", "ppp", p2p, true, "100.64.3.3", false},
		{"PPTP", "ppp", p2p, false, "192.168.9.2", true},
		{"tunnel broker", "sit", p2p, false, "2001:db8::2", false},
		{"IPsec", "xfrm", p2p, false, "10.3.0.1", true},
		{"GRE", "gre", p2p, false, "203.0.113.4", true},
		{"modem", "", p2p, true, "100.70.1.1", false},
		{"unknown tunnel", "", p2p, false, "100.101.1.1", true},
		{"unknown tunnel, private", "", p2p, false, "10.1.1.1", true},
		{"unknown tunnel, public", "", p2p, false, "203.0.113.4", false},
	} {
		if got := foreign(tc.kind, tc.flags, tc.uplink, netip.MustParseAddr(tc.addr)); got != tc.want {
			t.Errorf("%s: %t", tc.name, got)
		}
	}
}

// TestCandidateAddresses has a namespace with an uplink, another VPN's TUN device and our own.
func TestCandidateAddresses(t *testing.T) {
	netnstest.Run(t, candidateAddresses)
}

func candidateAddresses(t *testing.T) {
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	tun := func(name string, mode netlink.TuntapMode) netlink.Link {
		return &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: mode}
	}
	for _, i := range []struct {
		link netlink.Link
		addr string
	}{
		{&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer"}, "192.168.1.5/24"},
		{tun("other0", netlink.TUNTAP_MODE_TUN), "100.101.1.1/32"},
		{tun("zt0", netlink.TUNTAP_MODE_TAP), "10.147.17.2/24"},
		{tun("tap0", netlink.TUNTAP_MODE_TAP), "10.0.2.100/24"},
		{tun("warren0", netlink.TUNTAP_MODE_TUN), "100.80.0.1/32"},
	} {
		check(netlink.LinkAdd(i.link))
		a, err := netlink.ParseAddr(i.addr)
		check(err)
		check(netlink.AddrAdd(i.link, a))
		check(netlink.LinkSetUp(i.link))
		if name := i.link.Attrs().Name; name == "tap0" {
			check(netlink.RouteAdd(&netlink.Route{LinkIndex: i.link.Attrs().Index, Gw: net.IPv4(10, 0, 2, 2)}))
		}
	}
	texts := func(all []netip.Addr, err error) (out []string) {
		check(err)
		for _, a := range all {
			if a.Is4() {
				out = append(out, a.String())
			}
		}
		return out
	}
	if diff := cmp.Diff([]string{"10.0.2.100", "192.168.1.5"}, texts(CandidateAddresses("warren0"))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"10.0.2.100", "10.147.17.2", "100.101.1.1", "192.168.1.5"}, texts(HostAddresses("warren0"))); diff != "" {
		t.Error(diff)
	}
}

// TestUplinks has a namespace whose interfaces get default routes one after the other.
func TestUplinks(t *testing.T) {
	netnstest.Run(t, uplinks)
}

func uplinks(t *testing.T) {
	index := map[string]int{}
	for _, i := range []struct {
		name  string
		addrs []string
	}{
		{"eth0", []string{"192.0.2.1/24", "2001:db8::1/64", "198.51.100.1/32"}},
		{"eth1", []string{"192.0.2.2/24", "2001:db8::2/64", "198.51.100.1/32"}},
		{"lan0", []string{"192.168.7.1/24"}},
		{"warren0", []string{"100.80.0.1/32"}},
	} {
		name, addrs := i.name, i.addrs
		link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "far" + name}
		if err := netlink.LinkAdd(link); err != nil {
			t.Error(err)
			return
		}
		index[name] = link.Attrs().Index
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(a)
			if err == nil {
				err = netlink.AddrAdd(link, addr)
			}
			if err != nil {
				t.Error(err)
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Error(err)
		}
	}
	at := netip.MustParseAddr
	both4 := map[netip.Addr]int{at("192.0.2.1"): index["eth0"], at("192.0.2.2"): index["eth1"]}
	all := map[netip.Addr]int{at("2001:db8::2"): index["eth1"]}
	maps.Copy(all, both4)
	for _, step := range []struct {
		name, dst string // a new default route
		want      map[netip.Addr]int
		others    []netip.Addr
	}{
		{"eth0", "0.0.0.0/0", map[netip.Addr]int{}, nil},
		{"eth1", "::/0", map[netip.Addr]int{}, nil}, // one way in each family
		{"eth1", "0.0.0.0/0", both4, []netip.Addr{at("192.0.2.2")}},
		{"eth0", "::/0", all, []netip.Addr{at("192.0.2.2"), at("2001:db8::2")}}, // of a lower metric
		{"warren0", "0.0.0.0/0", all, []netip.Addr{at("192.0.2.2"), at("2001:db8::2")}},
	} {
		dst, err := netlink.ParseIPNet(step.dst)
		if err == nil {
			err = netlink.RouteAdd(&netlink.Route{LinkIndex: index[step.name], Dst: dst, Priority: index[step.name]})
		}
		if err != nil {
			t.Error(err)
		}
		got, err := Uplinks("warren0")
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(step.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("after a route to %s by %s (-want +got):\n%s", step.dst, step.name, diff)
		}
		others, err := OtherUplinks("warren0")
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(step.others, others, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("other uplinks after a route to %s by %s (-want +got):\n%s", step.dst, step.name, diff)
		}
	}
}

// TestConfined: an address whose interface has no default route, while another has one, reaches what that interface's routes lead to.
func TestConfined(t *testing.T) {
	netnstest.Run(t, func(t *testing.T) {
		check := func(want map[netip.Addr][]netip.Prefix) {
			t.Helper()
			got, err := Confined("warren0")
			if err != nil {
				t.Error(err)
			}
			compare := cmp.Options{
				cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
				cmpopts.SortSlices(netip.Prefix.Compare),
			}
			if diff := cmp.Diff(want, got, compare); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		links := map[string]*netlink.Bridge{}
		for name, addr := range map[string]string{"eth0": "192.0.2.1/24", "lan0": "10.1.0.1/16"} {
			link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
			parsed, err := netlink.ParseAddr(addr)
			if err := errors.Join(err, netlink.LinkAdd(link), netlink.AddrAdd(link, parsed), netlink.LinkSetUp(link)); err != nil {
				t.Error(err)
				return
			}
			links[name] = link
		}
		check(map[netip.Addr][]netip.Prefix{}) // without any default route nothing leaves by another link
		_, beyond, _ := net.ParseCIDR("10.9.0.0/16")
		if err := errors.Join(
			netlink.RouteReplace(&netlink.Route{LinkIndex: links["eth0"].Index, Gw: net.IPv4(192, 0, 2, 254)}),
			netlink.RouteReplace(&netlink.Route{LinkIndex: links["lan0"].Index, Dst: beyond, Gw: net.IPv4(10, 1, 0, 9)}),
		); err != nil {
			t.Error(err)
			return
		}
		check(map[netip.Addr][]netip.Prefix{
			netip.MustParseAddr("10.1.0.1"): {netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.9.0.0/16")},
		})
	})
}
