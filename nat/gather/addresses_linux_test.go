package gather

import (
	"net"
	"net/netip"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
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

// TestCandidateAddresses has a namespace with an uplink, another VPN's TUN device and our own. The thread stays locked and dies with the goroutine.
func TestCandidateAddresses(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		candidateAddresses(t)
	}()
	<-done
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
