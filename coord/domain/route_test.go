package domain

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"warren/proto/cidr"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// offer makes routes of priority 100, or of N for "N@CIDR".
func offer(texts ...string) (out []Advertised) {
	for _, s := range texts {
		priority := uint8(100)
		if before, after, ok := strings.Cut(s, "@"); ok {
			fmt.Sscan(before, &priority)
			s = after
		}
		out = append(out, Advertised{cidr.Route{Kind: cidr.Site, Prefix: prefix(s), LAN: prefix(s)}, priority})
	}
	return out
}

// advertised is what a device's Apply and Settle make of d.
func advertised(t *testing.T, n *Network, d *Device, approves func(netip.Prefix) bool, texts ...string) *Device {
	t.Helper()
	c := SelfChange{By: d.Key, Sequence: d.Sequence + 1, Advertise: true, Routes: offer(texts...)}
	next, err := ApplySelf(n, d, c, nothingTaken(), start)
	if err != nil {
		t.Fatal(err)
	}
	return Settle(n, d, next, approves, start)
}

func never(netip.Prefix) bool { return false }

func TestAdvertise(t *testing.T) {
	n := testNetwork()
	d := enrolled(t, n)
	one := advertised(t, n, d, never, "10.2.0.0/16", "10.1.0.0/16")
	if got := fmt.Sprint(one.WaitingRoutes()); got != "[10.1.0.0/16 10.2.0.0/16]" || len(one.Routes) > 0 || one.Version != d.Version {
		t.Errorf("waiting: %s, %+v", got, one)
	}
	if again := advertised(t, n, one, never, "10.1.0.0/16", "10.2.0.0/16"); again != one {
		t.Errorf("told again: %+v", again)
	}
	ruled, err := RuleRoutes(n, one, []netip.Prefix{prefix("10.2.0.0/16"), prefix("10.3.0.0/16")}, true, "ann", start)
	if err != nil {
		t.Fatal(err)
	}
	two := Settle(n, one, ruled, never, start)
	if got := fmt.Sprint(two.Routes, two.WaitingRoutes()); got != "[10.2.0.0/16] [10.1.0.0/16]" || two.Version.Counter != d.Version.Counter+1 {
		t.Errorf("approved: %s in version %v of %v", got, two.Version, d.Version)
	}
	three := advertised(t, n, two, never, "7@10.2.0.0/16", "10.3.0.0/16")
	if got := fmt.Sprint(three.Routes); got != "[10.2.0.0/16 10.3.0.0/16]" || three.Version.Counter != two.Version.Counter+1 {
		t.Errorf("approved before it was advertised: %s in %v", got, three.Version)
	}
	if three.Priority(prefix("10.2.0.0/16")) != 7 || three.Priority(prefix("10.9.0.0/16")) != 0 {
		t.Error("priorities are wrong")
	}
	four := advertised(t, n, three, never, "8@10.2.0.0/16", "10.3.0.0/16")
	if four.Version.Counter != three.Version.Counter+1 {
		t.Errorf("another priority made version %v of %v", four.Version, three.Version)
	}
	removed, err := Remove(n, four, start)
	if err != nil || len(removed.Routes)+len(removed.Advertised)+len(removed.Rulings) > 0 || Settle(n, four, removed, never, start) != removed {
		t.Errorf("removed: %+v, %v", removed, err)
	}
	for what, f := range map[string]func() error{
		"advertises": func() error {
			_, err := ApplySelf(n, removed, SelfChange{By: d.Key, Sequence: 1, Advertise: true}, nothingTaken(), start)
			return err
		},
		"is approved": func() error {
			_, err := RuleRoutes(n, removed, []netip.Prefix{prefix("10.2.0.0/16")}, true, "ann", start)
			return err
		},
	} {
		if err := f(); !errors.Is(err, ErrRemoved) {
			t.Errorf("a removed device %s: %v", what, err)
		}
	}
}

func TestAdvertiseRefused(t *testing.T) {
	n := testNetwork()
	d := advertised(t, n, enrolled(t, n), never, "10.1.0.0/16")
	zero := offer("10.2.0.0/16")
	zero[0].Priority = 0
	for name, list := range map[string][]Advertised{
		"no priority": zero, "overlay": offer("100.64.3.0/24"), "IPv6 overlay": offer("fd00:1::/32"), "twice": offer("10.1.0.0/16", "10.1.0.0/16"),
		"too wide": offer("10.0.0.0/7"), "the default route": offer("0.0.0.0/0"), "many": slices.Repeat(offer("10.1.0.0/16"), cidr.MaxRoutes+1),
	} {
		_, err := ApplySelf(n, d, SelfChange{By: d.Key, Sequence: 1, Advertise: true, Routes: list}, nothingTaken(), start)
		if !errors.Is(err, ErrRoute) || len(err.Error()) < 30 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRuleRoutes(t *testing.T) {
	n := testNetwork()
	byPolicy := func(p netip.Prefix) bool { return p == prefix("10.3.0.0/16") }
	d := advertised(t, n, enrolled(t, n), byPolicy, "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16")
	d, err := RuleRoutes(n, d, []netip.Prefix{prefix("10.2.0.0/16")}, false, "bob", start)
	if err != nil {
		t.Fatal(err)
	}
	// Whoever names none means what waits, but not what somebody revoked.
	if got := fmt.Sprint(d.MeantRoutes(true)); got != "[10.1.0.0/16 10.3.0.0/16]" {
		t.Errorf("meant to be approved: %s", got)
	}
	if got := fmt.Sprint(d.MeantRoutes(false)); got != "[10.1.0.0/16 10.2.0.0/16 10.3.0.0/16]" {
		t.Errorf("meant to be revoked: %s", got)
	}
	later := start.Add(time.Hour)
	d, err = RuleRoutes(n, d, d.MeantRoutes(true), true, "ann", later)
	if err != nil {
		t.Fatal(err)
	}
	again, err := RuleRoutes(n, d, []netip.Prefix{prefix("10.1.0.0/16")}, true, "eve", later.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range again.RouteStates() {
		got = append(got, fmt.Sprintf("%s %v %s %v %s", s.Prefix, s.Approved(), s.Ruling.By, s.Ruling.Policy, s.Ruling.At.Sub(start)))
	}
	want := []string{"10.1.0.0/16 true ann false 1h0m0s", "10.2.0.0/16 false bob false 0s", "10.3.0.0/16 true ann false 1h0m0s"}
	if !slices.Equal(got, want) {
		t.Errorf("states %q, want %q", got, want)
	}
	for name, x := range map[string]struct {
		approve  bool
		prefixes []netip.Prefix
		is       error
	}{
		"nothing":             {true, nil, ErrRouteUnknown},
		"nothing to revoke":   {false, nil, ErrRouteUnknown},
		"overlay":             {true, []netip.Prefix{prefix("100.64.0.0/10")}, ErrRoute},
		"too wide":            {true, []netip.Prefix{prefix("10.0.0.0/7")}, ErrRoute},
		"revoking a stranger": {false, []netip.Prefix{prefix("10.9.0.0/16")}, ErrRouteUnknown},
	} {
		if _, err := RuleRoutes(n, again, x.prefixes, x.approve, "ann", start); !errors.Is(err, x.is) || len(err.Error()) < 30 {
			t.Errorf("%s: %v, want %v", name, err, x.is)
		}
	}
	if d, err := RuleRoutes(n, again, []netip.Prefix{prefix("0.0.0.0/0"), prefix("::/0")}, true, "ann", start); err != nil || len(d.Rulings) != 5 {
		t.Errorf("an exit: %v", err)
	}
	full := again
	for i := range 5 {
		var list []netip.Prefix
		for j := range 1024 {
			list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i<<2 | j>>8), byte(j)}), 24))
		}
		next, err := RuleRoutes(n, full, list, true, "ann", start)
		if ok := len(full.Rulings)+len(list) <= MaxRulings; (err == nil) != ok || !ok && !errors.Is(err, ErrRoute) {
			t.Fatalf("%d and %d more: %v", len(full.Rulings), len(list), err)
		}
		if err == nil {
			full = next
		}
	}
}

// gateway is a naive reference of one device's routes: it keeps what was said, and works out anew what follows.
type gateway struct {
	offers  map[string]int
	persons map[string]bool // approved or revoked
	policy  map[string]bool // approves
}

func (g *gateway) carries() (out []string) {
	for p := range g.offers {
		if said, ok := g.persons[p]; ok && said || !ok && g.policy[p] {
			out = append(out, fmt.Sprintf("%s %d", p, g.offers[p]))
		}
	}
	slices.Sort(out)
	return out
}

// TestRoutesModel plays random advertisements, rulings and policies against the reference. Nothing changes without a new version, and no version
// comes without a change.
func TestRoutesModel(t *testing.T) {
	pool := []string{"0.0.0.0/0", "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "fd01::/48"}
	seen := map[string]int{}
	for seed := range uint64(40) {
		r, n := rand.New(rand.NewPCG(seed, 7)), testNetwork()
		d, g := enrolled(t, n), &gateway{map[string]int{}, map[string]bool{}, map[string]bool{}}
		approves := func(p netip.Prefix) bool { return g.policy[p.String()] }
		for step := range 60 {
			before, was := d, g.carries()
			next, err := d, error(nil)
			switch p := pool[r.IntN(len(pool))]; r.IntN(4) {
			case 0:
				g.offers = map[string]int{}
				var list []Advertised
				for _, p := range pool {
					if r.IntN(2) == 0 {
						g.offers[p] = 1 + r.IntN(2)
						list = append(list, offer(fmt.Sprintf("%d@%s", g.offers[p], p))...)
						if prefix(p).Bits() == 0 {
							list[len(list)-1].Kind = cidr.Exit
						}
					}
				}
				r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
				next, err = ApplySelf(n, d, SelfChange{By: d.Key, Sequence: 1, Advertise: true, Routes: list}, nothingTaken(), start)
			case 1:
				g.policy[p] = !g.policy[p]
			default:
				approve := r.IntN(3) > 0
				_, offered := g.offers[p]
				_, said := g.persons[p]
				if !approve && !offered && !said {
					continue
				}
				g.persons[p] = approve
				next, err = RuleRoutes(n, d, []netip.Prefix{prefix(p)}, approve, "ann", start)
			}
			if err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, step, err)
			}
			d = Settle(n, before, next, approves, start)
			var got []string
			for _, p := range d.Routes {
				got = append(got, fmt.Sprintf("%s %d", p, d.Priority(p)))
			}
			slices.Sort(got)
			if want := g.carries(); !slices.Equal(got, want) || len(got)+len(d.WaitingRoutes()) != len(g.offers) {
				t.Fatalf("seed %d, step %d: carries %q and waits for %v, want %q", seed, step, got, d.WaitingRoutes(), want)
			}
			if changed := !slices.Equal(was, got); changed != (d.Version != before.Version) {
				t.Fatalf("seed %d, step %d: version %v after %v, and what it carries changed: %v", seed, step, d.Version, before.Version, changed)
			} else if changed {
				seen["changes"]++
			}
			if Settle(n, d, d, approves, start.Add(time.Hour)) != d {
				t.Fatalf("seed %d, step %d: what is settled does not stay so", seed, step)
			}
			if !slices.IsSortedFunc(d.Rulings, func(a, b Ruling) int { return a.Prefix.Compare(b.Prefix) }) {
				t.Fatalf("seed %d, step %d: rulings %v", seed, step, d.Rulings)
			}
		}
	}
	if seen["changes"] < 200 {
		t.Errorf("only %v", seen)
	}
}
