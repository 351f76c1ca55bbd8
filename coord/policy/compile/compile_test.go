package compile

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"warren/coord/policy"
)

var start = time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC)

func parseText(text string) (*policy.Policy, error) { return policy.Parse([]byte(text)) }

func parse(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := parseText(text)
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	return p
}

// TestFirstPolicies holds the texts that new and former networks begin with against what they are to mean.
func TestFirstPolicies(t *testing.T) {
	dir := Directory{Prefixes: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/16")}}
	for i, d := range []Device{{Owner: "ann"}, {Owner: "ann"}, {Owner: "bob"}, {Owner: "ann", Tags: []string{"web"}}} {
		d.ID, d.Addresses = ID{byte(i)}, []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 0, byte(i)})}
		dir.Devices = append(dir.Devices, d)
	}
	for name, c := range map[string]struct {
		text  string
		peers [4]int
	}{
		"built-in": {string(policy.BuiltIn()), [4]int{3, 3, 3, 3}},
		"starter":  {string(policy.Starter(nil, "ann", "bob")), [4]int{1, 1, 0, 0}},
		"empty":    {"{}", [4]int{}},
	} {
		compiled := New(parse(t, c.text), dir, start)
		var got [4]int
		for i, d := range dir.Devices {
			got[i] = len(slices.Collect(compiled.Peers(d.ID)))
			if v := compiled.View(d.ID); (len(v.Grants) > 0) != (got[i] > 0) {
				t.Errorf("%s: device %d has %d peers and %d grants", name, i, got[i], len(v.Grants))
			}
		}
		if got != c.peers {
			t.Errorf("%s: %v peers, want %v", name, got, c.peers)
		}
	}
}
