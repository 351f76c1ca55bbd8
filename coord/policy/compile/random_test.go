package compile

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// gen makes worlds from a seed, small enough that their parts meet.
type gen struct{ *rand.Rand }

func newGen(seed uint64) gen { return gen{rand.New(rand.NewPCG(seed, 7))} }

func (g gen) pick(list ...string) string { return list[g.IntN(len(list))] }

func (g gen) chance(percent int) bool { return g.IntN(100) < percent }

// some gives one to most of list, each once.
func (g gen) some(most int, list []string) []string {
	n := 1 + g.IntN(most)
	var out []string
	for range n {
		if s := list[g.IntN(len(list))]; !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

var (
	genUsers  = []string{"ann", "bob", "cyd", "dee@example.com"}
	genTags   = []string{"web", "db", "gw", "exit"}
	genRoutes = []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16", "fd99::/16", "fd99:1::/32", "203.0.113.0/24", "8.8.0.0/16"}
	genNet    = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/16"), netip.MustParsePrefix("fd00:1::/48")}
)

func (g gen) device(i int) Device {
	d := Device{ID: ID{1, byte(i >> 8), byte(i)}, Name: fmt.Sprintf("d%d", i)}
	d.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{100, 64, byte(i >> 8), byte(i + 2)}), netip.AddrFrom16([16]byte{0xfd, 0, 0, 1, 14: byte(i >> 8), 15: byte(i + 2)})}
	switch {
	case g.chance(5):
		d.Addresses = d.Addresses[:1]
	case g.chance(3): // from a prefix that the network had before
		d.Addresses[0] = netip.AddrFrom4([4]byte{100, 99, byte(i >> 8), byte(i)})
	}
	if !g.chance(15) {
		d.Owner = g.pick(genUsers...)
	}
	if g.chance(45) {
		d.Tags = g.some(2, genTags)
		if g.chance(30) {
			d.Tags[0] = "tag:" + d.Tags[0]
		}
	}
	if g.chance(30) {
		for _, r := range g.some(3, genRoutes) {
			d.Routes = append(d.Routes, netip.MustParsePrefix(r))
		}
	}
	d.Exit = g.chance(10)
	if g.chance(10) {
		d.Routes = append(d.Routes, netip.MustParsePrefix(g.pick("0.0.0.0/0", "::/0")))
	}
	if g.chance(70) {
		d.Facts = map[string]string{}
		if g.chance(70) {
			d.Facts["node:os"] = g.pick("linux", "macos")
		}
		if g.chance(50) {
			d.Facts["node:hostname"] = d.Name
		}
		if g.chance(50) {
			d.Facts["custom:level"] = g.pick("1", "2", "3", "high")
		}
	}
	return d
}

func (g gen) directory(devices int) Directory {
	dir := Directory{Prefixes: genNet, Users: map[string]User{}, Groups: map[string][]string{}}
	for i := range devices {
		dir.Devices = append(dir.Devices, g.device(i))
	}
	for _, u := range genUsers {
		dir.Users[u] = User{Admin: g.chance(30)}
	}
	for _, name := range []string{"idp", "ops"} {
		if g.chance(70) {
			dir.Groups[name] = g.some(3, genUsers)
		}
	}
	return dir
}

func (g gen) policy() policyModel {
	p := policyModel{groups: map[string][]string{}, hosts: map[string]string{}, ipsets: map[string][]string{}, postures: map[string][]string{}}
	user := func() string { return g.pick(append(genUsers, "ann@", "ghost")...) }
	p.groups["eng"] = []string{user(), user()}
	p.groups["all"] = []string{"group:eng", user(), "group:idp"}
	if g.chance(50) { // hides the group of sign-in
		p.groups["ops"] = []string{user()}
	}
	p.hosts["site"] = g.pick("10.1.0.0/16", "10.1.2.3", "10.0.0.0/7", "fd99:1::/48")
	p.hosts["box"] = g.pick("100.64.0.3", "fd00:1::4", "10.2.0.9")
	p.ipsets["some"] = []string{"add 10.0.0.0/8", "remove 10.1.0.0/16", "add " + g.pick("site", "100.64.0.0/29", "10.1.2.0/24")}
	p.ipsets["net"] = []string{"add autogroup:internet", "remove " + g.pick("8.8.8.0/24", "2001::/16", "ipset:some")}
	p.postures["linux"] = []string{"node:os == 'linux'"}
	p.postures["good"] = []string{"node:os != 'macos'", "custom:level >= '2'"}
	p.postures["unset"] = []string{"node:hostname NOT SET"}
	if g.chance(15) {
		p.byField = []string{"posture:linux"}
	}
	for i := range 1 + g.IntN(12) {
		p.grants = append(p.grants, g.grant(i))
	}
	slices.SortStableFunc(p.grants, func(a, b grantModel) int { // as in the document
		return map[bool]int{true: 1}[a.acl] - map[bool]int{true: 1}[b.acl]
	})
	return p
}

func (g gen) grant(i int) grantModel {
	devices := []string{
		"ann", "bob@", "dee@example.com", "group:eng", "group:all", "group:idp", "group:ops", "tag:web", "tag:db", "tag:gw", "autogroup:member", "autogroup:tagged",
		"autogroup:admin", "*", "site", "box", "ipset:some", "100.64.0.4", "fd00:1::5", "10.1.2.0/24", "8.8.8.8", "100.64.0.0/29",
	}
	m := grantModel{acl: g.chance(25), src: g.some(3, devices), dst: g.some(3, append(devices, "autogroup:internet", "ipset:net"))}
	if g.chance(15) {
		m.src = g.some(2, []string{"ann", "group:all", "autogroup:member", "autogroup:admin", "group:idp"})
		m.dst = []string{"autogroup:self"}
		if g.chance(30) {
			m.dst = append(m.dst, "tag:web")
		}
	}
	if g.chance(30) {
		m.name = fmt.Sprintf("grant %c", 'a'+i)
	}
	if m.acl {
		m.proto = g.pick("", "", "tcp", "udp", "gre", "89", "icmp")
		m.ip = []string{"*"}
		if m.proto == "" || m.proto == "tcp" || m.proto == "udp" {
			m.ip = []string{g.pick("*", "80", "22,80", "79-81,443")}
		}
	} else {
		m.ip = g.some(3, []string{"*", "80", "tcp:443", "udp:*", "icmp:*", "79-81", "tcp:22,443", "gre:*", "89:*", "sctp:80"})
		if g.chance(25) {
			m.via = g.some(2, []string{"tag:gw", "tag:exit"})
		}
	}
	if g.chance(20) {
		m.postures = g.some(2, []string{"posture:linux", "posture:good", "posture:unset"})
	}
	if g.chance(15) {
		m.hours = g.pick("08:00-18:00", "22:00-06:00", "11:30-12:30")
	}
	if g.chance(10) {
		m.days = g.some(3, []string{"monday", "tuesday", "wednesday", "thursday", "saturday"})
	}
	if g.chance(10) {
		m.until = start.Add(time.Duration(g.IntN(200)-50) * time.Hour)
	}
	return m
}

// text renders a policy as a person might write it.
func (p policyModel) text() string {
	var grants, acls []map[string]any
	for _, g := range p.grants {
		m := map[string]any{"src": g.src}
		if g.name != "" {
			m["name"] = g.name
		}
		if g.postures != nil {
			m["srcPosture"] = g.postures
		}
		if !g.until.IsZero() {
			m["until"] = g.until.Format(time.RFC3339)
		}
		if when := map[string]any{"zone": "UTC"}; g.hours != "" || g.days != nil {
			if g.hours != "" {
				when["hours"] = g.hours
			}
			if g.days != nil {
				when["days"] = g.days
			}
			m["when"] = when
		}
		if !g.acl {
			m["dst"], m["ip"], m["via"] = g.dst, g.ip, g.via
			grants = append(grants, m)
			continue
		}
		var dst []string
		for _, d := range g.dst {
			dst = append(dst, d+":"+g.ip[0])
		}
		m["action"], m["dst"] = "accept", dst
		if g.proto != "" {
			m["proto"] = g.proto
		}
		acls = append(acls, m)
	}
	prefixed := func(prefix string, in map[string][]string) map[string][]string {
		out := map[string][]string{}
		for k, v := range in {
			out[prefix+k] = v
		}
		return out
	}
	b, err := json.MarshalIndent(map[string]any{
		"groups": prefixed("group:", p.groups), "hosts": p.hosts, "ipsets": prefixed("ipset:", p.ipsets), "postures": prefixed("posture:", p.postures),
		"defaultSrcPosture": p.byField, "grants": grants, "acls": acls,
	}, "", "\t")
	if err != nil {
		panic(err)
	}
	return strings.Replace(string(b), "{", "{ // made by a test", 1)
}

// address gives one that a device has or might carry.
func (g gen) address(d Device) netip.Addr {
	list := slices.Clone(d.Addresses)
	for _, r := range d.Routes {
		if r.Bits() == 0 {
			list = append(list, netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("2606:4700::1"))
			continue
		}
		list = append(list, r.Addr().Next(), netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd99:1::7"))
	}
	if d.Exit {
		list = append(list, netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("2606:4700::1"), netip.MustParseAddr("9.9.9.9"), netip.MustParseAddr("10.7.7.7"))
	}
	return list[g.IntN(len(list))]
}

func (g gen) packet(devices []Device) packet {
	p := packet{from: devices[g.IntN(len(devices))], to: devices[g.IntN(len(devices))]}
	p.src, p.dst = g.address(p.from), g.address(p.to)
	p.protocol = []uint8{6, 6, 6, 17, 17, 1, 58, 47, 89, 132}[g.IntN(10)]
	p.port = []uint16{22, 53, 79, 80, 81, 443, 5000}[g.IntN(7)]
	return p
}
