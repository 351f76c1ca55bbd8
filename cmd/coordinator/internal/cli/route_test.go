package cli

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// route makes one from "GATEWAY PREFIX STATE [WORD...]", where words are advertised, granted, named, site, or lan=CIDR.
func route(t *testing.T, text string) routeJSON {
	t.Helper()
	w := strings.Fields(text)
	p := netip.MustParsePrefix(w[1])
	m := &pb.Route{Device: w[0], Prefix: record.PrefixToProto(p), State: w[2], Exit: p.Bits() == 0, Online: true}
	for _, word := range w[3:] {
		switch word {
		case "advertised":
			m.Advertised = true
		case "granted":
			m.Granted, m.Named = true, true
		case "named":
			m.Named = true
		case "site":
			m.Site = true
		case "offline":
			m.Online = false
		default:
			m.Lan = record.PrefixToProto(netip.MustParsePrefix(strings.TrimPrefix(word, "lan=")))
		}
	}
	v, err := routeView(m)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestRouteWarnings(t *testing.T) {
	for name, c := range map[string]struct {
		approved, others []string
		want             []string
		notes            string // of the first one approved
	}{
		"nothing to say": {[]string{"a 10.1.0.0/16 approved advertised granted"}, []string{
			"b 10.2.0.0/16 approved advertised granted", "c 10.1.0.0/16 waiting advertised", "d 10.1.0.0/24 revoked advertised", "e 0.0.0.0/0 approved advertised",
		}, nil, ""},
		"the same at another": {[]string{"a 10.1.0.0/16 approved advertised granted"}, []string{"b 10.1.0.0/16 approved advertised granted"}, []string{
			`10.1.0.0/16 is carried by b too: devices use the one that works, of higher priority first. If these are different networks, show one under ` +
				`another CIDR: "warren up --advertise 10.1.0.0/16=ANOTHER" on a`,
		}, "also by b"},
		"translated to the same": {[]string{"a 10.77.1.0/24 approved advertised granted lan=192.168.1.0/24"}, []string{"b 10.77.1.0/24 approved"}, []string{
			`10.77.1.0/24 is carried by b too: devices use the one that works, of higher priority first. If these are different networks, show one under ` +
				`another CIDR: "warren up --advertise 192.168.1.0/24=ANOTHER" on a`,
		}, ""},
		"a part": {[]string{"a 10.1.0.0/16 approved advertised granted"}, []string{"b 10.0.0.0/8 approved advertised"}, []string{
			"10.1.0.0/16 is a part of 10.0.0.0/8, which b carries: its addresses are reached through a, and through b while that fails",
		}, "overlaps 10.0.0.0/8 of b"},
		"the whole": {[]string{"b 10.0.0.0/8 approved advertised granted"}, []string{"a 10.1.0.0/16 approved advertised"}, []string{
			"10.0.0.0/8 holds 10.1.0.0/16, whose addresses are reached through a, and through b while that fails",
		}, "overlaps 10.1.0.0/16 of a"},
		"no grant": {[]string{"a 192.168.10.0/24 approved advertised", "a 192.168.11.0/24 approved advertised", "a 192.168.12.0/24 approved"}, nil, []string{
			"no grant of the policy lets anybody use 192.168.10.0/24, 192.168.11.0/24; one such as this does:\n" +
				`  {"src": ["autogroup:member"], "dst": ["192.168.10.0/24", "192.168.11.0/24"], "ip": ["*"]},`,
		}, "no grant"},
		"no grant for a site": {[]string{"a 10.1.0.0/16 approved advertised site"}, nil, []string{
			"no grant of the policy lets anybody use 10.1.0.0/16; one such as this does:\n" +
				`  {"src": ["autogroup:member", "CIDR-OF-THE-OTHER-SITE"], "dst": ["10.1.0.0/16"], "ip": ["*"]},`,
		}, "no grant"},
		"no grant for an exit": {[]string{"a 0.0.0.0/0 approved advertised", "a ::/0 approved advertised offline"}, []string{"b 0.0.0.0/0 approved advertised granted"}, []string{
			"no grant of the policy lets anybody use 0.0.0.0/0, ::/0; one such as this does:\n" +
				`  {"src": ["autogroup:member"], "dst": ["autogroup:internet"], "ip": ["*"]},`,
		}, "no grant"},
		"a grant for those who are to come": {[]string{"a 10.1.0.0/16 approved advertised named"}, nil, nil, "nobody may use it yet"},
		"not yet":                           {[]string{"a 10.1.0.0/16 approved offline"}, nil, nil, "not advertised, gateway offline"},
	} {
		var approved, all []routeJSON
		for _, s := range c.approved {
			approved = append(approved, route(t, s))
		}
		all = append(all, approved...)
		for _, s := range c.others {
			all = append(all, route(t, s))
		}
		if d := cmp.Diff(c.want, routeWarnings(approved, all)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		if got := strings.Join(approved[0].notes(all), ", "); got != c.notes {
			t.Errorf("%s: notes %q, want %q", name, got, c.notes)
		}
	}
}

func TestRoutePrefixes(t *testing.T) {
	got, err := routePrefixes([]string{"10.1.0.0/16", "0.0.0.0/0", "::/0", "fd12::/48"})
	if err != nil || len(got) != 4 || got[1].GetBits() != 0 {
		t.Errorf("%v, %v", got, err)
	}
	for text, want := range map[string]string{
		"10.1.2.3/16":         "write 10.1.0.0/16",
		"10.0.0.0/7":          "too wide",
		"0.0.0.0/1":           "too wide",
		"1.2.3.4/0":           "is the default route",
		"10.1.0.1":            "write 10.1.0.1/32",
		"office":              "is not a CIDR",
		"127.0.0.0/8":         "loopback",
		"::ffff:10.0.0.0/104": "mapped",
	} {
		if _, err := routePrefixes([]string{"10.2.0.0/16", text}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want it to say %q", text, err, want)
		}
	}
	for _, m := range []*pb.Route{{}, {Prefix: &pb.Prefix{Address: []byte{1}, Bits: 8}}, {Prefix: record.PrefixToProto(netip.MustParsePrefix("10.0.0.0/8")), Lan: &pb.Prefix{}}} {
		if v, err := routeViews([]*pb.Route{m}); err == nil {
			t.Errorf("%v was taken for %+v", m, v)
		}
	}
}
