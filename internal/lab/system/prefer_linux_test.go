package system

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
	"warren/internal/sim/natmodel"
)

// reaches waits until a device reaches its peer directly at one of the addresses, and sees that it stays there for a while.
func reaches(t *testing.T, ctx context.Context, d, peer *warrennet.Device, p *warrennet.Pinger, want ...netip.Addr) {
	t.Helper()
	is := func(s *warrennet.Status) bool {
		a, err := netip.ParseAddrPort(s.Peer(peer.Name).Path.Remote)
		return err == nil && s.Peer(peer.Name).Path.Kind == "direct" && slices.Contains(want, a.Addr())
	}
	_, err := d.Await(ctx, fmt.Sprintf("reaching %s at one of %v", peer.Name, want), is)
	must(t, err)
	losses(t, p, time.Second)
	if s, err := d.Status(ctx); err != nil || !is(s) {
		t.Errorf("%s has left %v for %+v, %v", d.Name, want, s.Peer(peer.Name).Path, err)
	}
}

// TestLANPreferred: two devices of one LAN use their addresses there, whether their router would turn packets to its outside round or not. If
// they have IPv6 as well, then both of a peer's addresses are on the LAN, as fast as each other, and either will do.
func TestLANPreferred(t *testing.T) {
	hairpin := natmodel.Easy()
	hairpin.Hairpin = true
	for name, a := range map[string]lab.Access{
		"no hairpin":       lab.SameNAT.Access(),
		"hairpin and IPv6": {NAT: hairpin, IPv6: lab.OpenIPv6},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, n := start(t)
			s, err := n.Lab.Site("house", a)
			must(t, err)
			x, y := deviceAt(t, ctx, n, "left", s), deviceAt(t, ctx, n, "right", s)
			p := ping(t, ctx, x, y)
			lan := func(d *warrennet.Device) []netip.Addr {
				return slices.DeleteFunc([]netip.Addr{d.Addr, d.Addr6}, func(a netip.Addr) bool { return !a.IsValid() })
			}
			reaches(t, ctx, x, y, p, lan(y)...)
			reaches(t, ctx, y, x, p, lan(x)...)
		})
	}
}

// TestIPv6Preferred: of two ways that are as fast, IPv6 is taken, and IPv4 when that breaks.
func TestIPv6Preferred(t *testing.T) {
	ctx, n := start(t)
	var devices []*warrennet.Device
	for _, name := range []string{"left", "right"} {
		s, err := n.Lab.Site(name, lab.Access{NAT: natmodel.Easy(), IPv6: lab.FirewalledIPv6})
		must(t, err)
		devices = append(devices, deviceAt(t, ctx, n, name, s))
	}
	x, y := devices[0], devices[1]
	p := ping(t, ctx, x, y)
	reaches(t, ctx, x, y, p, y.Addr6)
	reaches(t, ctx, y, x, p, x.Addr6)
	out, err := y.Command(ctx, "ip", "-6", "addr", "del", y.Addr6.String()+"/64", "dev", "eth0").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	began := time.Now()
	answersWithin(t, ctx, "ping after IPv6 was lost", p, began, back)
	reaches(t, ctx, x, y, p, y.Public)
}

// TestInterfaceWithManyPeers takes the uplink away that all paths use: the relay, by the other uplink, carries the traffic of all within a second.
//
//	peer 1, 2, 3 --- hard NATs --- internet --- none (fibre) ----- eth0 office
//	                                       \--- hard NAT (mobile) - eth1
func TestInterfaceWithManyPeers(t *testing.T) {
	ctx, n := start(t)
	y := deviceAt(t, ctx, n, "office", site(t, n, "fibre", lab.None), site(t, n, "mobile", lab.Hard))
	var peers []*warrennet.Device
	var pings []*warrennet.Pinger
	for _, name := range []string{"one", "two", "three"} {
		x := device(t, ctx, n, name, lab.Hard)
		peers, pings = append(peers, x), append(pings, ping(t, ctx, x, y), ping(t, ctx, y, x))
	}
	for _, x := range peers {
		awaitDirect(t, ctx, x, y)
	}
	must(t, y.Unplug("eth0"))
	began := time.Now()
	took := make(chan time.Duration, len(pings))
	for _, p := range pings {
		go func() {
			if _, err := p.Until(ctx, 50*time.Millisecond); err != nil {
				t.Error(err)
			}
			took <- time.Since(began)
		}()
	}
	for range pings {
		if d := <-took; d > back {
			t.Errorf("one path was back after %s", d)
		} else {
			t.Logf("one path was back after %d ms", d.Milliseconds())
		}
	}
	for _, x := range peers {
		if s, err := y.Status(ctx); err != nil || s.Peer(x.Name).Path.Kind != "relay" {
			t.Errorf("%s is reached by %+v, %v; hard against hard is relayed", x.Name, s.Peer(x.Name).Path, err)
		}
	}
}
