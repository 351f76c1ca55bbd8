package routeplan

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func prefixes(list string) (out []netip.Prefix) {
	for s := range strings.FieldsSeq(list) {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func addrs(list string) (out []netip.Addr) {
	for s := range strings.FieldsSeq(list) {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func carried(list string) (out []Carried) {
	for _, p := range prefixes(list) {
		out = append(out, Carried{p, p})
	}
	return out
}

func shown(route, network, device string) []Shown {
	return []Shown{{netip.MustParsePrefix(route), netip.MustParsePrefix(network), device, 0}}
}

func wifi(network, router string) Link {
	return Link{Interface: "wlan0", Prefixes: prefixes(network), Routers: addrs(router), DHCP: addrs(router)}
}

var docker = Link{Interface: "docker0", Prefixes: prefixes("172.17.0.0/16"), Served: true}

func text(list []netip.Prefix) string {
	var out []string
	for _, p := range list {
		out = append(out, p.String())
	}
	return strings.Join(out, " ")
}

func TestMake(t *testing.T) {
	overlay := prefixes("100.72.0.0/16 fd57:1:2::/48")
	const networks = "100.72.0.0/16"
	for _, c := range []struct {
		name                   string
		in                     Input
		routes, local, refused string
		conflicts              []string // "route connected interface winner: part of why"
	}{
		{name: "nothing", routes: networks + " fd57:1:2::/48"},
		{name: "at home, with other addresses", in: Input{Chosen: prefixes("10.1.0.0/16"), Links: []Link{wifi("192.168.1.0/24", "192.168.1.1"), docker}},
			routes: "10.1.0.0/16 100.72.0.0/16 fd57:1:2::/48"},
		{name: "a café with the office's addresses", in: Input{Chosen: prefixes("192.168.10.0/24"), Links: []Link{wifi("192.168.10.0/24", "192.168.10.1")}},
			routes: "100.72.0.0/16 192.168.10.0/24 fd57:1:2::/48", local: "192.168.10.1/32",
			conflicts: []string{"192.168.10.0/24 192.168.10.0/24 wlan0 tunnel: only its router or DHCP server is reached here (192.168.10.1); to reach its other hosts, use --prefer-lan 192.168.10.0/24"}},
		{name: "a café inside a wide route", in: Input{Chosen: prefixes("10.0.0.0/8"), Links: []Link{{Interface: "wlan0", Prefixes: prefixes("10.5.5.0/24"),
			Routers: addrs("10.5.5.1"), DHCP: addrs("10.5.5.2 10.9.9.9")}}},
			routes: "10.0.0.0/8 100.72.0.0/16 fd57:1:2::/48", local: "10.5.5.1/32 10.5.5.2/32",
			conflicts: []string{"10.0.0.0/8 10.5.5.0/24 wlan0 tunnel: (10.5.5.1, 10.5.5.2)"}},
		{name: "in the office", in: Input{Chosen: prefixes("192.168.10.0/24"), Links: []Link{wifi("192.168.10.0/24", "192.168.10.1")},
			Shown: shown("192.168.10.0/24", "192.168.10.0/24", "wlan0")},
			routes:    "100.72.0.0/16 fd57:1:2::/48",
			conflicts: []string{"192.168.10.0/24 192.168.10.0/24 wlan0 lan: this is that site"}},
		{name: "in one part of the office's network", in: Input{Chosen: prefixes("10.1.0.0/16"), Links: []Link{wifi("10.1.7.0/24", "10.1.7.1")},
			Shown: shown("10.1.0.0/16", "10.1.7.0/24", "wlan0")},
			routes: "10.1.0.0/16 100.72.0.0/16 fd57:1:2::/48", local: "10.1.7.0/24",
			conflicts: []string{"10.1.0.0/16 10.1.7.0/24 wlan0 lan: this is that site"}},
		{name: "in the office, by another link", in: Input{Chosen: prefixes("192.168.10.0/24"), Links: []Link{wifi("192.168.10.0/24", "")},
			Shown: shown("192.168.10.0/24", "192.168.10.0/24", "eth0")},
			routes:    "100.72.0.0/16 192.168.10.0/24 fd57:1:2::/48",
			conflicts: []string{"192.168.10.0/24 192.168.10.0/24 wlan0 tunnel: not shown"}},
		{name: "in the office, by both links", in: Input{Chosen: prefixes("192.168.10.0/24"),
			Links: []Link{{Interface: "eth0", Prefixes: prefixes("192.168.10.0/24")}, wifi("192.168.10.0/24", "192.168.10.1")},
			Shown: shown("192.168.10.0/24", "192.168.10.0/24", "wlan0")},
			routes:    "100.72.0.0/16 fd57:1:2::/48",
			conflicts: []string{"192.168.10.0/24 192.168.10.0/24 eth0 lan: another link", "192.168.10.0/24 192.168.10.0/24 wlan0 lan: this is that site"}},
		{name: "a site that is not that of the other route", in: Input{Chosen: prefixes("10.1.0.0/16 10.1.7.128/25"), Links: []Link{wifi("10.1.7.0/24", "10.1.7.1")},
			Shown: shown("10.1.0.0/16", "10.1.7.0/24", "wlan0")},
			routes: "10.1.0.0/16 10.1.7.128/25 100.72.0.0/16 fd57:1:2::/48", local: "10.1.7.0/24",
			conflicts: []string{"10.1.0.0/16 10.1.7.0/24 wlan0 lan: this is that site", "10.1.7.128/25 10.1.7.0/24 wlan0 tunnel: not shown"}},
		{name: "a site whose addresses a second route has too", in: Input{Chosen: prefixes("10.0.0.0/10 10.0.0.0/14"), Links: []Link{wifi("10.0.0.0/21", "10.0.0.1")},
			Shown: shown("10.0.0.0/10", "10.0.0.0/21", "wlan0")},
			routes: "10.0.0.0/10 10.0.0.0/14 100.72.0.0/16 fd57:1:2::/48", local: "10.0.0.0/21",
			conflicts: []string{"10.0.0.0/10 10.0.0.0/21 wlan0 lan: this is that site", "10.0.0.0/14 10.0.0.0/21 wlan0 lan: the site of 10.0.0.0/10"}},
		{name: "an exit node that is here says nothing of the office", in: Input{Chosen: prefixes("0.0.0.0/0 192.168.1.0/24"), Links: []Link{wifi("192.168.1.0/24", "")},
			Shown: shown("0.0.0.0/0", "192.168.1.0/24", "wlan0")},
			routes: "0.0.0.0/0 100.72.0.0/16 192.168.1.0/24 fd57:1:2::/48", local: "169.254.0.0/16 224.0.0.0/4 255.255.255.255/32",
			conflicts: []string{"192.168.1.0/24 192.168.1.0/24 wlan0 tunnel: not shown"}},
		{name: "a route that is narrower than the network", in: Input{Chosen: prefixes("192.168.10.64/26"), Links: []Link{wifi("192.168.10.0/24", "192.168.10.65")}},
			routes: "100.72.0.0/16 192.168.10.64/26 fd57:1:2::/48", local: "192.168.10.65/32",
			conflicts: []string{"192.168.10.64/26 192.168.10.0/24 wlan0 tunnel: --prefer-lan 192.168.10.64/26"}},
		{name: "a narrower route in its own office", in: Input{Chosen: prefixes("192.168.10.64/26"), Links: []Link{wifi("192.168.10.0/24", "192.168.10.1")},
			Shown: shown("192.168.10.64/26", "192.168.10.0/24", "wlan0")},
			routes: "100.72.0.0/16 fd57:1:2::/48", conflicts: []string{"192.168.10.64/26 192.168.10.0/24 wlan0 lan: this is that site"}},
		{name: "a host whose address is the café's router", in: Input{Chosen: prefixes("192.168.10.1/32"), Links: []Link{wifi("192.168.10.0/24", "192.168.10.1")}},
			routes: "100.72.0.0/16 fd57:1:2::/48", conflicts: []string{"192.168.10.1/32 192.168.10.0/24 wlan0 lan: "}},
		{name: "by hand", in: Input{Chosen: prefixes("10.0.0.0/8"), Links: []Link{wifi("10.5.5.0/24", "10.5.5.1")}, PreferLAN: prefixes("10.5.0.0/16")},
			routes: "10.0.0.0/8 100.72.0.0/16 fd57:1:2::/48", local: "10.5.5.0/24",
			conflicts: []string{"10.0.0.0/8 10.5.5.0/24 wlan0 lan: --prefer-lan 10.5.0.0/16 says so"}},
		{name: "by hand, a part", in: Input{Chosen: prefixes("10.0.0.0/8"), Links: []Link{wifi("10.5.5.0/24", "10.5.5.1")}, PreferLAN: prefixes("10.5.5.64/26")},
			routes: "10.0.0.0/8 100.72.0.0/16 fd57:1:2::/48", local: "10.5.5.1/32 10.5.5.64/26",
			conflicts: []string{"10.0.0.0/8 10.5.5.0/24 wlan0 tunnel: not shown"}},
		{name: "by hand, elsewhere", in: Input{Chosen: prefixes("10.5.5.0/24"), Links: []Link{wifi("192.168.1.0/24", "192.168.1.1")}, PreferLAN: prefixes("10.5.5.0/24")},
			routes: "10.5.5.0/24 100.72.0.0/16 fd57:1:2::/48"},
		{name: "containers", in: Input{Chosen: prefixes("172.16.0.0/12 172.17.3.0/24"), Links: []Link{docker}},
			routes: "100.72.0.0/16 172.16.0.0/12 fd57:1:2::/48", local: "172.17.0.0/16",
			conflicts: []string{"172.16.0.0/12 172.17.0.0/16 docker0 lan: itself serves docker0", "172.17.3.0/24 172.17.0.0/16 docker0 lan: itself serves"}},
		{name: "a gateway, its site, and a wider route", in: Input{Chosen: prefixes("10.0.0.0/8"), Carried: carried("10.1.0.0/16"),
			Links: []Link{{Interface: "eth0", Prefixes: prefixes("10.1.7.0/24"), Routers: addrs("10.1.7.1")}}},
			routes: "10.0.0.0/8 100.72.0.0/16 fd57:1:2::/48", local: "10.1.0.0/16",
			conflicts: []string{"10.0.0.0/8 10.1.7.0/24 eth0 lan: this device carries 10.1.0.0/16"}},
		{name: "a gateway of a part of its network", in: Input{Chosen: prefixes("10.0.0.0/8"), Carried: carried("10.1.7.0/25"),
			Links: []Link{{Interface: "eth0", Prefixes: prefixes("10.1.7.0/24")}}},
			routes: "10.0.0.0/8 100.72.0.0/16 fd57:1:2::/48", local: "10.1.7.0/24",
			conflicts: []string{"10.0.0.0/8 10.1.7.0/24 eth0 lan: this device carries 10.1.7.0/25"}},
		{name: "a gateway and a narrower route", in: Input{Chosen: prefixes("10.1.9.0/24"), Carried: carried("10.1.0.0/16")},
			routes: "10.1.9.0/24 100.72.0.0/16 fd57:1:2::/48"},
		{name: "a gateway of the same CIDR", in: Input{Chosen: prefixes("10.1.0.0/16"), Carried: carried("10.1.0.0/16")}, routes: networks + " fd57:1:2::/48"},
		{name: "a translating gateway, where others use its LAN's addresses", in: Input{Chosen: prefixes("192.168.0.0/16 10.77.0.0/16"),
			Carried: []Carried{{netip.MustParsePrefix("10.77.1.0/24"), netip.MustParsePrefix("192.168.1.0/24")}}},
			routes: "10.77.0.0/16 100.72.0.0/16 192.168.0.0/16 fd57:1:2::/48", local: "10.77.1.0/24 192.168.1.0/24"},
		{name: "the overlay's addresses in a café", in: Input{Links: []Link{wifi("100.72.3.0/24", "100.72.3.1")}},
			routes: networks + " fd57:1:2::/48", local: "100.72.3.1/32", conflicts: []string{"100.72.0.0/16 100.72.3.0/24 wlan0 tunnel: not shown"}},
		{name: "an exit", in: Input{Chosen: prefixes("0.0.0.0/0 ::/0"), Exit: true,
			Links: []Link{{Interface: "wlan0", Prefixes: prefixes("192.168.1.0/24 fe80::/64 2001:db8:1::/64"), Routers: addrs("192.168.1.1 fe80::1%wlan0"), DHCP: addrs("192.168.1.2")}, docker}},
			routes: "0.0.0.0/0 100.72.0.0/16 ::/0 fd57:1:2::/48",
			local:  "169.254.0.0/16 172.17.0.0/16 192.168.1.1/32 192.168.1.2/32 224.0.0.0/4 255.255.255.255/32 fe80::/10 ff00::/8"},
		{name: "an exit, with the LAN", in: Input{Chosen: prefixes("0.0.0.0/0 ::/0"), Exit: true, AllowLAN: true,
			Links: []Link{wifi("192.168.1.0/24 2001:db8:1::/64 fd00:9::/64", "192.168.1.1")}},
			routes: "0.0.0.0/0 100.72.0.0/16 ::/0 fd57:1:2::/48",
			local:  "169.254.0.0/16 192.168.1.0/24 224.0.0.0/4 255.255.255.255/32 fd00:9::/64 fe80::/10 ff00::/8"},
		{name: "an exit, with a LAN of public addresses", in: Input{Chosen: prefixes("0.0.0.0/0"), AllowLAN: true, Links: []Link{wifi("8.8.8.0/24", "8.8.8.8")}},
			routes: "0.0.0.0/0 100.72.0.0/16 fd57:1:2::/48", local: "169.254.0.0/16 224.0.0.0/4 255.255.255.255/32"},
		{name: "an exit, with a LAN that is wider than private", in: Input{Chosen: prefixes("0.0.0.0/0"), AllowLAN: true, Links: []Link{wifi("192.0.0.0/8", "192.168.1.1")}},
			routes: "0.0.0.0/0 100.72.0.0/16 fd57:1:2::/48", local: "169.254.0.0/16 192.168.1.1/32 224.0.0.0/4 255.255.255.255/32"},
		{name: "an exit with the LAN, and a café with the office's addresses", in: Input{Chosen: prefixes("0.0.0.0/0 192.168.1.0/24"), AllowLAN: true,
			Links: []Link{wifi("192.168.1.0/24", "192.168.1.1")}},
			routes: "0.0.0.0/0 100.72.0.0/16 192.168.1.0/24 fd57:1:2::/48", local: "169.254.0.0/16 192.168.1.1/32 224.0.0.0/4 255.255.255.255/32",
			conflicts: []string{"192.168.1.0/24 192.168.1.0/24 wlan0 tunnel: not shown"}},
		{name: "an exit without IPv6", in: Input{Chosen: prefixes("0.0.0.0/0"), Exit: true, Links: []Link{wifi("fd00:9::/64", "fe80::1")}},
			routes: "0.0.0.0/0 100.72.0.0/16 fd57:1:2::/48", refused: "::/0",
			local: "169.254.0.0/16 224.0.0.0/4 255.255.255.255/32 fe80::/10 ff00::/8"},
		{name: "an exit that is not there", in: Input{Exit: true}, routes: networks + " fd57:1:2::/48", refused: "0.0.0.0/0 ::/0",
			local: "169.254.0.0/16 224.0.0.0/4 255.255.255.255/32 fe80::/10 ff00::/8"},
		{name: "an exit node in a café with the office's addresses", in: Input{Carried: carried("0.0.0.0/0"), Chosen: prefixes("192.168.1.0/24"),
			Links: []Link{wifi("192.168.1.0/24", "")}}, routes: "100.72.0.0/16 192.168.1.0/24 fd57:1:2::/48",
			conflicts: []string{"192.168.1.0/24 192.168.1.0/24 wlan0 tunnel: not shown"}},
		{name: "an exit node itself", in: Input{Carried: carried("0.0.0.0/0 ::/0"), Chosen: prefixes("10.1.0.0/16"), Links: []Link{wifi("203.0.113.0/24", "203.0.113.1")}},
			routes: "10.1.0.0/16 100.72.0.0/16 fd57:1:2::/48"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.in.Networks = overlay
			got := Make(c.in)
			if diff := cmp.Diff([]string{c.routes, c.local, c.refused}, []string{text(got.Routes), text(got.Local), text(got.Refused)}); diff != "" {
				t.Error(diff)
			}
			if len(got.Conflicts) != len(c.conflicts) {
				t.Fatalf("conflicts are %v", got.Conflicts)
			}
			for i, x := range got.Conflicts {
				head, why, _ := strings.Cut(c.conflicts[i], ": ")
				winner := map[bool]string{true: "lan", false: "tunnel"}[x.LAN]
				if h := strings.Join([]string{x.Route.String(), x.Connected.String(), x.Interface, winner}, " "); h != head || !strings.Contains(x.Why, why) {
					t.Errorf("%s: %s\nnot\n%s", h, x.Why, c.conflicts[i])
				}
			}
		})
	}
}

// where is what a plan does with packets for a: "tunnel", "refused", or "host" for the host's own table.
func (p Plan) where(a netip.Addr) string {
	best, out := -1, "host"
	for name, list := range map[string][]netip.Prefix{"tunnel": p.Routes, "host": p.Local, "refused": p.Refused} {
		for _, q := range list {
			if q.Contains(a) && q.Bits() > best {
				best, out = q.Bits(), name
			}
		}
	}
	return out
}

// expect is what is to become of packets for a, by the rules read one address at a time.
func expect(in Input, a netip.Addr) string {
	var route netip.Prefix // the longest
	for _, r := range slices.Concat(in.Networks, in.Chosen) {
		if r.Contains(a) && (!route.IsValid() || r.Bits() > route.Bits()) {
			route = r
		}
	}
	there := "tunnel"
	if !route.IsValid() {
		if !in.Exit {
			return "host"
		}
		there, route = "refused", netip.PrefixFrom(a, 0).Masked()
	}
	for _, c := range in.Carried {
		if c.LAN.Contains(a) && c.LAN.Bits() >= route.Bits() && c.LAN.Bits() > 0 {
			return "host"
		}
	}
	isPrivate := func(p netip.Prefix) bool {
		return p.Addr().IsPrivate() && (p.Addr().As4()[0] == 10 && p.Bits() >= 8 || p.Addr().As4()[0] == 192 && p.Bits() >= 16)
	}
	if route.Bits() == 0 && (a.IsMulticast() || a.IsLinkLocalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})) {
		return "host"
	}
	for _, l := range in.Links {
		for _, n := range l.Prefixes {
			server := slices.Contains(l.Routers, a)
			if !n.Contains(a) {
				continue
			}
			if route.Bits() == 0 {
				if l.Served || in.AllowLAN && isPrivate(n) || server && isPrivate(netip.PrefixFrom(a, 32)) {
					return "host"
				}
				continue
			}
			mine := slices.ContainsFunc(in.PreferLAN, func(p netip.Prefix) bool { return p.Contains(a) })
			gateway := slices.ContainsFunc(in.Carried, func(c Carried) bool { return c.LAN.Overlaps(n) && c.LAN.Bits() > 0 })
			site := slices.ContainsFunc(in.Shown, func(s Shown) bool {
				wider := route.Bits() <= n.Bits() && s.Route.Bits() > 0 && s.Route.Overlaps(n)
				return (s.Route == route || wider) && s == Shown{s.Route, n, l.Interface, l.Generation}
			})
			if l.Served || gateway || mine || site || server {
				return "host"
			}
		}
	}
	return there
}

// random draws an input in which much overlaps.
func random(r *rand.Rand) Input {
	prefix := func() netip.Prefix {
		first := []byte{10, 10, 10, 192, 8}[r.IntN(5)]
		second := map[byte]byte{10: byte(r.IntN(3)), 192: 168, 8: 8}[first]
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{first, second, byte(r.IntN(4) << 6), byte(r.IntN(4) << 6)}), 8+r.IntN(19)).Masked()
	}
	list := func(n int) (out []netip.Prefix) {
		for range r.IntN(n + 1) {
			out = append(out, prefix())
		}
		return out
	}
	in := Input{Networks: []netip.Prefix{netip.MustParsePrefix("100.72.0.0/16")}, Chosen: list(4), PreferLAN: list(1), AllowLAN: r.IntN(2) == 0, Exit: r.IntN(3) == 0}
	if r.IntN(3) == 0 {
		in.Chosen = append(in.Chosen, netip.MustParsePrefix("0.0.0.0/0"))
	}
	for _, p := range list(1) {
		in.Carried = append(in.Carried, Carried{p, p})
	}
	for i := range r.IntN(4) {
		l := Link{Interface: string(rune('a' + i)), Prefixes: list(2), Served: r.IntN(4) == 0, Generation: uint64(r.IntN(2))}
		for _, p := range l.Prefixes {
			if r.IntN(2) == 0 {
				l.Routers = append(l.Routers, p.Addr().Next())
			}
			if len(in.Chosen) > 0 && r.IntN(2) == 0 {
				in.Shown = append(in.Shown, Shown{in.Chosen[r.IntN(len(in.Chosen))], p, l.Interface, uint64(r.IntN(2))})
			}
		}
		in.Links = append(in.Links, l)
	}
	return in
}

// check compares a plan with expect at every address near which something changes.
func check(t *testing.T, in Input) (hosts, tunnels int) {
	t.Helper()
	plan := Make(in)
	var at []netip.Addr
	add := func(p netip.Prefix) {
		if p.Addr().Is4() {
			last := p.Addr().As4()
			for i := p.Bits(); i < 32; i++ {
				last[i/8] |= 0x80 >> (i % 8)
			}
			end := netip.AddrFrom4(last)
			at = append(at, p.Addr(), p.Addr().Next(), end, end.Next(), p.Addr().Prev())
		}
	}
	for _, l := range in.Links {
		for _, p := range l.Prefixes {
			add(p)
		}
		at = append(at, l.Routers...)
	}
	for _, p := range slices.Concat(in.Chosen, in.PreferLAN, in.Networks) {
		add(p)
	}
	for _, c := range in.Carried {
		add(c.LAN)
	}
	for _, a := range at {
		if !a.IsValid() {
			continue
		}
		want, got := expect(in, a), plan.where(a)
		if got != want {
			t.Fatalf("%s goes to %s, not %s\n%+v\n%+v", a, got, want, in, plan)
		}
		if got == "host" {
			hosts++
		} else {
			tunnels++
		}
	}
	for i, list := range [][]netip.Prefix{plan.Routes, plan.Local, plan.Refused} {
		if !slices.IsSortedFunc(list, netip.Prefix.Compare) || len(slices.Compact(slices.Clone(list))) != len(list) {
			t.Fatalf("list %d is not sorted: %v", i, list)
		}
	}
	return hosts, tunnels
}

func TestModel(t *testing.T) {
	hosts, tunnels := 0, 0
	for seed := range uint64(20000) {
		h, n := check(t, random(rand.New(rand.NewPCG(seed, 3))))
		hosts, tunnels = hosts+h, tunnels+n
	}
	if hosts < 100_000 || tunnels < 100_000 {
		t.Errorf("only %d addresses stayed, %d did not", hosts, tunnels)
	}
}

func FuzzModel(f *testing.F) {
	f.Add(uint64(1), uint64(1))
	f.Fuzz(func(t *testing.T, a, b uint64) { check(t, random(rand.New(rand.NewPCG(a, b)))) })
}

// TestOrder shows that a plan does not depend on the order of what it is made from.
func TestOrder(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 4))
		in := random(r)
		want := Make(in)
		shuffle := func(n int, swap func(i, j int)) { r.Shuffle(n, swap) }
		shuffle(len(in.Chosen), func(i, j int) { in.Chosen[i], in.Chosen[j] = in.Chosen[j], in.Chosen[i] })
		shuffle(len(in.Links), func(i, j int) { in.Links[i], in.Links[j] = in.Links[j], in.Links[i] })
		shuffle(len(in.Shown), func(i, j int) { in.Shown[i], in.Shown[j] = in.Shown[j], in.Shown[i] })
		got := Make(in)
		if diff := cmp.Diff([]string{text(want.Routes), text(want.Local), text(want.Refused)}, []string{text(got.Routes), text(got.Local), text(got.Refused)}); diff != "" {
			t.Fatal(diff)
		}
	}
}

func TestSites(t *testing.T) {
	office := netip.MustParsePrefix("192.168.10.0/24")
	ev := func(remote, seen string) Evidence {
		return Evidence{office, netip.MustParseAddr(remote), netip.MustParseAddr(seen)}
	}
	link := Link{Interface: "wlan0", Prefixes: prefixes("192.168.10.0/24 fe80::/64"), Generation: 1}
	links := []Link{{Interface: "eth0", Prefixes: prefixes("10.0.0.0/24")}, link}
	for _, c := range []struct {
		name string
		Evidence
		want bool
	}{
		{"the gateway is here, and sees us here", ev("192.168.10.2", "192.168.10.77"), true},
		{"so it does, mapped into IPv6", ev("::ffff:192.168.10.2", "::ffff:192.168.10.77"), true},
		{"the gateway is elsewhere", ev("203.0.113.1", "192.168.10.77"), false},
		{"something here passes our checks on", ev("192.168.10.2", "203.0.113.9"), false},
		{"a path to ourselves", ev("192.168.10.2", "192.168.10.2"), false},
		{"link-local addresses, which are the same everywhere", ev("fe80::1", "fe80::2"), false},
		{"nothing is known of where it saw us", Evidence{Route: office, Remote: netip.MustParseAddr("192.168.10.2")}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s Sites
			if got := s.Saw(links, c.Evidence); got != c.want || len(s.Shown()) > 0 != c.want {
				t.Errorf("%v, %v", got, s.Shown())
			}
			if s.Saw(links, c.Evidence) {
				t.Error("is news twice")
			}
		})
	}

	var s Sites
	s.Saw(links, ev("192.168.10.2", "192.168.10.77"))
	want := []Shown{{office, office, "wlan0", 1}}
	s.SetLinks(links[1:])
	if diff := cmp.Diff(want, s.Shown(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("while the link stays: %s", diff)
	}
	for name, l := range map[string]Link{
		"the link is gone":                     {Interface: "eth9", Prefixes: link.Prefixes, Generation: 1},
		"it has other addresses":               {Interface: "wlan0", Prefixes: prefixes("192.168.11.0/24"), Generation: 1},
		"it may be another with the same ones": {Interface: "wlan0", Prefixes: link.Prefixes, Generation: 2},
	} {
		s := Sites{shown: slices.Clone(want)}
		if s.SetLinks([]Link{l}); len(s.Shown()) > 0 {
			t.Errorf("%s, and it is still shown: %v", name, s.Shown())
		}
	}
}
