package compile

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"warren/coord/policy"
)

// sites are two data centers, the first with two gateways, an office, an exit node of each kind, and a laptop.
func sites() Directory {
	dir := Directory{Prefixes: genNet, Users: map[string]User{}}
	route := func(texts ...string) (out []netip.Prefix) {
		for _, s := range texts {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for i, d := range []Device{
		{Name: "dc1a", Tags: []string{"dc"}, Routes: route("10.1.0.0/16", "fd01::/48")},
		{Name: "dc1b", Tags: []string{"dc"}, Routes: route("10.1.0.0/16")},
		{Name: "dc2", Tags: []string{"dc"}, Routes: route("10.2.0.0/16")},
		{Name: "office", Owner: "bob", Routes: route("192.168.10.0/24")},
		{Name: "out4", Tags: []string{"exit"}, Routes: route("0.0.0.0/0")},
		{Name: "out", Tags: []string{"exit"}, Routes: route("0.0.0.0/0", "::/0")},
		{Name: "laptop", Owner: "ann"},
		{Name: "own", Owner: "ann", Routes: route("192.168.7.0/24")},
	} {
		d.ID = ID{byte(i + 1)}
		d.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 0, byte(i + 1)}), netip.AddrFrom16([16]byte{0xfd, 0, 0, 1, 15: byte(i + 1)})}
		dir.Devices = append(dir.Devices, d)
	}
	return dir
}

// TestRoutesBothWays asks the filters of both ends, and their routes, of flows between hosts behind gateways, and of devices with them.
func TestRoutesBothWays(t *testing.T) {
	dir := sites()
	c := New(parse(t, `{
	"hosts": {"dc-one": "10.1.0.0/16", "printer": "192.168.10.20", "nas": "192.168.7.2"},
	"grants": [
		{"src": ["10.1.0.0/16"], "dst": ["10.2.0.0/16"], "ip": ["*"]},
		{"src": ["10.2.5.0/24"], "dst": ["dc-one"], "ip": ["tcp:443"]},
		{"src": ["ann"], "dst": ["printer"], "ip": ["tcp:631"]},
		{"src": ["192.168.10.0/24"], "dst": ["autogroup:internet"], "ip": ["tcp:443"]},
		{"src": ["ann"], "dst": ["autogroup:self"], "ip": ["*"]},
	]}`), dir, start)
	index := func(name string) int {
		return slices.IndexFunc(dir.Devices, func(d Device) bool { return d.Name == name })
	}
	for _, x := range []struct {
		from, src, to, dst string
		protocol           uint8
		port               uint16
		want               bool
	}{
		{"dc1a", "10.1.4.4", "dc2", "10.2.0.9", 6, 5432, true},
		{"dc1b", "10.1.4.4", "dc2", "10.2.0.9", 1, 0, true},
		{"dc2", "10.2.5.1", "dc1a", "10.1.0.1", 6, 443, true},
		{"dc2", "10.2.5.1", "dc1b", "10.1.0.1", 6, 443, true},
		{"dc2", "10.2.6.1", "dc1a", "10.1.0.1", 6, 443, false},
		{"dc2", "10.2.5.1", "dc1a", "10.1.0.1", 6, 80, false},
		{"dc2", "100.64.0.3", "dc1a", "10.1.0.1", 6, 443, false}, // the gateway itself was not granted anything
		{"dc1a", "10.1.4.4", "dc2", "100.64.0.3", 6, 22, false},
		{"laptop", "100.64.0.7", "office", "192.168.10.20", 6, 631, true},
		{"laptop", "100.64.0.7", "office", "192.168.10.21", 6, 631, false},
		{"office", "192.168.10.20", "laptop", "100.64.0.7", 6, 631, false},
		{"laptop", "100.64.0.7", "dc2", "10.2.0.9", 6, 5432, false},
		{"office", "192.168.10.20", "out", "1.1.1.1", 6, 443, true},
		{"office", "192.168.10.20", "out4", "1.1.1.1", 6, 443, true},
		{"office", "192.168.10.20", "out", "1.1.1.1", 6, 80, false},
		{"office", "192.168.10.20", "out", "100.64.0.6", 17, 53, true}, // its hosts' questions go to the exit's resolver
		{"office", "192.168.10.20", "out4", "100.64.0.5", 6, 53, true},
		{"office", "192.168.10.20", "out", "100.64.0.6", 17, 5353, false},
		{"laptop", "100.64.0.7", "out", "100.64.0.6", 17, 53, false}, // may not use it
		{"laptop", "100.64.0.7", "own", "100.64.0.8", 6, 22, true},
		{"laptop", "100.64.0.7", "own", "192.168.7.2", 6, 22, false}, // autogroup:self is devices, not what lies behind them
	} {
		p := packet{dir.Devices[index(x.from)], dir.Devices[index(x.to)], netip.MustParseAddr(x.src), netip.MustParseAddr(x.dst), x.protocol, x.port}
		a, b := &holder{p.from, c.View(p.from.ID)}, &holder{p.to, c.View(p.to.ID)}
		passes, known := a.passes(p) && b.passes(p), a.reaches(p.dst, p.to) && b.reaches(p.src, p.from)
		if passes != x.want || x.want && (!known || !c.Sees(p.from.ID, p.to.ID)) {
			t.Errorf("%s %s > %s %s %d/%d: filters say %v, routes known %v, want %v\n%v\n%v", x.from, x.src, x.to, x.dst, x.protocol, x.port, passes, known,
				x.want, a.View, b.View)
		}
		q := Question{Src: End{p.from.ID, p.src}, Dst: End{p.to.ID, p.dst}, Protocol: p.protocol, Port: p.port}
		why := c.Explain(q, start)
		if why.Allowed != x.want || x.port == 53 && x.want && why.Grant != ExitDNS {
			t.Errorf("%s %s > %s %s %d/%d: explained as %s", x.from, x.src, x.to, x.dst, x.protocol, x.port, why)
		}
	}
}

// viewRoutes tells the routes of a device, as "10.1.0.0/16 dc1a".
func viewRoutes(c *Compiler, dir Directory, name string) string {
	var out []string
	for _, r := range c.View(byName(dir, name).Device).Routes {
		out = append(out, r.Prefix.String()+" "+nameOf(dir, r.Gateway))
	}
	return strings.Join(out, ", ")
}

func peerNames(c *Compiler, dir Directory, id ID) string {
	var out []string
	for p := range c.Peers(id) {
		out = append(out, nameOf(dir, p))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// TestExitFamilies holds that an exit node is offered for the families that it carries.
func TestExitFamilies(t *testing.T) {
	dir := sites()
	for dst, want := range map[string]string{
		"autogroup:internet": "0.0.0.0/0 out4, 0.0.0.0/0 out, ::/0 out",
		"8.8.8.8":            "0.0.0.0/0 out4, 0.0.0.0/0 out",
		"2606::/16":          "::/0 out",
		"tag:exit":           "",
	} {
		c := New(parse(t, `{"grants": [{"src": ["ann"], "dst": ["`+dst+`"], "ip": ["*"]}]}`), dir, start)
		if got := viewRoutes(c, dir, "laptop"); got != want {
			t.Errorf("to %s: %s; want %s", dst, got, want)
		}
	}
	c := New(parse(t, `{"grants": [{"src": ["ann"], "dst": ["autogroup:internet"], "ip": ["*"]}]}`), dir, start)
	if got := peerNames(c, dir, byName(dir, "out").Device); got != "laptop own" {
		t.Errorf("exit nodes see each other: %s", got)
	}
}

// TestSiblings follows who carries one CIDR while routes come and go, without any grant. Nobody else is told.
func TestSiblings(t *testing.T) {
	dir := sites()
	c := New(parse(t, `{}`), dir, start)
	one, two, three := dir.Devices[0], dir.Devices[1], dir.Devices[2]
	names := func(ids []ID) string {
		var out []string
		for _, id := range ids {
			out = append(out, nameOf(dir, id))
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	check := func(what string, u Update, changed, gained, lost, peers, routes string) {
		t.Helper()
		if names(u.Changed) != changed || names(u.Gained) != gained || names(u.Lost) != lost {
			t.Errorf("%s: changed %q, gained %q, lost %q; want %q, %q, %q", what, names(u.Changed), names(u.Gained), names(u.Lost), changed, gained, lost)
		}
		if got, gotRoutes := peerNames(c, dir, one.ID), viewRoutes(c, dir, "dc1a"); got != peers || gotRoutes != routes {
			t.Errorf("%s: dc1a sees %q with routes %q; want %q, %q", what, got, gotRoutes, peers, routes)
		}
	}
	check("at first", Update{}, "", "", "", "dc1b", "10.1.0.0/16 dc1b")
	three.Routes = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	check("a third", c.SetDevice(three), "dc1a dc1b dc2", "dc1a dc1b", "", "dc1b dc2", "10.1.0.0/16 dc1b, 10.1.0.0/16 dc2")
	three.Routes = append(three.Routes, netip.MustParsePrefix("fd01::/48"))
	check("a second CIDR", c.SetDevice(three), "dc1a dc1b dc2", "", "", "dc1b dc2", "10.1.0.0/16 dc1b, 10.1.0.0/16 dc2, fd01::/48 dc2")
	three.Routes = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/17")} // a part of it is another route
	check("a part", c.SetDevice(three), "dc1a dc1b dc2", "", "dc1a dc1b", "dc1b", "10.1.0.0/16 dc1b")
	if c.Sees(one.ID, three.ID) || !c.Sees(one.ID, two.ID) {
		t.Error("who sees whom is wrong")
	}
	if u := c.SetPolicy(parse(t, `{"grants": [{"src": ["ann"], "dst": ["bob"], "ip": ["*"]}]}`), start); names(u.Changed) != "laptop office own" {
		t.Errorf("a policy changed %q", names(u.Changed))
	}
	check("removed", c.RemoveDevice(two.ID), "dc1a dc1b", "", "dc1a", "", "")
}

// TestUsed asks which routes a grant opens to anybody else.
func TestUsed(t *testing.T) {
	dir := sites()
	c := New(parse(t, `{"grants": [
		{"src": ["10.1.3.0/24"], "dst": ["10.2.0.0/16"], "ip": ["*"]},
		{"src": ["bob"], "dst": ["192.168.10.20"], "ip": ["*"]},
		{"src": ["ann"], "dst": ["8.8.8.8"], "ip": ["*"]},
		{"src": ["ann"], "dst": ["autogroup:self"], "ip": ["*"]},
	]}`), dir, start)
	for route, want := range map[string][2]bool{
		"dc1a 10.1.0.0/16": {true, true}, "dc1b 10.1.0.0/16": {true, true}, "dc2 10.2.0.0/16": {true, true}, "dc1a fd01::/48": {},
		"office 192.168.10.0/24": {false, true}, // for the gateway itself only
		"out 0.0.0.0/0":          {true, true}, "out ::/0": {}, "own 192.168.7.0/24": {}, "dc2 10.9.0.0/16": {},
	} {
		name, p, _ := strings.Cut(route, " ")
		used, named := c.Used(byName(dir, name).Device, netip.MustParsePrefix(p))
		if got := [2]bool{used, named}; got != want {
			t.Errorf("%s is used and named: %v, want %v", route, got, want)
		}
	}
	if used, named := c.Used(ID{99}, netip.MustParsePrefix("10.1.0.0/16")); used || named {
		t.Error("a route of nobody is used")
	}
	c.SetPolicy(parse(t, `{"groups": {"group:later": ["dora"]}, "grants": [
		{"src": ["group:later"], "dst": ["10.1.0.0/16", "autogroup:internet"], "ip": ["*"]},
		{"src": ["10.9.9.0/24"], "dst": ["10.2.0.0/16"], "ip": ["*"]},
	]}`), start)
	for route, want := range map[string]bool{
		"dc1a 10.1.0.0/16": true, "dc2 10.2.0.0/16": true, "out 0.0.0.0/0": true, "office 192.168.10.0/24": false,
	} {
		name, p, _ := strings.Cut(route, " ")
		if used, named := c.Used(byName(dir, name).Device, netip.MustParsePrefix(p)); used || named != want {
			t.Errorf("%s, for those who are not there yet: used %v, named %v, want %v", route, used, named, want)
		}
	}
}

// TestStarterNetworks holds the starter policy against what it says of gateways and exit nodes, for a network whose own prefixes are private ones, too.
func TestStarterNetworks(t *testing.T) {
	for _, overlay := range []string{"100.64.0.0/16", "10.64.0.0/16"} {
		own := []netip.Prefix{netip.MustParsePrefix(overlay), netip.MustParsePrefix("fd00:1::/48")}
		dir := Directory{Prefixes: own, Users: map[string]User{}}
		for i, d := range []Device{
			{Name: "laptop", Owner: "ann"}, {Name: "phone", Owner: "ann"}, {Name: "other", Owner: "bob"}, {Name: "server", Tags: []string{"web"}},
			{Name: "gw", Tags: []string{"gateway"}, Routes: []netip.Prefix{netip.MustParsePrefix("192.168.10.0/24"), netip.MustParsePrefix("fd77::/48")}},
			{Name: "home", Owner: "bob", Routes: []netip.Prefix{netip.MustParsePrefix("10.5.0.0/16")}},
			{Name: "out", Tags: []string{"exit"}, Exit: true},
		} {
			d.ID = ID{byte(i + 1)}
			v4, v6 := own[0].Addr().As4(), own[1].Addr().As16()
			v4[3], v6[15] = byte(i+2), byte(i+2)
			d.Addresses = []netip.Addr{netip.AddrFrom4(v4), netip.AddrFrom16(v6)}
			dir.Devices = append(dir.Devices, d)
		}
		c := New(parse(t, string(policy.Starter(own, "ann"))), dir, start)
		for _, x := range []struct {
			to, address string
			want        bool
		}{
			{"phone", "", true}, {"other", "", false}, {"server", "", false}, {"gw", "", false}, {"home", "", false}, {"out", "", false},
			{"gw", "192.168.10.20", true}, {"gw", "fd77::1", true}, {"home", "10.5.0.1", false}, {"out", "1.1.1.1", true}, {"out", "2606::1", true},
			{"out", "192.168.1.1", false},
		} {
			from, to := byName(dir, "laptop"), byName(dir, x.to)
			if x.address != "" {
				to.Address = netip.MustParseAddr(x.address)
			}
			if got := c.Explain(Question{Src: from, Dst: to, Protocol: 6, Port: 22}, start); got.Allowed != x.want {
				t.Errorf("overlay %s: laptop to %s %s: %s", overlay, x.to, x.address, got)
			}
			if x.to == "gw" && x.address != "" {
				back := Question{Src: to, Dst: from, Protocol: 6, Port: 22}
				if c.Explain(back, start).Allowed {
					t.Errorf("%s reaches the laptop", x.address)
				}
			}
		}
		if got := viewRoutes(c, dir, "laptop"); got != "0.0.0.0/0 out, 192.168.10.0/24 gw, ::/0 out, fd77::/48 gw" {
			t.Errorf("overlay %s: routes %s", overlay, got)
		}
	}
}
