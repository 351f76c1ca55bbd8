package compile

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMoves holds what SetPolicyMoves and AdvanceMoves tell against the peers before and after.
func TestMoves(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 2))
	dir := Directory{Prefixes: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/16")}}
	users := []string{"ann", "bob", "cat"}
	for i := range 24 {
		d := Device{ID: ID{byte(i)}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 0, byte(i)})}, Owner: users[rng.IntN(3)]}
		if rng.IntN(4) == 0 {
			d.Tags = []string{"web"}
		}
		dir.Devices = append(dir.Devices, d)
	}
	selectors := []string{"ann", "bob", "cat", "tag:web", "autogroup:member", "100.64.0.0/29", "*"}
	random := func() string {
		var grants []string
		for range rng.IntN(4) {
			dst := selectors[rng.IntN(len(selectors))]
			src := selectors[rng.IntN(3)]
			if rng.IntN(3) == 0 {
				dst = "autogroup:self"
			}
			when := ""
			if rng.IntN(2) == 0 {
				when = fmt.Sprintf(`, "when": {"hours": "%02d:00-%02d:00", "zone": "UTC"}`, rng.IntN(12), 12+rng.IntN(12))
			}
			grants = append(grants, fmt.Sprintf(`{"src": [%q], "dst": [%q], "ip": ["*"]%s}`, src, dst, when))
		}
		return fmt.Sprintf(`{"grants": [%s]}`, strings.Join(grants, ","))
	}
	now := start
	c := New(parse(t, "{}"), dir, now)
	all := func() (out [][]ID) {
		for _, d := range dir.Devices {
			out = append(out, slices.Collect(c.Peers(d.ID)))
		}
		return out
	}
	seen := map[string]int{}
	for range 400 {
		before, most := all(), rng.IntN(30)
		var u Update
		var moves []Move
		what := "time"
		now = now.Add(time.Duration(rng.IntN(7)) * time.Hour)
		if rng.IntN(2) == 0 {
			what = "policy"
			u, moves = c.SetPolicyMoves(parse(t, random()), now, most)
		} else {
			u, moves, _ = c.AdvanceMoves(now, most)
		}
		after := all()
		told := map[ID]Move{}
		for _, m := range moves {
			told[m.ID] = m
			if !slices.Contains(u.Changed, m.ID) {
				t.Fatalf("%s: device %d moved and did not change", what, m.ID[0])
			}
		}
		for i, d := range dir.Devices {
			m := told[d.ID]
			gained, lost := minus(after[i], before[i]), minus(before[i], after[i])
			n := len(gained) + len(lost)
			switch {
			case n > most:
				if !m.Many || len(m.Gained)+len(m.Lost) > 0 {
					t.Fatalf("%s: device %d: %d changes, more than %d, and told %v", what, i, n, most, m)
				}
				seen[what+" many"]++
			case m.Many || !slices.Equal(m.Gained, gained) || !slices.Equal(m.Lost, lost):
				t.Fatalf("%s: device %d gained %v and lost %v, and told %v", what, i, gained, lost, m)
			case n > 0:
				seen[what+" few"]++
			}
		}
	}
	for _, kind := range []string{"time many", "time few", "policy many", "policy few"} {
		if seen[kind] == 0 {
			t.Errorf("no %s", kind)
		}
	}
}

func minus(a, b []ID) (out []ID) {
	for _, x := range a {
		if !slices.Contains(b, x) {
			out = append(out, x)
		}
	}
	return out
}
