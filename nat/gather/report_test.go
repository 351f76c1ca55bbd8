package gather

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/nat/stunmsg"
)

func TestBehaviour(t *testing.T) {
	// Servers A and B with ports 1 and 2, and what they see: "A1=x" is server A's port 1, x stands for an address of ours outside; "own" is our
	// address itself.
	own := netip.MustParseAddrPort("192.0.2.5:51820")
	for text, want := range map[string]Mapping{
		"":                    {},
		"A1=x":                {Behaviour: Unknown},
		"A1=own":              {Behaviour: NoNAT, Sure: true},
		"A1=own B1=own":       {Behaviour: NoNAT, Sure: true},
		"A1=own B1=x":         {Behaviour: AddressAndPortDependent},
		"A1=x A2=x":           {Behaviour: EndpointIndependent},
		"A1=x B1=x":           {Behaviour: EndpointIndependent, Sure: true},
		"A1=x A2=x B1=x B2=x": {Behaviour: EndpointIndependent, Sure: true},
		"A1=x A2=y":           {Behaviour: AddressAndPortDependent, Sure: true},
		"A1=x B1=y":           {Behaviour: AddressAndPortDependent},
		"A1=x A2=x B1=y":      {Behaviour: AddressDependent, Sure: true},
		"A1=x A2=y B1=x":      {Behaviour: AddressAndPortDependent, Sure: true},
	} {
		t.Run(text, func(t *testing.T) {
			var views []View
			for _, one := range strings.Fields(text) {
				server, seen, _ := strings.Cut(one, "=")
				v := View{Server: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, server[0]}), uint16(server[1]-'0')), Mapped: own}
				if seen != "own" {
					v.Mapped = netip.AddrPortFrom(netip.MustParseAddr("198.51.100.9"), uint16(seen[0]))
				}
				views = append(views, v)
			}
			got := Compare(views, func(a netip.AddrPort) bool { return a == own })
			got.External = nil
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestBehaviourOfModels asks a naive NAT of each kind, with servers on random addresses and ports: what is sure must be right, and what is not
// must be a neighbour of it.
func TestBehaviourOfModels(t *testing.T) {
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 2))
		truth := []Behaviour{EndpointIndependent, AddressDependent, AddressAndPortDependent}[rng.IntN(3)]
		ports := map[string]uint16{}
		mapped := func(to netip.AddrPort) netip.AddrPort {
			key := map[Behaviour]string{EndpointIndependent: "", AddressDependent: to.Addr().String(), AddressAndPortDependent: to.String()}[truth]
			if ports[key] == 0 {
				ports[key] = uint16(1000 + len(ports))
			}
			return netip.AddrPortFrom(netip.MustParseAddr("198.51.100.9"), ports[key])
		}
		var views []View
		for range 1 + rng.IntN(5) {
			server := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(1 + rng.IntN(3))}), uint16(3478+rng.IntN(2)))
			if !slices.ContainsFunc(views, func(v View) bool { return v.Server == server }) {
				views = append(views, View{server, mapped(server)})
			}
		}
		got := Compare(views, func(netip.AddrPort) bool { return false })
		ok := got.Behaviour == truth
		if !got.Sure {
			ok = ok || len(views) == 1 && got.Behaviour == Unknown ||
				truth == AddressDependent && len(views) > 1 // one address looks endpoint-independent, one port each dependent on both
		}
		if !ok {
			t.Fatalf("seed %d: a NAT that is %s looks %s, sure %t, to %v", seed, truth, got.Behaviour, got.Sure, views)
		}
	}
}

// answerBy makes the servers see what f says.
func (b *bench) answerBy(f func(server netip.AddrPort) netip.AddrPort) {
	b.reply = func(to netip.AddrPort, p []byte) {
		m, err := stunmsg.Parse(p)
		if err != nil {
			panic(err)
		}
		if a := f(to); a.IsValid() {
			b.g.HandlePacket(netip.Addr{}, to, stunmsg.NewSuccess(m.Tx, a, nil))
		}
	}
}

const twoPorts = "203.0.113.1:3478 203.0.113.1:3479 203.0.113.2:3478"

func TestReport(t *testing.T) {
	hard := func(server netip.AddrPort) netip.AddrPort {
		return netip.AddrPortFrom(outside.Addr(), 40000+server.Port())
	}
	easy := func(netip.AddrPort) netip.AddrPort { return outside }
	for name, tc := range map[string]struct {
		nat        func(netip.AddrPort) netip.AddrPort
		want       Behaviour
		candidates []string
	}{
		"easy": {easy, EndpointIndependent, []string{"host 192.168.1.5:51820", "server reflexive 198.51.100.9:40000"}},
		"hard": {hard, AddressAndPortDependent, []string{"host 192.168.1.5:51820", "server reflexive 198.51.100.9:43478"}},
		"none": {func(netip.AddrPort) netip.AddrPort { return netip.MustParseAddrPort("192.168.1.5:51820") }, NoNAT, []string{"host 192.168.1.5:51820"}},
		"one server does not answer": {func(server netip.AddrPort) netip.AddrPort {
			if server.Port() == 3479 {
				return netip.AddrPort{}
			}
			return outside
		}, EndpointIndependent, []string{"host 192.168.1.5:51820", "server reflexive 198.51.100.9:40000"}},
		"nobody answers": {func(netip.AddrPort) netip.AddrPort { return netip.AddrPort{} }, Unknown, []string{"host 192.168.1.5:51820"}},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(b *bench) {
				b.answerBy(tc.nat)
				b.g.SetServers(strings.Fields(twoPorts))
				b.pass(10 * time.Second)
				r := b.g.Report()
				if r.IPv4.Behaviour != tc.want || r.IPv6.Behaviour != Unknown || len(r.Servers) != 3 {
					t.Errorf("%+v, want %s", r, tc.want)
				}
				if diff := cmp.Diff(tc.candidates, b.last()); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// A NAT that forgot its mapping between two rounds is not dependent.
func TestNewMappingIsNotDependence(t *testing.T) {
	run(t, func(b *bench) {
		now := outside
		b.answerBy(func(server netip.AddrPort) netip.AddrPort {
			if now != outside && server.Addr() == netip.MustParseAddr("203.0.113.2") {
				return netip.AddrPort{} // what it said before counts no more
			}
			return now
		})
		var seen []Behaviour
		b.g.cfg.OnReport = func(r Report) { seen = append(seen, r.IPv4.Behaviour) }
		b.g.SetServers(strings.Fields(twoPorts))
		b.pass(time.Second)
		now = outside2
		b.pass(6 * refreshEvery) // what the silent one said is dropped by then
		for _, s := range seen {
			if s.Dependent() {
				t.Fatalf("reported %v", seen)
			}
		}
		if m := b.g.Report().IPv4; m.Behaviour != EndpointIndependent || m.Sure {
			t.Errorf("%+v", m)
		}
		n := len(seen)
		b.pass(10 * refreshEvery)
		if len(seen) != n {
			t.Errorf("%d reports when nothing changed", len(seen)-n)
		}
		b.reply = func(netip.AddrPort, []byte) {}
		b.g.Trigger()
		b.pass(time.Second)
		if m := b.g.Report().IPv4; m.Behaviour != Unknown {
			t.Errorf("in another network still %+v", m)
		}
	})
}

func TestRoundTrip(t *testing.T) {
	run(t, func(b *bench) {
		b.reply = func(to netip.AddrPort, p []byte) {
			m, err := stunmsg.Parse(p)
			if err != nil {
				panic(err)
			}
			time.AfterFunc(30*time.Millisecond, func() { b.g.HandlePacket(netip.Addr{}, to, stunmsg.NewSuccess(m.Tx, outside, nil)) })
		}
		b.g.SetServers([]string{server.String()})
		b.pass(time.Second)
		if r := b.g.Report().Servers[0]; r.RTT != 30*time.Millisecond || r.Name != server.String() || r.Mapped != outside || r.At.IsZero() {
			t.Errorf("%+v", r)
		}
	})
}

func TestPortMappedAndFixed(t *testing.T) {
	run(t, func(b *bench) {
		mapped := netip.MustParseAddrPort("198.51.100.9:51820")
		b.g.SetMapped(mapped)
		b.pass(time.Millisecond)
		if diff := cmp.Diff([]string{"host 192.168.1.5:51820", "port mapped 198.51.100.9:51820"}, b.last()); diff != "" {
			t.Error(diff)
		}
		if got := b.g.Report().PortMapped; got != mapped {
			t.Errorf("reported %s", got)
		}
		sent := len(b.sent)
		b.g.SetMapped(netip.AddrPort{})
		b.pass(time.Millisecond)
		if diff := cmp.Diff([]string{"host 192.168.1.5:51820"}, b.last()); diff != "" || len(b.sent) != sent {
			t.Errorf("%s; %d requests for it", diff, len(b.sent)-sent)
		}
		b.g.SetOverlay([]netip.Prefix{netip.MustParsePrefix("100.70.0.0/16")})
		b.g.SetMapped(netip.MustParseAddrPort("100.70.1.1:9"))
		b.pass(time.Millisecond)
		if diff := cmp.Diff([]string{"host 192.168.1.5:51820"}, b.last()); diff != "" {
			t.Errorf("an overlay address: %s", diff)
		}
		b.g.cfg.Endpoints = []string{"192.0.2.77:4000", "vpn.example:4001", "nonsense"}
		b.g.Trigger()
		b.pass(time.Millisecond)
		want := []string{"host 192.168.1.5:51820", "port mapped 192.0.2.77:4000", "port mapped 203.0.113.1:4001"}
		if diff := cmp.Diff(want, b.last()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestCheckEndpoint(t *testing.T) {
	for text, ok := range map[string]bool{
		"192.0.2.1:51820": true, "[2001:db8::1]:51820": true, "vpn.example.com:51820": true,
		"": false, "192.0.2.1": false, ":51820": false, "192.0.2.1:0": false, "192.0.2.1:70000": false, "192.0.2.1:x": false,
		"0.0.0.0:1": false, "127.0.0.1:1": false, "[::1]:1": false, "[fe80::1%eth0]:1": false, "224.0.0.1:1": false,
	} {
		if err := CheckEndpoint(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzBehaviour(f *testing.F) {
	f.Add([]byte{1, 1, 1, 1, 2, 1, 2, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var views []View
		for ; len(b) >= 3 && len(views) < maxServers; b = b[3:] {
			views = append(views, View{
				netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, b[0]}), uint16(b[1])),
				netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, 1}), uint16(b[2])),
			})
		}
		m := Compare(views, func(netip.AddrPort) bool { return false })
		if (len(m.External) > 1) != m.Behaviour.Dependent() || m.Behaviour == Unknown && m.Sure || fmt.Sprint(m.Behaviour) == "" {
			t.Fatalf("%+v of %v", m, views)
		}
	})
}

// TestWhole: what did not answer counts as silent only once it had its time.
func TestWhole(t *testing.T) {
	run(t, func(b *bench) {
		b.reply = func(netip.AddrPort, []byte) {}
		b.g.SetServers([]string{server.String()})
		b.pass(time.Second)
		if b.g.Report().Whole {
			t.Error("a silent server counts as such after a second")
		}
		b.pass(6 * time.Second)
		if r := b.g.Report(); !r.Whole || !r.Servers[0].At.IsZero() {
			t.Errorf("after seven seconds: %+v", r)
		}
		b.g.Trigger()
		b.pass(time.Millisecond)
		if b.g.Report().Whole {
			t.Error("a change of the network is no new beginning")
		}
	})
}
