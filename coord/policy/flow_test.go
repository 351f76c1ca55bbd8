package policy

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseFlow(t *testing.T) {
	for text, want := range map[string]Flow{
		"tcp/443": {6, 443, 443}, "tcp:443": {6, 443, 443}, "443": {6, 443, 443}, "udp/53": {17, 53, 53}, "icmp": {1, 0, 65535}, "icmpv6": {58, 0, 65535},
		"tcp": {6, 0, 65535}, "sctp/1-5": {132, 1, 5}, "47/*": {47, 0, 65535}, "47:*": {47, 0, 65535}, "*": {6, 0, 65535}, "UDP/1": {17, 1, 1},
	} {
		if got, err := ParseFlow(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "tcp/", "tcp/70000", "http", "icmp/8", "tcp/443/x", "/443", "300/1", "tcp/-1"} {
		if got, err := ParseFlow(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestFlowString(t *testing.T) {
	for want, f := range map[string]Flow{
		"*": {0, 0, 65535}, "tcp:443": {6, 443, 443}, "udp:1-9": {17, 1, 9}, "icmp:*": {1, 0, 65535}, "icmpv6:*": {58, 0, 65535}, "99:*": {99, 0, 65535},
		"ip-in-ip:*": {4, 0, 65535}, "gre:*": {47, 0, 65535},
	} {
		if got := f.String(); got != want {
			t.Errorf("%s: %s", want, got)
		}
		if back, _, err := parseIP(want); err != nil || back[0] != f {
			t.Errorf("%s read again: %v, %v", want, back, err)
		}
	}
}

// TestNormalFlows compares sets of flows with what they contain, port by port.
func TestNormalFlows(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 5))
		var in []Flow
		for range r.IntN(8) {
			f := Flow{Protocol: []uint8{6, 17, 1}[r.IntN(3)], First: uint16(r.IntN(12)), Last: maxPort}
			if f.Last = f.First + uint16(r.IntN(4)); f.Protocol == 1 {
				f.First, f.Last = 0, maxPort
			}
			if r.IntN(20) == 0 {
				f = Flow{Last: maxPort}
			}
			in = append(in, f)
		}
		contains := func(list []Flow, p uint8, port uint16) bool {
			return slices.ContainsFunc(list, func(f Flow) bool { return f.Contains(p, port) })
		}
		out := NormalFlows(in)
		for _, p := range []uint8{1, 6, 17, 47} {
			for port := range uint16(20) {
				if contains(in, p, port) != contains(out, p, port) {
					t.Fatalf("%v became %v: they differ in %d/%d", in, out, p, port)
				}
			}
		}
		if again := NormalFlows(out); !slices.Equal(out, again) {
			t.Fatalf("%v became %v", out, again)
		}
		for i := 1; i < len(out); i++ {
			if a, b := out[i-1], out[i]; a.Protocol == 0 || b.Protocol < a.Protocol || b.Protocol == a.Protocol && int(b.First) <= int(a.Last)+1 {
				t.Fatalf("%v became %v", in, out)
			}
		}
	}
	if d := cmp.Diff([]Flow{{6, 65530, 65535}}, NormalFlows([]Flow{{6, 65535, 65535}, {6, 65530, 65534}})); d != "" {
		t.Error(d)
	}
}

func TestFlowsContainAndOverlap(t *testing.T) {
	list := []Flow{{1, 0, maxPort}, {6, 80, 90}, {47, 0, maxPort}}
	for _, c := range []struct {
		f                 Flow
		contains, overlap bool
	}{
		{Flow{6, 80, 90}, true, true}, {Flow{6, 80, 91}, false, true}, {Flow{6, 91, 95}, false, false}, {Flow{1, 0, maxPort}, true, true},
		{Flow{17, 80, 80}, false, false}, {Flow{0, 0, maxPort}, false, true}, {Flow{47, 0, maxPort}, true, true}, {Flow{6, 0, maxPort}, false, true},
	} {
		if got, some := FlowsContain(list, c.f), FlowsOverlap(list, c.f); got != c.contains || some != c.overlap {
			t.Errorf("%v: %v, %v", c.f, got, some)
		}
	}
	if !FlowsContain([]Flow{{Last: maxPort}}, Flow{6, 1, 2}) || !FlowsContain([]Flow{{Last: maxPort}}, Flow{Last: maxPort}) || FlowsOverlap(nil, Flow{Last: maxPort}) {
		t.Error("everything or nothing is wrong")
	}
}
