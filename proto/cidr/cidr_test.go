package cidr

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

var overlay = prefixes("100.72.0.0/16", "fd57:1:2::/48")

// described are routes in words.
func described(routes []Route) (out []string) {
	for _, r := range routes {
		out = append(out, fmt.Sprintf("%s %s", r.Kind, r))
	}
	return out
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name            string
		advertise, site []string
		exit            bool
		want            []string
	}{
		{name: "nothing"},
		{name: "an office", advertise: []string{"192.168.10.0/24"}, want: []string{"masqueraded 192.168.10.0/24"}},
		{name: "one host", advertise: []string{"192.168.10.7/32"}, want: []string{"masqueraded 192.168.10.7/32"}},
		{name: "the widest", advertise: []string{"10.0.0.0/8", "fd12::/16"}, want: []string{"masqueraded 10.0.0.0/8", "masqueraded fd12::/16"}},
		{name: "sorted", advertise: []string{"fd12::/48", "10.2.0.0/16"}, site: []string{"10.1.0.0/16"},
			want: []string{"site 10.1.0.0/16", "masqueraded 10.2.0.0/16", "masqueraded fd12::/48"}},
		{name: "translated", advertise: []string{"192.168.1.0/24=10.77.1.0/24", "fd00:1::/64=fd00:2::/64"},
			want: []string{"translated 192.168.1.0/24=10.77.1.0/24", "translated fd00:1::/64=fd00:2::/64"}},
		{name: "an exit", exit: true, want: []string{"exit 0.0.0.0/0", "exit ::/0"}},
		{name: "an exit and an office", exit: true, advertise: []string{"192.168.10.0/24"},
			want: []string{"exit 0.0.0.0/0", "masqueraded 192.168.10.0/24", "exit ::/0"}},
		{name: "neighbours", site: []string{"10.1.0.0/17", "10.1.128.0/17"}, want: []string{"site 10.1.0.0/17", "site 10.1.128.0/17"}},
		{name: "IPv4 embedded for a translator", site: []string{"64:ff9b::/96"}, want: []string{"site 64:ff9b::/96"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Parse(c.advertise, c.site, c.exit, overlay)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, described(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct {
		name            string
		advertise, site []string
		exit            bool
		want            []string // parts of the error
	}{
		{"host bits", []string{"192.168.10.1/24"}, nil, false,
			[]string{"--advertise: 192.168.10.1/24 has bits set beyond its length", "write 192.168.10.0/24", "192.168.10.1/32"}},
		{"host bits of a site", nil, []string{"10.1.2.0/16"}, false, []string{"--site: 10.1.2.0/16", "write 10.1.0.0/16"}},
		{"host bits, IPv6", []string{"fd12::1/64"}, nil, false, []string{"write fd12::/64", "fd12::1/128"}},
		{"an address", []string{"192.168.10.7"}, nil, false, []string{"is an address", "192.168.10.7/32"}},
		{"an address with a zone", []string{"fe80::1%eth0"}, nil, false, []string{"is not a CIDR"}},
		{"a name", []string{"office"}, nil, false, []string{`"office" is not a CIDR`, "192.168.10.0/24"}},
		{"a netmask", []string{"10.1.0.0/255.255.0.0"}, nil, false, []string{"is not a CIDR"}},
		{"too long for its family", []string{"10.1.0.0/33"}, nil, false, []string{"is not a CIDR"}},
		{"nothing", []string{""}, nil, false, []string{`"" is not a CIDR`}},
		{"very much", []string{strings.Repeat("1", 5000)}, nil, false, []string{"is not a CIDR"}},
		{"a list", []string{"10.1.0.0/16,10.2.0.0/16"}, nil, false, []string{"is not a CIDR"}},
		{"the default route", []string{"0.0.0.0/0"}, nil, false, []string{"0.0.0.0/0 is the default route", "--advertise-exit"}},
		{"the default route, IPv6", nil, []string{"::/0"}, false, []string{"--site: ::/0 is the default route", "--advertise-exit"}},
		{"the default route with host bits", []string{"1.2.3.4/0"}, nil, false, []string{"is the default route"}},
		{"half of everything", []string{"128.0.0.0/1"}, nil, false, []string{"too wide", "/8 is the widest", "--advertise-exit"}},
		{"too wide by one bit", []string{"10.0.0.0/7"}, nil, false, []string{"too wide"}},
		{"too wide by one bit, IPv6", []string{"fd12::/15"}, nil, false, []string{"too wide", "/16 is the widest"}},
		{"all of IPv6", nil, []string{"2000::/3"}, false, []string{"too wide"}},
		{"loopback", []string{"127.0.0.0/8"}, nil, false, []string{"loopback"}},
		{"a part of loopback", []string{"127.0.0.53/32"}, nil, false, []string{"loopback"}},
		{"loopback, IPv6", []string{"::1/128"}, nil, false, []string{"loopback"}},
		{"this host", []string{"0.0.0.0/8"}, nil, false, []string{"this host"}},
		{"link-local", []string{"169.254.0.0/16"}, nil, false, []string{"link-local"}},
		{"link-local inside", []string{"169.0.0.0/8"}, nil, false, []string{"link-local"}},
		{"link-local, IPv6", nil, []string{"fe80::/64"}, false, []string{"link-local", "fd"}},
		{"multicast", []string{"239.1.0.0/16"}, nil, false, []string{"multicast"}},
		{"multicast, IPv6", []string{"ff05::/16"}, nil, false, []string{"multicast"}},
		{"broadcast", []string{"255.255.255.255/32"}, nil, false, []string{"reserved"}},
		{"IPv4 mapped", []string{"::ffff:10.1.2.0/112"}, nil, false, []string{"mapped into IPv6", "write 10.1.0.0/16"}},
		{"wider than IPv4 mapped", []string{"::ffff:10.0.0.0/90"}, nil, false, []string{"wider than the IPv4 addresses"}},
		{"the overlay", []string{"100.72.0.0/16"}, nil, false, []string{"100.72.0.0/16 is in the network's own prefix 100.72.0.0/16", "LAN's own"}},
		{"inside the overlay", nil, []string{"fd57:1:2:3::/64"}, false, []string{"network's own prefix fd57:1:2::/48"}},
		{"around the overlay", []string{"100.64.0.0/10"}, nil, false,
			[]string{"holds the network's own prefix 100.72.0.0/16", "100.96.0.0/11, 100.80.0.0/12, 100.64.0.0/13 and so on"}},
		{"just around the overlay", []string{"100.72.0.0/15"}, nil, false, []string{"give the parts beside it, 100.73.0.0/16"}},
		{"translated into the overlay", []string{"10.1.1.0/24=100.72.1.0/24"}, nil, false, []string{"translate to a CIDR outside it"}},
		{"a LAN with the overlay's addresses", []string{"100.72.1.0/24=10.1.1.0/24"}, nil, false, []string{"cannot reach it"}},
		{"translated by lengths", []string{"192.168.1.0/24=10.77.0.0/16"}, nil, false, []string{"one length", "write 192.168.1.0/24=10.77.0.0/24"}},
		{"translated between families", []string{"192.168.1.0/24=fd12::/24"}, nil, false, []string{"one family"}},
		{"translated to itself", []string{"192.168.1.0/24=192.168.1.0/24"}, nil, false, []string{"translates to itself", "write 192.168.1.0/24"}},
		{"translated to host bits", []string{"192.168.1.0/24=10.77.1.1/24"}, nil, false, []string{"behind the =", "write 10.77.1.0/24"}},
		{"translated from host bits", []string{"192.168.1.1/24=10.77.1.0/24"}, nil, false, []string{"write 192.168.1.0/24"}},
		{"translated to nothing", []string{"192.168.1.0/24="}, nil, false, []string{"behind the =", "is not a CIDR"}},
		{"translated twice", []string{"192.168.1.0/24=10.77.1.0/24=10.78.1.0/24"}, nil, false, []string{"is not a CIDR"}},
		{"a site translated", nil, []string{"192.168.1.0/24=10.77.1.0/24"}, false, []string{"--site", "use --advertise 192.168.1.0/24=10.77.1.0/24"}},
		{"twice", []string{"10.1.0.0/16", "10.1.0.0/16"}, nil, false, []string{"--advertise 10.1.0.0/16 is given twice"}},
		{"both ways", []string{"10.1.0.0/16"}, []string{"10.1.0.0/16"}, false, []string{"--advertise and by --site", "choose"}},
		{"a part", []string{"10.1.0.0/16", "10.0.0.0/8"}, nil, false, []string{"--advertise 10.1.0.0/16 is a part of --advertise 10.0.0.0/8", "leave one"}},
		{"a part, far away", []string{"10.0.0.0/8", "10.255.0.0/16", "9.0.0.0/8"}, nil, false, []string{"a part of"}},
		{"a part of a site", []string{"10.1.2.0/24"}, []string{"10.1.0.0/16"}, false, []string{"--advertise 10.1.2.0/24 is a part of --site 10.1.0.0/16"}},
		{"two LANs under one CIDR", []string{"192.168.1.0/24=10.77.1.0/24", "192.168.2.0/24=10.77.1.0/24"}, nil, false, []string{"10.77.1.0/24 is in both"}},
		{"one LAN under two CIDRs", []string{"192.168.1.0/24=10.77.1.0/24", "192.168.1.0/24=10.77.2.0/24"}, nil, false, []string{"192.168.1.0/24 is in both"}},
		{"one LAN as it is and translated", []string{"192.168.1.0/24=10.77.1.0/24", "192.168.0.0/16"}, nil, false, []string{"192.168.1.0/24 is in both"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Parse(c.advertise, c.site, c.exit, overlay)
			if err == nil {
				t.Fatalf("accepted as %v", described(got))
			}
			if got != nil {
				t.Errorf("gives %v with an error", got)
			}
			if len(err.Error()) > 400 {
				t.Errorf("the error has %d characters", len(err.Error()))
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
		})
	}
}

func TestCheckAll(t *testing.T) {
	p := prefixes("10.1.0.0/16", "10.2.0.0/16", "0.0.0.0/0")
	many := make([]Route, MaxRoutes+1)
	for i := range many {
		a := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		many[i] = Route{Site, a, a}
	}
	for _, c := range []struct {
		name   string
		routes []Route
		want   string // "" is accepted
	}{
		{"as many as may be", many[:MaxRoutes], ""},
		{"too many", many, "1025 CIDRs, more than 1024"},
		{"half an exit", Exits()[:1], ""},
		{"an exit twice", append(Exits(), Exits()...), "twice"},
		{"an exit that is none", []Route{{Exit, p[0], p[0]}}, "an exit carries 0.0.0.0/0 and ::/0"},
		{"an exit translated", []Route{{Exit, p[2], p[0]}}, "an exit carries"},
		{"a site that is an exit", []Route{{Site, p[2], p[2]}}, "default route"},
		{"a site with two prefixes", []Route{{Site, p[0], p[1]}}, "not translated"},
		{"translated from nothing", []Route{{Kind: Translated, Prefix: p[0]}}, "malformed"},
		{"translated to nothing", []Route{{Kind: Translated, LAN: p[0]}}, "behind the =, the CIDR is malformed"},
		{"nothing", []Route{{}}, "malformed"},
		{"of the future", []Route{{9, p[0], p[0]}}, "kind 9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := CheckAll(c.routes, overlay)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, not %q", err, c.want)
			}
		})
	}
}

// TestApart compares the check of neighbours with that of all pairs.
func TestApart(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 1))
	clashes := 0
	for range 5000 {
		var routes []Route
		var sides []netip.Prefix
		for range 1 + r.IntN(6) {
			draw := func() netip.Prefix {
				return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(r.IntN(256)), byte(r.IntN(4) << 6), 0}), 9+r.IntN(10)).Masked()
			}
			p := draw()
			route := Route{Site, p, p}
			if q := draw(); r.IntN(4) == 0 && q.Bits() == p.Bits() && q != p {
				route = Route{Translated, p, q}
				sides = append(sides, q)
			}
			sides = append(sides, p)
			routes = append(routes, route)
		}
		overlap := false
		for i, a := range sides {
			for _, b := range sides[i+1:] {
				overlap = overlap || a.Overlaps(b)
			}
		}
		if overlap {
			clashes++
		}
		if err := CheckAll(routes, nil); (err != nil) != overlap {
			t.Fatalf("%v: %v, overlap is %v", described(routes), err, overlap)
		}
	}
	if clashes < 500 || clashes > 4500 {
		t.Errorf("%d of 5000 clash: too few cases of one sort", clashes)
	}
}

// TestBeside follows the advice that an error gives.
func TestBeside(t *testing.T) {
	for _, c := range []struct{ wide, narrow string }{{"10.0.0.0/8", "10.5.0.0/16"}, {"fd00:1::/32", "fd00:1:ffff::/48"}, {"10.4.0.0/15", "10.5.0.0/16"}} {
		w, n := netip.MustParsePrefix(c.wide), netip.MustParsePrefix(c.narrow)
		for s := range strings.SplitSeq(strings.TrimSuffix(beside(w, n), " and so on"), ", ") {
			p := netip.MustParsePrefix(s)
			if !w.Overlaps(p) || p.Bits() <= w.Bits() || n.Overlaps(p) || p != p.Masked() {
				t.Errorf("%s is no part of %s beside %s", p, w, n)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"192.168.10.0/24", "192.168.1.0/24=10.77.1.0/24", "::ffff:1.2.3.0/120", "fe80::1%a/64", "=", "0.0.0.0/0"} {
		f.Add(s, "10.0.0.0/8")
	}
	f.Fuzz(func(t *testing.T, advertise, site string) {
		got, err := Parse([]string{advertise}, []string{site}, false, overlay)
		if err != nil {
			return
		}
		for _, r := range got {
			again, err := ParseAdvertise(r.String())
			if r.Kind == Site {
				again, err = ParseSite(r.String())
			}
			if err != nil || again != r {
				t.Errorf("%s comes back as %s, %v", r, again, err)
			}
			for _, p := range []netip.Prefix{r.Prefix, r.LAN} {
				if p != p.Masked() || p.Bits() == 0 || p.Addr().Is4In6() || p.Overlaps(overlay[0]) || p.Overlaps(overlay[1]) {
					t.Errorf("accepts %s", p)
				}
			}
		}
		if got[0].Prefix.Overlaps(got[1].Prefix) {
			t.Errorf("accepts %v", described(got))
		}
	})
}
