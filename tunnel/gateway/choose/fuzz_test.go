package choose

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"warren/tunnel/gateway"
)

// FuzzCore does anything in any order, and checks what must always hold.
func FuzzCore(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed, uint16(400))
	}
	f.Fuzz(func(t *testing.T, seed uint64, steps uint16) {
		r := rand.New(rand.NewPCG(seed, 5))
		core := New(Config{Self: id(self), Start: 77})
		now := time.Unix(1e6, 0)
		prefixes := []netip.Prefix{lan, wide, all4, all6, prefix("10.1.2.0/24"), {}}
		letters := []byte{'a', 'b', 'c', self, 0}
		pick := func() (netip.Prefix, ID) { return prefixes[r.IntN(len(prefixes))], id(letters[r.IntN(len(letters))]) }
		told := map[netip.Prefix]ID{}
		var routes []Route
		var carried []netip.Prefix
		var exit SetExit
		next := time.Time{}
		var lastPing gateway.Stamp
		for range steps % 2000 {
			var e Event
			p, g := pick()
			switch r.IntN(10) {
			case 0:
				routes, carried = nil, nil
				for range r.IntN(8) {
					p, g := pick()
					routes = append(routes, Route{p, g, uint8(r.IntN(3))})
				}
				if r.IntN(3) == 0 {
					carried = []netip.Prefix{prefixes[r.IntN(4)]}
				}
				e = SetRoutes{routes, carried}
			case 1:
				exit = SetExit{Gateway: g, Auto: r.IntN(2) == 0}
				e = exit
			case 2:
				e = Sent{p}
			case 3:
				e = Received{g}
			case 4, 5:
				e = Heard{g, gateway.Report{Stamp: gateway.Stamp{Start: 1 + r.Uint64N(3), Sequence: r.Uint64N(100)}, Answers: lastPing,
					Health: []gateway.Told{{Prefix: p, Health: gateway.Health(r.IntN(3))}}}}
			case 6:
				e = Presence{g, r.IntN(2) == 0}
			case 7:
				e = NetworkChanged{}
			}
			actions, n := core.Handle(now, e)
			if !n.IsZero() && !n.After(now) {
				t.Fatalf("wants to be called at %s, and it is %s", n, now)
			}
			next = n
			if len(actions) > 200 {
				t.Fatalf("%d actions", len(actions))
			}
			for _, a := range actions {
				switch a := a.(type) {
				case Choose:
					if told[a.Prefix] == a.Gateway && a.Gateway != (ID{}) {
						t.Fatalf("told twice: %+v", a)
					}
					told[a.Prefix] = a.Gateway
				case Send:
					lastPing = a.Ping.Stamp
					if _, err := gateway.Append(nil, a.Ping); err != nil || a.To == id(self) || a.To == (ID{}) {
						t.Fatalf("%+v: %v", a, err)
					}
				}
			}
			for p, g := range told {
				ok := slices.ContainsFunc(routes, func(r Route) bool { return r.Prefix == p && r.Gateway == g })
				switch {
				case g == ID{}:
				case !ok, g == id(self), slices.Contains(carried, p), p.Bits() == 0 && !exit.Auto && exit.Gateway != g:
					t.Fatalf("%s goes to %c, which it must not: %+v, carries %v", p, g[0], routes, carried)
				}
			}
			switch r.IntN(8) {
			case 0:
				now = now.Add(time.Duration(r.IntN(int(time.Hour))))
			case 1:
				now = now.Add(-time.Duration(r.IntN(int(time.Minute))))
			case 2, 3, 4:
				if !next.IsZero() {
					now = next
				}
			default:
				now = now.Add(time.Duration(r.IntN(int(time.Second))))
			}
		}
	})
}

// BenchmarkHandle is an event, among a thousand CIDRs with two gateways each.
func BenchmarkHandle(b *testing.B) {
	var routes []string
	for i := range 1000 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), byte(i >> 8)}), 24)
		routes = append(routes, p.String()+" a 100", p.String()+" b 200")
	}
	d := newDesk(b, nil, routes...)
	d.run(5 * time.Second)
	for name, e := range map[string]Event{"Nil": nil, "Received": Received{id('a')}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				d.now = d.now.Add(time.Nanosecond)
				d.core.Handle(d.now, e)
			}
		})
	}
}
