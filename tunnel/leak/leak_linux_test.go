package leak

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"warren/internal/netnstest"
	"warren/tunnel/router"
)

// TestProbesAreSeen: on a host with nothing but a link, all probes leave by it and are seen, bound to it or not; with the kill switch none is.
func TestProbesAreSeen(t *testing.T) { netnstest.Run(t, testProbesAreSeen) }

func testProbesAreSeen(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "far0"}))
	far, err := netlink.LinkByName("far0")
	must(err)
	up, err := netlink.LinkByName("up0")
	must(err)
	must(netlink.LinkSetARPOff(up)) // nobody is there to be found
	must(netlink.LinkSetUp(far))
	must(netlink.LinkSetUp(up))
	for _, text := range []string{"198.51.100.2/24", "2001:db8:1::2/64"} {
		a, err := netlink.ParseAddr(text)
		must(err)
		a.Flags = unix.IFA_F_NODAD
		must(netlink.AddrAdd(up, a))
	}
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		n, err := netlink.ParseIPNet(all)
		must(err)
		must(netlink.RouteAdd(&netlink.Route{LinkIndex: up.Attrs().Index, Dst: n}))
	}
	c := Config{Interface: "warren0", Mark: router.Mark, KillSwitch: true, Uplinks: []string{"up0"}}
	want := func(outcome Outcome, when string) {
		t.Helper()
		for _, f := range families {
			for _, r := range []Result{c.traffic(f), c.bound(f)} {
				if r.Outcome != outcome {
					t.Errorf("%s: %+v, want %s", when, r, outcome)
				}
			}
		}
	}
	for _, f := range families {
		for _, link := range []string{"", "up0"} {
			if left, err := c.left(f, link); err != nil || len(left) != 3 {
				t.Errorf("%s, bound to %q: %v, %v; want UDP, TCP and ICMP", f.title(), link, left, err)
			}
		}
	}
	want(Failed, "without the kill switch")
	if r := c.killSwitch(); r.Outcome != Failed {
		t.Errorf("%+v", r)
	}
	if _, err := router.HoldKillSwitch("warren0"); err != nil {
		t.Fatal(err)
	}
	want(OK, "with the kill switch")
	if r := c.killSwitch(); r.Outcome != OK {
		t.Errorf("%+v", r)
	}
	c.Exit, c.Routed = true, router.Families{IPv4: true, IPv6: true}
	for _, f := range families {
		if r := c.routes(f); r.Outcome != Failed || r.Help == "" {
			t.Errorf("%+v", r)
		}
		if r := c.marked(f); r.Outcome != OK {
			t.Errorf("%+v", r)
		}
	}
	c.Interface = "up0"
	for _, f := range families {
		if r := c.routes(f); r.Outcome != OK {
			t.Errorf("%+v", r)
		}
		if r := c.marked(f); r.Outcome != Failed || r.Help == "" {
			t.Errorf("%+v", r)
		}
	}
}

func TestSampleOf(t *testing.T) {
	for in, want := range map[string]string{
		"192.168.3.0/24": "192.168.3.128", "10.0.0.0/8": "10.128.0.0", "192.0.2.7/32": "192.0.2.7", "10.1.2.4/31": "10.1.2.5", "2001:db8::/64": "2001:db8::8000:0:0:0",
	} {
		if got := sampleOf(netip.MustParsePrefix(in)); got != netip.MustParseAddr(want) {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestResolver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	c := Config{ResolvConf: path, Overlay: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/16")}}
	if r := c.resolver(); r.Outcome != Unknown {
		t.Errorf("without a file: %+v", r)
	}
	for text, want := range map[string]Outcome{"nameserver 192.168.1.1\n": OK, "# nameserver 100.64.0.1\n": OK, "nameserver 100.64.0.1": Warning} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if r := c.resolver(); r.Outcome != want {
			t.Errorf("%q: %+v, want %s", text, r, want)
		}
	}
}
