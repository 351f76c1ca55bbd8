package gather

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// verdicts notes when the mapping of IPv4 was found to be what.
func (b *bench) verdicts() *[]string {
	var out []string
	last := Unknown
	b.g.cfg.OnReport = func(r Report) {
		if m := r.IPv4.Behaviour; m != last {
			last = m
			out = append(out, fmt.Sprintf("%s %s", time.Since(b.began), m))
		}
	}
	return &out
}

// TestMappingIsKnownSoon: what has answered decides as soon as it can, however many servers are silent, and the whole round then agrees.
func TestMappingIsKnownSoon(t *testing.T) {
	const v6 = " [2001:db8::1]:3478 [2001:db8::1]:3479" // leads nowhere
	from := func(base uint16) func(netip.AddrPort) netip.AddrPort {
		return func(server netip.AddrPort) netip.AddrPort {
			switch {
			case server.Addr().Is6():
				return netip.AddrPort{}
			case base == 0:
				return netip.MustParseAddrPort("192.168.1.5:51820")
			case base == 1:
				return outside
			}
			return netip.AddrPortFrom(outside.Addr(), base+server.Port())
		}
	}
	but := func(port uint16, nat func(netip.AddrPort) netip.AddrPort) func(netip.AddrPort) netip.AddrPort {
		return func(server netip.AddrPort) netip.AddrPort {
			if server.Port() == port {
				return netip.AddrPort{}
			}
			return nat(server)
		}
	}
	for name, tc := range map[string]struct {
		servers string
		nat     func(netip.AddrPort) netip.AddrPort
		want    []string
	}{
		"all answer":                   {twoPorts, from(1), []string{"0s endpoint-independent"}},
		"no IPv6":                      {twoPorts + v6, from(1), []string{"0s endpoint-independent"}},
		"no IPv6, hard":                {twoPorts + v6, from(40000), []string{"0s address-and-port-dependent"}},
		"no IPv6, no NAT":              {twoPorts + v6, from(0), []string{"0s no NAT"}},
		"one is down, and those agree": {twoPorts + v6 + " 203.0.113.9:5000", but(5000, from(1)), []string{"300ms endpoint-independent"}},
		"one is down, and those do not": {twoPorts + v6 + " 203.0.113.9:5000", but(5000, from(40000)),
			[]string{"0s address-and-port-dependent"}},
		"only one answers": {twoPorts + v6, but(3478, from(1)), nil},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(b *bench) {
				b.answerBy(tc.nat)
				got := b.verdicts()
				b.g.SetServers(strings.Fields(tc.servers))
				b.pass(3 * refreshEvery)
				if diff := cmp.Diff(tc.want, *got); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// answerFrom makes servers see what f says of a question.
func (b *bench) answerFrom(f func(q question) netip.AddrPort) {
	b.answerBy(func(netip.AddrPort) netip.AddrPort { return f(b.asked[len(b.asked)-1]) })
}

var second = netip.MustParseAddr("192.168.2.5")

// TestAsksFromEachUplink: a host with two ways out learns what both look like from outside; how the NAT maps counts by the one that it prefers.
func TestAsksFromEachUplink(t *testing.T) {
	run(t, func(b *bench) {
		b.local, b.uplinks = append(b.local, second), []netip.Addr{second}
		b.answerFrom(func(q question) netip.AddrPort {
			if q.local == second { // a hard NAT
				return netip.AddrPortFrom(netip.MustParseAddr("198.51.100.77"), 40000+q.server.Port())
			}
			return outside
		})
		b.g.SetServers(strings.Fields(twoPorts + " 203.0.113.3:3478 [2001:db8::1]:3478"))
		b.pass(time.Millisecond)
		want := []string{
			"host 192.168.1.5:51820", "host 192.168.2.5:51820", "server reflexive 198.51.100.9:40000", "server reflexive 198.51.100.77:43478",
		}
		if diff := cmp.Diff(want, b.last()); diff != "" {
			t.Error(diff)
		}
		if m := b.g.Report().IPv4; m.Behaviour != EndpointIndependent || !m.Sure || !slices.Equal(m.External, []netip.AddrPort{outside}) {
			t.Errorf("the NAT is %+v", m)
		}
		var asked []string
		for _, q := range b.asked {
			if q.local.IsValid() {
				asked = append(asked, q.local.String()+" "+q.server.String())
			}
		}
		if diff := cmp.Diff([]string{"192.168.2.5 203.0.113.1:3478", "192.168.2.5 203.0.113.2:3478"}, asked); diff != "" {
			t.Errorf("asked by the second uplink: %s", diff)
		}
		b.local, b.uplinks = b.local[:1], nil
		b.g.Trigger()
		b.pass(time.Millisecond)
		if diff := cmp.Diff([]string{want[0], want[2]}, b.last()); diff != "" {
			t.Errorf("without the second uplink: %s", diff)
		}
	})
}

// A second uplink that leads nowhere keeps nothing waiting, and one that is lost between two rounds is forgotten.
func TestDeadUplink(t *testing.T) {
	run(t, func(b *bench) {
		b.local, b.uplinks = append(b.local, second), []netip.Addr{second}
		b.answerFrom(func(q question) (none netip.AddrPort) {
			if q.local == second {
				return none
			}
			return outside
		})
		b.g.SetServers(strings.Fields(twoPorts))
		b.pass(time.Millisecond)
		if r := b.g.Report(); !r.Whole || r.IPv4.Behaviour != EndpointIndependent {
			t.Errorf("%+v", r)
		}
		b.answerFrom(func(question) netip.AddrPort { return outside2 })
		b.pass(refreshEvery)
		b.uplinks = nil
		b.pass(refreshEvery)
		if diff := cmp.Diff([]string{"host 192.168.1.5:51820", "host 192.168.2.5:51820", "server reflexive 198.51.100.9:40001"}, b.last()); diff != "" {
			t.Error(diff)
		}
	})
}

// However many uplinks and servers there are, a round is bounded.
func TestManyUplinks(t *testing.T) {
	run(t, func(b *bench) {
		for i := range byte(40) {
			b.uplinks = append(b.uplinks, netip.AddrFrom4([4]byte{10, 0, i, 1}))
		}
		var servers []string
		for i := range maxServers + 5 {
			servers = append(servers, fmt.Sprintf("203.0.113.%d:3478", i))
		}
		b.g.SetServers(servers)
		b.pass(20 * time.Second)
		if want := tries * (maxServers + maxUplinks*uplinkServers); len(b.sent) != want {
			t.Errorf("%d requests in a round, want %d", len(b.sent), want)
		}
	})
}

// TestSlowNames: names that the resolver is slow with keep nobody waiting, and those that it no longer finds stay what they were.
func TestSlowNames(t *testing.T) {
	run(t, func(b *bench) {
		answers := map[string][]netip.Addr{"slow": {netip.MustParseAddr("203.0.113.7")}}
		b.g.cfg.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			select {
			case <-time.After(2 * time.Second):
			case <-ctx.Done():
			}
			if answers[host] == nil {
				return nil, errors.New("no such host")
			}
			return answers[host], ctx.Err()
		}
		b.answerBy(func(server netip.AddrPort) netip.AddrPort {
			return netip.AddrPortFrom(outside.Addr(), 40000+uint16(server.Addr().As4()[3]))
		})
		b.g.SetServers([]string{"slow:3478", "gone:3478", server.String()})
		b.pass(time.Millisecond)
		if diff := cmp.Diff([]string{"host 192.168.1.5:51820", "server reflexive 198.51.100.9:40001"}, b.last()); diff != "" {
			t.Errorf("before the names are known: %s", diff)
		}
		if r := b.g.Report(); r.Whole {
			t.Error("the round is whole before the names are known")
		}
		b.pass(3 * time.Second)
		if r := b.g.Report(); !r.Whole || r.IPv4.Behaviour != AddressAndPortDependent || len(r.Servers) != 2 {
			t.Errorf("after three seconds: %+v", r)
		}
		clear(answers) // the network's resolver is down
		asked := len(b.asked)
		b.g.Trigger()
		b.pass(time.Millisecond)
		if n := len(b.asked) - asked; n != 2 {
			t.Errorf("%d servers were asked at once in another network, want both that are known", n)
		}
		b.pass(3 * time.Second)
		if n := len(b.g.Report().Servers); n != 2 {
			t.Errorf("%d servers are left", n)
		}
	})
}

// A name that was not found is looked up again before long.
func TestNamesFoundLater(t *testing.T) {
	run(t, func(b *bench) {
		looked := 0
		resolve := b.g.cfg.Resolve
		b.g.cfg.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			if looked++; looked == 1 {
				return nil, errors.New("no such host")
			}
			return resolve(ctx, host)
		}
		b.answerWith(func() netip.AddrPort { return outside })
		b.g.SetServers([]string{"stun.example:3478"})
		b.pass(notFoundFor + 2*refreshEvery)
		if want := []string{"host 192.168.1.5:51820", "server reflexive 198.51.100.9:40000"}; !slices.Equal(b.last(), want) || looked != 2 {
			t.Errorf("after %d look-ups: %v", looked, b.last())
		}
	})
}
