package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"warren/coord/policy"
)

// covers reports whether a change is about a packet, by what its words say. vague is for words that say more than they mean: a CIDR of which
// narrower parts have changes of their own.
func (n *naive) covers(c Change, p packet) (yes, vague bool) {
	flow := slices.ContainsFunc(c.Flows, func(f policy.Flow) bool { return f.Contains(p.protocol, p.port) }) &&
		!slices.ContainsFunc(c.Except, func(f policy.Flow) bool { return f.Contains(p.protocol, p.port) })
	src, vagueSrc := covered(c.Who, p.from, p.src, func(s string) bool { return n.isSource(s, p.from, p.src) })
	dst, vagueDst := covered(c.What, p.to, p.dst, func(s string) bool {
		if s == "autogroup:self" {
			return userOf(p.from) != "" && userOf(p.from) == userOf(p.to) && slices.Contains(p.to.Addresses, p.dst)
		}
		return n.isDestination(s, nil, p.to, p.dst)
	})
	return flow && src && dst, vagueSrc || vagueDst
}

func covered(names []string, d Device, a netip.Addr, selects func(string) bool) (yes, vague bool) {
	for _, s := range names {
		if s == "device "+d.Name {
			yes = yes || slices.Contains(d.Addresses, a)
			continue
		}
		if strings.HasPrefix(s, "device ") || strings.HasPrefix(s, "and ") {
			continue
		}
		for _, joint := range []string{" behind ", " of "} {
			list, name, ok := strings.Cut(s, joint)
			if !ok {
				continue
			}
			for _, t := range strings.Split(list, " and ") {
				t, _, _ = strings.Cut(t, " without ")
				p, err := netip.ParsePrefix(t)
				if one, errOne := netip.ParseAddr(t); errOne == nil {
					p, err = netip.PrefixFrom(one, one.BitLen()), nil
				}
				if name == d.Name && (err != nil || p.Contains(a)) { // or "3 more"
					yes, vague = true, true
				}
			}
		}
		if !strings.Contains(s, " ") && selects(s) {
			yes = true
		}
	}
	return yes, vague
}

// TestDiffAgainstNaive compares what a difference says with what becomes of packets.
func TestDiffAgainstNaive(t *testing.T) {
	gained, lost, unchanged, byRoute := 0, 0, 0, 0
	for seed := range uint64(*worlds) {
		g := newGen(seed)
		old := &naive{g.policy(), g.directory(2 + g.IntN(7))}
		next := &naive{g.policy(), old.dir}
		if g.chance(60) { // a small change
			next.policyModel = old.policyModel
			next.grants = slices.Clone(old.grants)
			i := g.IntN(len(next.grants))
			next.grants[i] = g.grant(i)
			next.grants[i].name = ""
			if g.chance(30) {
				next.grants = slices.Delete(next.grants, i, i+1)
			}
			slices.SortStableFunc(next.grants, func(a, b grantModel) int { return map[bool]int{true: 1}[a.acl] - map[bool]int{true: 1}[b.acl] })
			if g.chance(20) { // routes only
				next.grants = old.grants
			}
		}
		if g.chance(40) {
			next.dir = g.rerouted(old.dir)
		}
		d := Diff(parse(t, old.text()), parse(t, next.text()), old.dir, next.dir, start)
		if d.More > 0 || d.Unseen || strings.Contains(d.String(), " more") {
			continue
		}
		for range 60 {
			p := g.packet(g.either(old, next).dir.Devices)
			if p.src.Is4() != p.dst.Is4() || p.from.ID == p.to.ID {
				continue
			}
			before, after := old.of(p), next.of(p)
			if !before.plausible() && !after.plausible() {
				continue
			}
			was, is := old.granted(before, start), next.granted(after, start)
			if was != is && (before.plausible() != after.plausible()) {
				byRoute++
			}
			sameUser := userOf(p.from) != "" && userOf(p.from) == userOf(p.to)
			fail := func(what string) {
				t.Helper()
				t.Fatalf("seed %d: %s %s > %s %s %d/%d: %v before, %v after; %s:\n%s\nfrom %+v\nto %+v\nold %s\nnew %s", seed, p.from.Name, p.src,
					p.to.Name, p.dst, p.protocol, p.port, was, is, what, d, p.from, p.to, old.text(), next.text())
			}
			told := [2]bool{}
			for _, c := range d.Changes {
				n, gain, p := next, 1, after
				if !c.Gain {
					n, gain, p = old, 0, before
				}
				yes, vague := n.covers(c, p)
				told[gain] = told[gain] || yes
				if right := is && !was && c.Gain || was && !is && !c.Gain; yes && !vague && !right && !(sameUser && c.OwnAside) {
					fail("and yet " + c.String())
				}
			}
			switch {
			case is && !was && !told[1]:
				fail("nobody says it gains")
			case was && !is && !told[0]:
				fail("nobody says it loses")
			case is && !was:
				gained++
			case was && !is:
				lost++
			default:
				unchanged++
			}
		}
	}
	if gained < *worlds/10 || lost < *worlds/10 || byRoute < *worlds/100 {
		t.Errorf("%d packets gained and %d lost, %d by a route: the worlds say little", gained, lost, byRoute)
	}
	t.Logf("%d packets gained, %d lost, %d unchanged, %d by a route", gained, lost, unchanged, byRoute)
}

// rerouted gives some devices other routes, and has all of them in another order.
func (g gen) rerouted(dir Directory) Directory {
	dir.Devices = slices.Clone(dir.Devices)
	for i := range dir.Devices {
		if g.chance(30) {
			d := &dir.Devices[i]
			d.Routes, d.Exit = nil, g.chance(20)
			for _, r := range g.some(3, genRoutes) {
				d.Routes = append(d.Routes, netip.MustParsePrefix(r))
			}
		}
	}
	g.Shuffle(len(dir.Devices), func(i, j int) { dir.Devices[i], dir.Devices[j] = dir.Devices[j], dir.Devices[i] })
	return dir
}

func (g gen) either(a, b *naive) *naive {
	if g.chance(50) {
		return a
	}
	return b
}

// of is a packet between the devices as they are in n.
func (n *naive) of(p packet) packet {
	for _, d := range n.dir.Devices {
		if d.ID == p.from.ID {
			p.from = d
		}
		if d.ID == p.to.ID {
			p.to = d
		}
	}
	return p
}

func (p packet) plausible() bool {
	return plausible(p.from, p.src, false) && plausible(p.to, p.dst, true)
}

// TestDiffOfRoutes: what follows from routes that the next policy approves, or takes back, is told like all else.
func TestDiffOfRoutes(t *testing.T) {
	const grants = `"grants": [{"src": ["ann"], "dst": ["10.0.0.0/8"], "ip": ["tcp:443"]}, {"src": ["bob"], "dst": ["autogroup:internet"], "ip": ["*"]}]`
	p := parse(t, "{"+grants+"}")
	dir := office()
	for _, c := range []struct {
		device string
		routes []string
		exit   bool
		want   string
	}{
		{"gw-1", []string{"10.1.0.0/16", "10.9.0.0/16"}, false, "ann (2 devices) gains tcp:443 on 10.9.0.0/16 behind gw-1 (1 device)\n"}, // a destination already
		{"gw-2", nil, false, "ann (2 devices) loses tcp:443 on 10.1.0.0/16 behind gw-2 (1 device)\n"},
		{"web-1", nil, true, "bob (1 device) gains * on internet behind web-1 (1 device)\n"},
		{"web-2", []string{"172.16.0.0/12"}, false, "no device gains or loses anything\n"},
	} {
		under := office()
		for i := range under.Devices {
			if d := &under.Devices[i]; d.Name == c.device {
				d.Routes, d.Exit = nil, c.exit
				for _, r := range c.routes {
					d.Routes = append(d.Routes, netip.MustParsePrefix(r))
				}
			}
		}
		if got := Diff(p, p, dir, under, start).String(); got != c.want {
			t.Errorf("%s:\n%swant\n%s", c.device, got, c.want)
		}
	}
	if got := Diff(p, p, dir, dir, start).String(); got != "no device gains or loses anything\n" {
		t.Errorf("without a change: %s", got)
	}
}

// office is a small network for examples.
func office() Directory {
	dir := Directory{
		Prefixes: genNet, Users: map[string]User{"ann": {Admin: true}, "bob": {}, "cyd": {}}, Groups: map[string][]string{"sales": {"cyd"}},
	}
	for i, d := range []Device{
		{Name: "ann-laptop", Owner: "ann"}, {Name: "ann-phone", Owner: "ann"}, {Name: "bob-laptop", Owner: "bob"}, {Name: "cyd-laptop", Owner: "cyd"},
		{Name: "web-1", Tags: []string{"web"}}, {Name: "web-2", Tags: []string{"web"}}, {Name: "db-1", Tags: []string{"db"}},
		{Name: "gw-1", Tags: []string{"gw"}, Routes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}},
		{Name: "gw-2", Tags: []string{"gw2"}, Routes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}},
		{Name: "exit", Tags: []string{"exit"}, Exit: true},
	} {
		d.ID = ID{byte(i + 1)}
		d.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 0, byte(i + 1)}), netip.MustParseAddr(fmt.Sprintf("fd00:1::%x", i+1))}
		dir.Devices = append(dir.Devices, d)
	}
	return dir
}

func TestDiff(t *testing.T) {
	const groups = `"groups": {"group:eng": ["ann", "bob"]}, "hosts": {"office": "10.1.0.0/16", "lab": "10.1.7.0/24"}, `
	for _, c := range []struct{ name, old, next, want string }{
		{"nothing", `"grants": []`, `"acls": []`, "no device gains or loses anything\n"},
		{"a port", `"grants": [{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["tcp:80"]}]`,
			`"grants": [{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["tcp:80-90"]}]`, "group:eng (3 devices) gains tcp:81-90 on tag:web (2 devices)\n"},
		{"another group", `"grants": [{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["tcp:80"]}]`,
			`"grants": [{"src": ["group:sales"], "dst": ["tag:web"], "ip": ["tcp:80"]}]`,
			"group:sales (1 device) gains tcp:80 on tag:web (2 devices)\ngroup:eng (3 devices) loses tcp:80 on tag:web (2 devices)\n"},
		{"moved, renamed and split", `"grants": [{"src": ["ann", "bob"], "dst": ["tag:web"], "ip": ["tcp:80", "tcp:443"]}]`,
			`"grants": [{"name": "b", "src": ["bob"], "dst": ["tag:web"], "ip": ["tcp:80,443"]}, {"name": "a", "src": ["ann"], "dst": ["tag:web"], "ip": ["tcp:443", "tcp:80"]}]`,
			"no device gains or loses anything\n"},
		{"everything but", `"grants": [{"src": ["ann"], "dst": ["tag:db"], "ip": ["*"]}]`,
			`"grants": [{"src": ["ann"], "dst": ["tag:db"], "ip": ["tcp:5432"]}]`, "ann (2 devices) loses * except tcp:5432 on tag:db (1 device)\n"},
		{"own devices", `"grants": [{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["tcp:22"]}]`,
			`"grants": [{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"]}]`,
			"ann (2 devices) gains * except tcp:22 on autogroup:self (2 devices)\n"},
		{"from all to own", `"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]`,
			`"grants": [{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"]}]`,
			"ann (2 devices) gains * except icmp:*, tcp:*, udp:*, icmpv6:* on autogroup:self (2 devices)\n" +
				"* (10 devices) loses icmp:*, tcp:*, udp:*, icmpv6:* on * (10 devices), own devices aside\n"},
		{"a part of a CIDR", `"grants": [{"src": ["ann"], "dst": ["lab"], "ip": ["*"]}]`, `"grants": [{"src": ["ann"], "dst": ["office"], "ip": ["*"]}]`,
			"ann (2 devices) gains * on 10.1.0.0/16 without 10.1.7.0/24 behind gw-1, 10.1.0.0/16 without 10.1.7.0/24 behind gw-2 (2 devices)\n"},
		{"through one gateway only", `"grants": [{"src": ["ann"], "dst": ["office"], "ip": ["*"]}]`,
			`"grants": [{"src": ["ann"], "dst": ["office"], "ip": ["*"], "via": ["tag:gw"]}]`,
			"ann (2 devices) loses * on 10.1.0.0/16 behind gw-2 (1 device)\n"},
		{"the internet", `"grants": []`, `"grants": [{"src": ["autogroup:member"], "dst": ["autogroup:internet"], "ip": ["*"]}]`,
			"autogroup:member (4 devices) gains * on autogroup:internet (1 device)\n"},
		{"somebody in a group", `"groups": {"group:ops": ["ann"]}, "grants": [{"src": ["group:ops"], "dst": ["tag:db"], "ip": ["22"]}]`,
			`"groups": {"group:ops": ["ann", "cyd"]}, "grants": [{"src": ["group:ops"], "dst": ["tag:db"], "ip": ["22"]}]`,
			"group:sales (1 device) gains icmp:*, tcp:22, udp:22, icmpv6:* on tag:db (1 device)\n"},
	} {
		prefix := groups
		if strings.Contains(c.old, `"groups"`) {
			prefix = ""
		}
		got := Diff(parse(t, "{"+prefix+c.old+"}"), parse(t, "{"+prefix+c.next+"}"), office(), office(), start).String()
		if got != c.want {
			t.Errorf("%s:\n%swant\n%s", c.name, got, c.want)
		}
	}
}

// TestDiffOfSomeOwnDevices: what a user loses on some of the own devices is not said of all of them.
func TestDiffOfSomeOwnDevices(t *testing.T) {
	dir := office()
	for i, d := range dir.Devices {
		if d.Name == "ann-phone" || d.Name == "bob-laptop" {
			dir.Devices[i].Facts = map[string]string{"node:os": "linux"}
		}
	}
	const own = `{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["tcp:22"], "srcPosture": ["posture:linux"]},`
	for _, c := range []struct{ name, kept, want string }{
		{"where addresses are told apart", `{"src": ["bob"], "dst": ["100.64.0.2/31"], "ip": ["udp:53"]},`,
			"device ann-phone (1 device) loses tcp:22 on autogroup:self (1 device)\n"},
		{"where another grant makes up for it at one address", `{"src": ["autogroup:member"], "dst": ["100.64.0.1"], "ip": ["tcp:22"]},`,
			"device ann-phone (1 device) loses tcp:22 on fd00:1::1 of ann-laptop (1 device)\n"},
	} {
		text := func(grants string) *policy.Policy {
			return parse(t, `{"postures": {"posture:linux": ["node:os == 'linux'"]}, "grants": [`+grants+`]}`)
		}
		if got := Diff(text(own+c.kept), text(c.kept), dir, dir, start).String(); got != c.want {
			t.Errorf("%s: %swant %s", c.name, got, c.want)
		}
		if got, want := Diff(text(c.kept), text(own+c.kept), dir, dir, start).String(), strings.ReplaceAll(c.want, "loses", "gains"); got != want {
			t.Errorf("%s, the other way round: %swant %s", c.name, got, want)
		}
	}
}
