package compile

import (
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

func texts4(list []*pb.Prefix) (out []string) {
	for _, m := range list {
		a, _ := netip.AddrFromSlice(m.GetAddress())
		out = append(out, netip.PrefixFrom(a, int(m.GetBits())).String())
	}
	return out
}

// TestBuiltInView holds that the policy of networks that had none tells devices what they were told before there were policies.
func TestBuiltInView(t *testing.T) {
	dir := office()
	dir.Devices = dir.Devices[:7] // none carries anything
	c := New(allToAll(t), dir, start)
	net := record.PrefixesToProto(dir.Prefixes)
	want := &pb.Grant{Id: "built-in", Sources: net, Destinations: net, Flows: []*pb.Flow{{Protocol: 0, LastPort: 65535}}}
	first := c.View(dir.Devices[0].ID)
	for _, d := range dir.Devices {
		v := c.View(d.ID)
		if len(v.Grants) != 1 || !proto.Equal(v.Grants[0], want) || len(v.Routes) != 0 {
			t.Errorf("%s is told %v and %v", d.Name, v.Grants, v.Routes)
		}
		if v.RuleSet != first.RuleSet {
			t.Errorf("%s has a rule set of its own", d.Name)
		}
	}
}

// TestLeastView holds that a device is told nothing that it has nothing to do with.
func TestLeastView(t *testing.T) {
	dir := office()
	c := New(parse(t, `{
	"groups": {"group:eng": ["ann", "bob"]},
	"grants": [
		{"src": ["group:eng"], "dst": ["tag:web"], "ip": ["tcp:443"]},
		{"src": ["group:eng"], "dst": ["10.1.4.0/24", "10.1.5.0/24"], "ip": ["udp:53"], "via": ["tag:gw"]},
		{"src": ["10.1.0.0/20"], "dst": ["tag:db"], "ip": ["tcp:5432"]},
		{"src": ["cyd"], "dst": ["autogroup:internet"], "ip": ["*"]},
		{"src": ["tag:db"], "dst": ["tag:db"], "ip": ["*"]},
		{"src": ["ghost"], "dst": ["tag:web"], "ip": ["*"]},
	]}`), dir, start)
	type told struct {
		peers  []string
		grants []string
		routes []string
	}
	for name, want := range map[string]told{
		"ann-laptop": {
			[]string{"gw-1", "web-1", "web-2"},
			[]string{"grants[0] [100.64.0.1/32 fd00:1::1/128] > [100.64.0.5/32 100.64.0.6/32 fd00:1::5/128 fd00:1::6/128]", "grants[1] [100.64.0.1/32 fd00:1::1/128] > [10.1.4.0/24 10.1.5.0/24]"},
			[]string{"10.1.0.0/16 by gw-1 for [10.1.4.0/24 10.1.5.0/24]"},
		},
		"web-1": {
			[]string{"ann-laptop", "ann-phone", "bob-laptop"},
			[]string{"grants[0] [100.64.0.1/32 100.64.0.2/32 100.64.0.3/32 fd00:1::1/128 fd00:1::2/128 fd00:1::3/128] > [100.64.0.5/32 fd00:1::5/128]"}, nil,
		},
		"gw-1": {
			[]string{"ann-laptop", "ann-phone", "bob-laptop", "db-1", "gw-2"},
			[]string{
				"grants[1] [100.64.0.1/32 100.64.0.2/32 100.64.0.3/32 fd00:1::1/128 fd00:1::2/128 fd00:1::3/128] > [10.1.4.0/24 10.1.5.0/24]",
				"grants[2] [10.1.0.0/20] > [100.64.0.7/32 fd00:1::7/128]",
			}, []string{"10.1.0.0/16 by gw-2 for [10.1.0.0/16]"}, // which carries the same
		},
		"gw-2": {
			[]string{"db-1", "gw-1"}, []string{"grants[2] [10.1.0.0/20] > [100.64.0.7/32 fd00:1::7/128]"}, []string{"10.1.0.0/16 by gw-1 for [10.1.0.0/16]"},
		},
		"db-1": {[]string{"gw-1", "gw-2"}, []string{"grants[2] [10.1.0.0/20] > [100.64.0.7/32 fd00:1::7/128]"}, []string{"10.1.0.0/16 by gw-1 for [10.1.0.0/20]", "10.1.0.0/16 by gw-2 for [10.1.0.0/20]"}},
		"cyd-laptop": {[]string{"exit"}, []string{
			"dns of exit nodes [100.64.0.4/32 fd00:1::4/128] > [100.64.0.10/32 fd00:1::a/128]", "grants[3] [100.64.0.4/32 fd00:1::4/128] > 132 prefixes",
		}, []string{"0.0.0.0/0 by exit, out", "::/0 by exit, out"}},
	} {
		id := byName(dir, name).Device
		var got told
		for p := range c.Peers(id) {
			got.peers = append(got.peers, nameOf(dir, p))
		}
		slices.Sort(got.peers)
		v := c.View(id)
		for _, g := range v.Grants {
			dst := "[" + join(texts4(g.Destinations)) + "]"
			if n := len(g.Destinations); n > 10 {
				dst = strconv.Itoa(n) + " prefixes"
			}
			got.grants = append(got.grants, g.Id+" ["+join(texts4(g.Sources))+"] > "+dst)
		}
		for _, r := range v.Routes {
			text := r.Prefix.String() + " by " + nameOf(dir, r.Gateway)
			if r.Exit {
				text += ", out"
			} else {
				text += " for ["
				for i, p := range r.Allowed {
					text += map[bool]string{true: " "}[i > 0] + p.String()
				}
				text += "]"
			}
			got.routes = append(got.routes, text)
		}
		if !slices.Equal(got.peers, want.peers) || !slices.Equal(got.grants, want.grants) || !slices.Equal(got.routes, want.routes) {
			t.Errorf("%s is told\n%+v\nwant\n%+v", name, got, want)
		}
	}
}

func join(list []string) (out string) {
	for i, s := range list {
		out += map[bool]string{true: " "}[i > 0] + s
	}
	return out
}

// TestLargeView holds that what a device of a large network is told fits into map statements.
func TestLargeView(t *testing.T) {
	dir := company(6000)
	c := New(parse(t, `{"grants": [{"src": ["autogroup:member"], "dst": ["tag:t7"], "ip": ["443"]}]}`), dir, start)
	i := slices.IndexFunc(dir.Devices, func(d Device) bool { return slices.Contains(d.Tags, "t7") })
	total := 0
	for _, g := range c.View(dir.Devices[i].ID).Grants {
		if len(g.Sources) > record.MaxPrefixes || len(g.Destinations) != 2 || g.Id != "grants[0]" {
			t.Errorf("grant %s of %d sources and %d destinations", g.Id, len(g.Sources), len(g.Destinations))
		}
		total += len(g.Sources)
	}
	if total != 2*4800 {
		t.Errorf("%d sources", total)
	}
}

// TestOfNothing asks about devices that are not there.
func TestOfNothing(t *testing.T) {
	dir := office()
	c := New(allToAll(t), dir, start)
	unknown, known := ID{99}, dir.Devices[0].ID
	if v := c.View(unknown); len(v.Grants) != 0 || len(v.Routes) != 0 || len(slices.Collect(c.Peers(unknown))) != 0 {
		t.Errorf("an unknown device is told %v", v)
	}
	if c.Sees(known, unknown) || c.Sees(unknown, known) || c.Sees(known, known) || !c.Sees(known, dir.Devices[1].ID) {
		t.Error("who sees whom is wrong")
	}
	if u := c.RemoveDevice(unknown); len(u.Changed)+len(u.Gained)+len(u.Lost) != 0 {
		t.Errorf("removing nothing did %+v", u)
	}
	if u := c.SetUser("ann", User{Admin: true}); len(u.Changed) != 0 {
		t.Errorf("what was so already did %+v", u)
	}
	if u := c.SetGroup("nobody", nil); len(u.Changed) != 0 {
		t.Errorf("an empty group did %+v", u)
	}
}

// TestAdvance follows windows by the times that Advance gives, and holds that nothing happens between them.
func TestAdvance(t *testing.T) {
	dir := office()
	p := parse(t, `{"grants": [
		{"src": ["ann"], "dst": ["tag:web"], "ip": ["*"], "when": {"days": ["mon-fri"], "hours": ["08:00-12:00", "13:00-17:00"], "zone": "UTC"}},
		{"src": ["bob"], "dst": ["tag:db"], "ip": ["*"], "until": "2030-01-03T09:30:00Z"},
		{"src": ["cyd"], "dst": ["tag:web"], "ip": ["*"]},
	]}`)
	c := New(p, dir, start)
	now, end := start, start.Add(5*24*time.Hour)
	_, next := c.Advance(now)
	var changes []string
	for !next.IsZero() && next.Before(end) {
		if !next.After(now) {
			t.Fatalf("next after %s is %s", now, next)
		}
		if u, _ := c.Advance(next.Add(-time.Nanosecond)); len(u.Changed) > 0 {
			t.Errorf("%d devices changed before %s", len(u.Changed), next)
		}
		var u Update
		now = next
		if u, next = c.Advance(now); len(u.Changed) > 0 {
			changes = append(changes, now.Format("Mon 15:04 ")+strconv.Itoa(len(u.Changed)))
		}
	}
	want := []string{ // ann has two devices, as the web has; it is Wednesday noon
		"Wed 13:00 4", "Wed 17:00 4", "Thu 08:00 4", "Thu 09:30 2", "Thu 12:00 4", "Thu 13:00 4", "Thu 17:00 4", "Fri 08:00 4", "Fri 12:00 4", "Fri 13:00 4", "Fri 17:00 4",
		"Mon 08:00 4",
	}
	if !slices.Equal(changes, want) {
		t.Errorf("changes at %q, want %q", changes, want)
	}
	if _, next := New(allToAll(t), dir, start).Advance(start); !next.IsZero() {
		t.Errorf("next of a policy without windows is %s", next)
	}
}

// FuzzCompile compiles whatever parses, for a network that has one of everything.
func FuzzCompile(f *testing.F) {
	f.Add(`{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]}`, `{}`)
	f.Add(newGen(1).policy().text(), newGen(2).policy().text())
	f.Add(newGen(3).policy().text(), newGen(4).policy().text())
	dir := office()
	f.Fuzz(func(t *testing.T, one, other string) {
		p, err := parseText(one)
		q, errQ := parseText(other)
		if err != nil || errQ != nil {
			return
		}
		c := New(p, dir, start)
		c.SetPolicy(q, start)
		anew := New(q, dir, start)
		for _, d := range dir.Devices {
			v := c.View(d.ID)
			if v.Hash != anew.View(d.ID).Hash {
				t.Fatalf("%s has another view than anew", d.Name)
			}
			for _, g := range v.Grants {
				if g.Id == "" || len(g.Sources) == 0 || len(g.Destinations) == 0 || len(g.Flows) == 0 {
					t.Fatalf("%s has %v", d.Name, g)
				}
			}
			if peers := slices.Collect(c.Peers(d.ID)); len(v.Grants) > 0 && len(peers) == 0 || slices.Contains(peers, d.ID) {
				t.Fatalf("%s has %d grants and %d peers", d.Name, len(v.Grants), len(peers))
			}
		}
		_ = Diff(p, q, dir, dir, start).String()
		RunTests(q, dir, start)
	})
}
