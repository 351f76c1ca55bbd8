package hostlinks

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"warren/internal/netnstest"
	"warren/tunnel/routeplan"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func add(t *testing.T, link netlink.Link, addrs ...string) netlink.Link {
	t.Helper()
	must(t, netlink.LinkAdd(link))
	for _, a := range addrs {
		parsed, err := netlink.ParseAddr(a)
		must(t, err)
		must(t, netlink.AddrAdd(link, parsed))
	}
	must(t, netlink.LinkSetUp(link))
	return link
}

func named(name string) netlink.LinkAttrs { return netlink.LinkAttrs{Name: name} }

func defaultRoute(t *testing.T, link netlink.Link, by string) {
	t.Helper()
	must(t, netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: netip.MustParseAddr(by).AsSlice()}))
}

var compare = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmpopts.EquateEmpty(),
}

func TestRead(t *testing.T) {
	netnstest.Run(t, func(t *testing.T) {
		// A cable to a router, two networks of the host's own, and the tunnel.
		cable := add(t, &netlink.Veth{LinkAttrs: named("eth0"), PeerName: "other"}, "192.168.7.5/24", "192.168.7.100/32", "2001:db8:7::5/64")
		peer, err := netlink.LinkByName("other")
		must(t, err)
		must(t, netlink.LinkSetUp(peer))
		defaultRoute(t, cable, "192.168.7.1")
		add(t, &netlink.Bridge{LinkAttrs: named("docker0")}, "172.17.0.1/16")
		add(t, &netlink.Bridge{LinkAttrs: named("point")}, "10.9.9.9/32")
		add(t, &netlink.Bridge{LinkAttrs: named("warren0")}, "100.64.0.1/16")

		r := Reader{Ignore: "warren0"}
		got, err := r.Read()
		must(t, err)
		want := []routeplan.Link{
			{
				Interface: "docker0", Prefixes: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")}, Served: true,
				Own: []netip.Addr{netip.MustParseAddr("172.17.0.1")},
			},
			{
				Interface: "eth0", Routers: []netip.Addr{netip.MustParseAddr("192.168.7.1")},
				Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24"), netip.MustParsePrefix("2001:db8:7::/64")},
				Own:      []netip.Addr{netip.MustParseAddr("192.168.7.5"), netip.MustParseAddr("192.168.7.100"), netip.MustParseAddr("2001:db8:7::5")},
			},
		}
		if diff := cmp.Diff(want, got, compare, cmpopts.IgnoreFields(routeplan.Link{}, "Generation")); diff != "" {
			t.Errorf("links (-want +got):\n%s", diff)
		}
	})
}

// TestGeneration: a link that leads elsewhere is another one, and one that does not is the same.
func TestGeneration(t *testing.T) {
	netnstest.Run(t, func(t *testing.T) {
		link := add(t, &netlink.Bridge{LinkAttrs: named("eth0")}, "192.168.7.5/24")
		var r Reader
		generation := func() uint64 {
			t.Helper()
			links, err := r.Read()
			must(t, err)
			if len(links) != 1 {
				t.Fatalf("links %v", links)
			}
			return links[0].Generation
		}
		first := generation()
		if again := generation(); again != first {
			t.Errorf("generation %d became %d without a reason", first, again)
		}
		defaultRoute(t, link, "192.168.7.1")
		second := generation()
		defaultRoute(t, link, "192.168.7.2")
		third := generation()
		r.Forget()
		if fourth := generation(); second == first || third == second || fourth == third {
			t.Errorf("generations %d, %d, %d, %d, want four", first, second, third, fourth)
		}
	})
}

func TestLeaseServer(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"systemd":   {"# comment\nADDRESS=192.168.7.5\nSERVER_ADDRESS=192.168.7.2\n", "192.168.7.2"},
		"dhclient":  {"lease {\n  option dhcp-server-identifier 10.0.0.1;\n}\nlease {\n  option dhcp-server-identifier 10.0.0.2;\n}\n", "10.0.0.2"},
		"nothing":   {"ADDRESS=192.168.7.5\n", "invalid IP"},
		"malformed": {"SERVER_ADDRESS=x\n", "invalid IP"},
	} {
		file := filepath.Join(t.TempDir(), "lease")
		must(t, os.WriteFile(file, []byte(tc.text), 0o600))
		if got, ok := leaseServer(file); got.String() != tc.want || ok != (tc.want != "invalid IP") {
			t.Errorf("%s: %s, %v, want %s", name, got, ok, tc.want)
		}
	}
	if _, ok := leaseServer(filepath.Join(t.TempDir(), "none")); ok {
		t.Error("a lease that is not there has a server")
	}
}

func TestNeighbours(t *testing.T) {
	netnstest.Run(t, func(t *testing.T) {
		link := add(t, &netlink.Bridge{LinkAttrs: named("eth1")}, "10.1.0.1/16")
		mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
		for ip, state := range map[string]int{"10.1.0.7": netlink.NUD_STALE, "10.1.0.8": netlink.NUD_FAILED, "10.1.0.9": netlink.NUD_REACHABLE} {
			n := &netlink.Neigh{LinkIndex: link.Attrs().Index, State: state, IP: net.ParseIP(ip)}
			if state != netlink.NUD_FAILED {
				n.HardwareAddr = mac
			}
			must(t, netlink.NeighSet(n))
		}
		got, err := new(Reader).Neighbours()
		must(t, err)
		slices.SortFunc(got, netip.Addr.Compare)
		if diff := cmp.Diff([]netip.Addr{netip.MustParseAddr("10.1.0.7"), netip.MustParseAddr("10.1.0.9")}, got, compare); diff != "" {
			t.Errorf("neighbours (-want +got):\n%s", diff)
		}
	})
}
