package record

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

func TestSpellPeers(t *testing.T) {
	var peers [][]netip.Addr
	for i := range 10 {
		peers = append(peers, []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), netip.MustParseAddr(fmt.Sprintf("fd00::%x", i))})
	}
	peers[3] = peers[3][:1]
	office := PrefixesToProto([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")})
	spelled := func(list []*pb.Prefix) string {
		all, err := PrefixesFromProto(list, MaxPrefixes)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Trim(fmt.Sprint(all), "[]")
	}
	flows := []*pb.Flow{{Protocol: 6, FirstPort: 1, LastPort: 2}}
	s := &Statement{MapStatement: &pb.MapStatement{Grants: []*pb.Grant{
		{Id: "both", Sources: office, SourcePeers: []byte{0b1001}, DestinationPeers: []byte{0, 0b10}, Flows: flows},
		{Id: "again", SourcePeers: []byte{0b1001}, Destinations: office, Flows: flows},
		{Id: "none", Sources: office, Destinations: office, Flows: flows},
	}}}
	opened := s.MapStatement.GetGrants()
	if n := NamedPeers(s.GetGrants()); n != 5 {
		t.Errorf("%d peers are named, want 5", n)
	}
	if err := s.SpellPeers(peers); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"10.1.0.0/16 10.0.0.0/32 fd00::/128 10.0.0.3/32 > 10.0.0.9/32 fd00::9/128",
		"10.0.0.0/32 fd00::/128 10.0.0.3/32 > 10.1.0.0/16",
		"10.1.0.0/16 > 10.1.0.0/16",
	} {
		g := s.GetGrants()[i]
		if got := spelled(g.GetSources()) + " > " + spelled(g.GetDestinations()); got != want || g.GetId() != opened[i].GetId() || len(g.GetFlows()) != 1 {
			t.Errorf("grant %d: %s, want %s", i, got, want)
		}
	}
	if len(opened[0].GetSources()) != 1 || len(office) != 1 || NamedPeers(s.GetGrants()) != 0 {
		t.Error("what was opened changed, or names are left")
	}
	// Once more, with a bit for a peer that is not there.
	s.Grants = opened
	if err := s.SpellPeers(peers[:9]); err == nil || !strings.Contains(err.Error(), `grant "both": destinations: it names peer 10 of 9`) {
		t.Errorf("a bit for nobody: %v", err)
	}
	if &s.Grants[0] != &opened[0] {
		t.Error("it failed and changed the statement")
	}
}

// TestTooManyNamedPeers: bits of few bytes must not make a device spell out more than it can hold.
func TestTooManyNamedPeers(t *testing.T) {
	set := make([]byte, MaxNamedPeers/8/4)
	for i := range set {
		set[i] = 0xff
	}
	grant := &pb.Grant{SourcePeers: set}
	for n, ok := range map[int]bool{4: true, 5: false} {
		m := statement(key.NewDevice().Public())
		for range n {
			m.Grants = append(m.Grants, grant)
		}
		if err := checkStatement(m); (err == nil) != ok {
			t.Errorf("%d grants of %d peers: %v", n, len(set)*8, err)
		}
	}
}
