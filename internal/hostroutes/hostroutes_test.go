package hostroutes

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func via(prefix, gateway string, index int) Route {
	r := Route{Prefix: netip.MustParsePrefix(prefix), Interface: index}
	r.Gateway, _ = netip.ParseAddr(gateway)
	return r
}

var comparable = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func TestBest(t *testing.T) {
	costly := via("10.0.0.0/8", "192.168.1.2", 2)
	costly.Metric = 10
	scoped := via("10.1.0.0/24", "192.168.1.3", 3)
	scoped.Scoped = true
	table := []Route{costly, via("0.0.0.0/0", "192.168.1.1", 2), via("10.0.0.0/8", "192.168.1.4", 4), scoped, via("::/0", "fe80::1", 5), via("10.1.0.0/16", "", 6)}
	all := func(Route) bool { return true }
	for name, c := range map[string]struct {
		to   string
		ok   func(Route) bool
		want int // the interface; 0: none
	}{
		"default":             {"8.8.8.8", all, 2},
		"the cheaper":         {"10.2.0.1", all, 4},
		"the longer":          {"10.1.0.1", all, 6},
		"the other family":    {"2001:db8::1", all, 5},
		"but for one":         {"10.1.0.1", func(r Route) bool { return r.Interface != 6 }, 4},
		"nothing that counts": {"10.1.0.1", func(r Route) bool { return r.Interface == 5 }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got, found := Best(table, netip.MustParseAddr(c.to), c.ok)
			if got.Interface != c.want || found != (c.want != 0) {
				t.Errorf("%+v, %v; want interface %d", got, found, c.want)
			}
		})
	}
}

func TestGateway(t *testing.T) {
	list := func(text ...string) (out []netip.Prefix) {
		for _, p := range text {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	interfaces := []Interface{
		{Index: 2, Name: "en0", Prefixes: list("fe80::7/64", "10.9.9.9/24", "192.168.1.7/24")},
		{Index: 3, Name: "utun4", Prefixes: list("100.64.0.5/32")},
		{Index: 4, Name: "en5", Prefixes: list("2001:db8::5/64")},
	}
	for name, c := range map[string]struct {
		table []Route
		want  string
	}{
		"usual":                      {[]Route{via("192.168.1.0/24", "", 2), via("0.0.0.0/0", "192.168.1.1", 2)}, "192.168.1.1 192.168.1.7"},
		"not through the tunnel":     {[]Route{via("0.0.0.0/0", "100.64.0.1", 3), via("0.0.0.0/0", "192.168.1.1", 2)}, "192.168.1.1 192.168.1.7"},
		"a router of no network":     {[]Route{via("0.0.0.0/0", "172.16.0.1", 2)}, "172.16.0.1 10.9.9.9"},
		"none":                       {[]Route{via("192.168.1.0/24", "", 2)}, ""},
		"point to point":             {[]Route{via("0.0.0.0/0", "", 2)}, ""},
		"half of all":                {[]Route{via("0.0.0.0/1", "192.168.1.1", 2)}, ""},
		"an interface that is gone":  {[]Route{via("0.0.0.0/0", "192.168.1.1", 77)}, ""},
		"an interface without IPv4":  {[]Route{via("0.0.0.0/0", "192.168.1.1", 4)}, ""},
		"only the default of IPv6":   {[]Route{via("::/0", "fe80::1", 2)}, ""},
		"a gateway of another world": {[]Route{via("0.0.0.0/0", "fe80::1", 2)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			gateway, local, ok := Gateway(c.table, interfaces, "utun4")
			got := ""
			if ok {
				got = gateway.String() + " " + local.String()
			}
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestMask(t *testing.T) {
	for _, p := range []string{"0.0.0.0/0", "10.0.0.0/8", "10.128.0.0/9", "10.1.2.3/32", "::/0", "fd77::/48", "fd77::1/127"} {
		prefix := netip.MustParsePrefix(p)
		if bits, ok := maskBits(mask(prefix)); bits != prefix.Bits() || !ok {
			t.Errorf("%s: %d, %v", p, bits, ok)
		}
	}
	for _, b := range [][]byte{{0, 1, 0, 0}, {255, 0, 255, 0}, {254, 128, 0, 0}, {1}} {
		if bits, ok := maskBits(b); ok {
			t.Errorf("%v is %d bits", b, bits)
		}
	}
}

func TestClearZone(t *testing.T) {
	for in, want := range map[string]string{
		"fe80:4::1": "fe80::1", "fe80::1%en0": "fe80::1", "ff02:4::1": "ff02::1", "2001:db8::1": "2001:db8::1", "10.1.2.3": "10.1.2.3", "169.254.4.1": "169.254.4.1",
	} {
		if got := clearZone(netip.MustParseAddr(in)); got != netip.MustParseAddr(want) {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestWithZone(t *testing.T) {
	for in, want := range map[string]string{"fe80::1": "fe80:102::1", "2001:db8::1": "2001:db8::1", "10.1.2.3": "10.1.2.3", "169.254.4.1": "169.254.4.1"} {
		a := netip.MustParseAddr(in)
		got, _ := netip.AddrFromSlice(withZone(a, 0x102))
		if got != netip.MustParseAddr(want) {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
		if back := clearZone(got); back != a {
			t.Errorf("%s: %s after the way back", in, back)
		}
	}
}

func TestPrefixesOf(t *testing.T) {
	cidr := func(s string) *net.IPNet {
		ip, n, err := net.ParseCIDR(s)
		if err != nil {
			t.Fatal(err)
		}
		return &net.IPNet{IP: ip, Mask: n.Mask}
	}
	got := prefixesOf([]net.Addr{
		cidr("192.168.1.7/24"), cidr("fe80::1/64"), &net.UnixAddr{}, &net.IPNet{IP: net.IPv4(10, 0, 0, 1), Mask: net.IPMask{255, 0, 255, 0}}, &net.IPNet{},
	})
	want := []netip.Prefix{netip.MustParsePrefix("192.168.1.7/24"), netip.MustParsePrefix("fe80::1/64")}
	if d := cmp.Diff(want, got, comparable); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// TestInterfaces reads this host's: at least loopback has its address.
func TestInterfaces(t *testing.T) {
	list, err := Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list {
		for _, p := range i.Prefixes {
			if p == netip.MustParsePrefix("127.0.0.1/8") {
				return
			}
		}
	}
	t.Errorf("no loopback among %+v", list)
}
