package filter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"warren/internal/ipproto"
)

func TestExplain(t *testing.T) {
	web, ssh := ipproto.Flow{Protocol: protoTCP, Port: 443}, ipproto.Flow{Protocol: protoTCP, Port: 22}
	for name, c := range map[string]struct {
		grants  []string
		f       ipproto.Flow
		allowed []string
		nearest []string
	}{
		"no grants":         {nil, web, nil, nil},
		"allowed":           {[]string{a4 + " -> " + b4 + " 6:22-22,6:443-443"}, web, []string{"0"}, nil},
		"allowed by two":    {[]string{a4 + " -> " + b4 + " any", b4 + " -> " + a4 + " any", "100.64.0.0/16 -> 100.64.0.0/16 6:1-1000"}, web, []string{"0", "2"}, nil},
		"another port":      {[]string{a4 + " -> " + b4 + " 6:22-22,17:1-2,1"}, web, nil, []string{"0 flow: it allows tcp/22, udp/1-2, icmp only"}},
		"another protocol":  {[]string{a4 + " -> " + b4 + " 17:0-65535,47"}, web, nil, []string{"0 flow: it allows udp, gre only"}},
		"another source":    {[]string{c4 + " -> " + b4 + " any"}, web, nil, []string{"0 source: 100.64.0.1 is not among its sources"}},
		"the other way":     {[]string{b4 + " -> " + a4 + " any"}, web, nil, nil},
		"source and flow":   {[]string{c4 + " -> " + b4 + " 6:22-22"}, web, nil, []string{"0 source flow: 100.64.0.1 is not among its sources, and it allows tcp/22 only"}},
		"another family":    {[]string{a6 + " -> " + b6 + " any"}, web, nil, nil},
		"ICMP has no ports": {[]string{a4 + " -> " + b4 + " 1:5-6"}, ipproto.Flow{Protocol: protoICMP}, []string{"0"}, nil},
		"best first, three at most": {
			[]string{a4 + " -> " + c4 + " 17", a4 + " -> " + c4 + " any", a4 + " -> " + b4 + " 17", c4 + " -> " + b4 + " 6:1-1", a4 + " -> " + b4 + " 6:23-25"}, ssh, nil,
			[]string{"4 flow: it allows tcp/23-25 only", "2 flow: it allows udp/0 only", "1 destination: 100.64.0.2 is not among its destinations"},
		},
		"a long list": {
			[]string{a4 + " -> " + b4 + " 6:1-1,6:2-2,6:3-3,6:4-4,6:5-5,6:6-6,6:7-7,6:8-8"}, web, nil,
			[]string{"0 flow: it allows tcp/1, tcp/2, tcp/3, tcp/4, tcp/5, tcp/6, 2 more only"},
		},
	} {
		allowed, nearest := Explain(grants(c.grants...), netip.MustParseAddr(a4), netip.MustParseAddr(b4), c.f)
		var got []string
		for _, m := range nearest {
			got = append(got, m.Grant+" "+strings.Join(m.Lacks, " ")+": "+m.Text)
		}
		if diff := cmp.Diff([][]string{c.allowed, c.nearest}, [][]string{allowed, got}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestExplainPieces: of a grant that comes in pieces, the closest one counts, once.
func TestExplainPieces(t *testing.T) {
	list := grants(c4+" -> "+b4+" 6:22-22", a4+" -> "+b4+" 6:22-22", a4+" -> "+b4+" 6:0-21")
	for _, g := range list {
		g.Id = "ssh"
	}
	src, dst := netip.MustParseAddr(a4), netip.MustParseAddr(b4)
	if allowed, _ := Explain(append(list, list...), src, dst, ipproto.Flow{Protocol: protoTCP, Port: 22}); len(allowed) != 1 || allowed[0] != "ssh" {
		t.Errorf("allowed by %v", allowed)
	}
	_, nearest := Explain(list, src, dst, ipproto.Flow{Protocol: protoTCP, Port: 80})
	if diff := cmp.Diff([]Miss{{Grant: "ssh", Lacks: []string{"flow"}, Text: "it allows tcp/22 only"}}, nearest, cmpopts.IgnoreUnexported(Miss{})); diff != "" {
		t.Error(diff)
	}
}

// TestExplainModel: it says the same as what is compiled, and the same grant comes first.
func TestExplainModel(t *testing.T) {
	addresses, both := []string{a4, b4, c4, "10.1.2.3", a6, b6, "fd00::99"}, [2]int{}
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 6))
		list := randomGrants(rng, 8)
		rules, err := Compile(list)
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			src, dst := netip.MustParseAddr(addresses[rng.IntN(7)]), netip.MustParseAddr(addresses[rng.IntN(7)])
			f := ipproto.Flow{Protocol: []uint8{1, 6, 17, 47, 58, 132}[rng.IntN(6)], Port: []uint16{0, 80, 81, 1000, 65000}[rng.IntN(5)]}
			want, ok := rules.allow(src, dst, f.Protocol, f.Port)
			allowed, nearest := Explain(list, src, dst, f)
			if ok != (len(allowed) > 0) || ok && allowed[0] != want || ok && nearest != nil {
				t.Fatalf("seed %d: %s to %s %v: %v, want %q\n%s", seed, src, dst, f, allowed, want, fmt.Sprint(list))
			}
			for _, m := range nearest {
				if len(m.Lacks) == 0 || m.Text == "" {
					t.Fatalf("seed %d: grant %s lacks nothing", seed, m.Grant)
				}
			}
			if ok {
				both[1]++
			} else if len(nearest) > 0 {
				both[0]++
			}
		}
	}
	if both[0] < 1000 || both[1] < 1000 {
		t.Errorf("not much of a test: %v", both)
	}
}
