package compile

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// spelledView is what a device makes of ViewByPeer: it knows its peers by their keys and addresses.
func spelledView(tb testing.TB, c *Compiler, id ID, addresses func(ID) []netip.Addr) View {
	tb.Helper()
	v := c.ViewByPeer(id)
	keys := slices.SortedFunc(c.Peers(id), func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	var peers [][]netip.Addr
	for _, k := range keys {
		peers = append(peers, addresses(k))
	}
	s := statementOf(v)
	if err := s.SpellPeers(peers); err != nil {
		tb.Fatal(err)
	}
	return View{RuleSet: &RuleSet{Grants: s.GetGrants()}, Routes: v.Routes}
}

func (l *life) addresses(id ID) []netip.Addr { return l.devices[id].Addresses }

// checkByPeer holds that a device that spells out its peers is told neither more nor less than one that is told prefixes.
func checkByPeer(tb testing.TB, c *Compiler, id ID, addresses func(ID) []netip.Addr) {
	tb.Helper()
	want, got := c.View(id), spelledView(tb, c, id, addresses)
	set := func(list []*pb.Prefix) []netip.Prefix {
		all, err := record.PrefixesFromProto(list, 1<<20)
		if err != nil {
			tb.Fatal(err)
		}
		return prefixes(apart(newParts(all)))
	}
	if len(want.Grants) != len(got.Grants) || len(want.Routes) != len(got.Routes) {
		tb.Fatalf("%d grants and %d routes by peer, %d and %d else", len(got.Grants), len(got.Routes), len(want.Grants), len(want.Routes))
	}
	for i, w := range want.Grants {
		g := got.Grants[i]
		if g.GetId() != w.GetId() || len(g.GetFlows()) != len(w.GetFlows()) ||
			!slices.Equal(set(g.GetSources()), set(w.GetSources())) || !slices.Equal(set(g.GetDestinations()), set(w.GetDestinations())) {
			tb.Fatalf("by peer %v\nelse %v", g, w)
		}
	}
}

func statementOf(v View) *record.Statement {
	return &record.Statement{MapStatement: &pb.MapStatement{Grants: v.Grants}}
}

// TestManyByPeer: what a server of very many clients is told is short, and says the same.
func TestManyByPeer(t *testing.T) {
	dir := company(6000)
	c := New(parse(t, `{"grants": [
		{"src": ["autogroup:member", "10.0.0.0/8"], "dst": ["tag:t7"], "ip": ["443"]},
		{"src": ["autogroup:member"], "dst": ["autogroup:self", "tag:t8"], "ip": ["22"]},
	]}`), dir, start)
	addresses := func(id ID) []netip.Addr {
		return dir.Devices[slices.IndexFunc(dir.Devices, func(d Device) bool { return d.ID == id })].Addresses
	}
	servers := 0
	for _, d := range dir.Devices {
		if !slices.Contains(d.Tags, "t7") {
			continue
		}
		servers++
		v, long := c.ViewByPeer(d.ID), c.View(d.ID)
		size, longSize := proto.Size(statementOf(v)), proto.Size(statementOf(long))
		if size > 2000 || longSize < 150_000 || len(v.Grants) != 1 || record.NamedPeers(v.Grants) != 4800 {
			t.Errorf("%s: %d bytes in %d grants, which name %d peers, instead of %d bytes", d.Name, size, len(v.Grants), record.NamedPeers(v.Grants), longSize)
		}
		if servers == 1 {
			got, want := spelledView(t, c, d.ID, addresses), &pb.Grant{}
			for _, g := range long.Grants { // in pieces
				want.Sources = append(want.Sources, g.GetSources()...)
			}
			sorted := func(list []*pb.Prefix) []string { return slices.Sorted(slices.Values(texts4(list))) }
			if !slices.Equal(sorted(got.Grants[0].GetSources()), sorted(want.GetSources())) {
				t.Error("sources are others by peer")
			}
		}
	}
	if servers == 0 {
		t.Error("no server")
	}
}

// TestFewByPeer: short lists stay readable, and shared.
func TestFewByPeer(t *testing.T) {
	dir := office()
	c := New(allToAll(t), dir, start)
	for _, d := range dir.Devices {
		if c.ViewByPeer(d.ID).RuleSet != c.View(d.ID).RuleSet {
			t.Errorf("%s has a rule set of its own", d.Name)
		}
	}
	if v := c.ViewByPeer(ID{99}); len(v.Grants)+len(v.Routes) > 0 {
		t.Errorf("an unknown device is told %v", v)
	}
}
