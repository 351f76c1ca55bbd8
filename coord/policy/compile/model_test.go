package compile

import (
	"flag"
	"net/netip"
	"slices"
	"testing"
	"time"

	pb "warren/proto/warrenv1"
)

// worlds is how many random worlds the tests play; make soak plays more.
var worlds = flag.Int("worlds", 300, "random worlds for each test against the naive evaluator")

// holder looks at what a device was told as its agent would.
type holder struct {
	Device
	View
}

// passes reports whether the device's filter lets a packet pass.
func (h *holder) passes(p packet) bool {
	return slices.ContainsFunc(h.Grants, func(g *pb.Grant) bool {
		return has(g.GetSources(), p.src) && has(g.GetDestinations(), p.dst) && slices.ContainsFunc(g.GetFlows(), func(f *pb.Flow) bool {
			ports := p.protocol == 6 || p.protocol == 17 || p.protocol == 132
			return f.GetProtocol() == 0 || f.GetProtocol() == uint32(p.protocol) &&
				(!ports || uint32(p.port) >= f.GetFirstPort() && uint32(p.port) <= f.GetLastPort())
		})
	})
}

func has(list []*pb.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(m *pb.Prefix) bool {
		p, _ := netip.AddrFromSlice(m.GetAddress())
		return netip.PrefixFrom(p, int(m.GetBits())).Contains(a)
	})
}

// reaches reports whether the device knows that a is at peer: as its own, or by a route.
func (h *holder) reaches(a netip.Addr, peer Device) bool {
	return slices.Contains(peer.Addresses, a) || slices.ContainsFunc(h.View.Routes, func(r Route) bool {
		return r.Gateway == peer.ID && r.Prefix.Contains(a) && slices.ContainsFunc(r.Allowed, func(p netip.Prefix) bool { return p.Contains(a) })
	})
}

// carriersOf counts the devices that carry a.
func carriersOf(dir Directory, a netip.Addr) (n int) {
	for _, d := range dir.Devices {
		if carries(d, a) || exits(d, a) {
			n++
		}
	}
	return n
}

func (n *naive) addresses(id ID) []netip.Addr {
	return n.dir.Devices[slices.IndexFunc(n.dir.Devices, func(d Device) bool { return d.ID == id })].Addresses
}

// plausible reports whether a device sends or receives from an address at all.
func plausible(d Device, a netip.Addr, destination bool) bool {
	return slices.Contains(d.Addresses, a) || carries(d, a) || destination && exits(d, a)
}

// TestAgainstNaive compares what devices are told, and explanations, with the naive evaluator, packet by packet.
func TestAgainstNaive(t *testing.T) {
	allowed, denied := 0, 0
	for seed := range uint64(*worlds) {
		g := newGen(seed)
		n := &naive{g.policy(), g.directory(2 + g.IntN(10))}
		now := start.Add(time.Duration(g.IntN(7*24*60)) * time.Minute)
		c := New(parse(t, n.text()), n.dir, now)
		holders := map[ID]*holder{}
		for _, d := range n.dir.Devices {
			holders[d.ID] = &holder{d, c.View(d.ID)}
			if seed%2 == 0 {
				c.minNamed = 1
				holders[d.ID].View = spelledView(t, c, d.ID, n.addresses)
			}
		}
		for range 100 {
			p := g.packet(n.dir.Devices)
			if p.src.Is4() != p.dst.Is4() {
				continue // there are no such packets
			}
			want := n.allows(p, now)
			a, b := holders[p.from.ID], holders[p.to.ID]
			got := c.Sees(p.from.ID, p.to.ID) && a.passes(p) && b.passes(p) && a.reaches(p.dst, p.to) && b.reaches(p.src, p.from) &&
				plausible(p.from, p.src, false) && plausible(p.to, p.dst, true)
			// Where both ends lie behind several gateways, filters cannot tell every pair of gateways apart.
			several := carriersOf(n.dir, p.src) > 1 && carriersOf(n.dir, p.dst) > 1
			if got != want && !(got && several) {
				t.Fatalf("seed %d at %s: %s %s > %s %s %d/%d: devices say %v, naive %v\n%s\nfrom %+v\nto %+v\n%v\n%v", seed, now, p.from.Name, p.src,
					p.to.Name, p.dst, p.protocol, p.port, got, want, n.text(), p.from, p.to, a.Grants, b.Grants)
			}
			q := Question{Src: End{p.from.ID, p.src}, Dst: End{p.to.ID, p.dst}, Protocol: p.protocol, Port: p.port}
			if why := c.Explain(q, now); why.Allowed != want {
				t.Fatalf("seed %d at %s: %s %s > %s %s %d/%d: explained as %v, naive %v\n%s\n%s", seed, now, p.from.Name, p.src, p.to.Name, p.dst,
					p.protocol, p.port, why.Allowed, want, why, n.text())
			}
			if want {
				allowed++
			} else {
				denied++
			}
		}
	}
	if allowed < denied/20 {
		t.Errorf("only %d packets of %d were allowed: the worlds say little", allowed, allowed+denied)
	}
	t.Logf("%d packets allowed, %d denied", allowed, denied)
}

// TestPeersAgainstNaive compares who sees whom.
func TestPeersAgainstNaive(t *testing.T) {
	related := 0
	for seed := range uint64(*worlds) / 3 {
		g := newGen(seed)
		n := &naive{g.policy(), g.directory(2 + g.IntN(8))}
		c := New(parse(t, n.text()), n.dir, start)
		for _, x := range n.dir.Devices {
			peers := slices.Collect(c.Peers(x.ID))
			for _, y := range n.dir.Devices {
				want := n.connected(x, y, start) || n.connected(y, x, start) || areSiblings(x, y)
				if areSiblings(x, y) {
					related++
				}
				if got := slices.Contains(peers, y.ID); got != want || c.Sees(x.ID, y.ID) != want {
					t.Fatalf("seed %d: %s sees %s: %v and %v, naive %v\n%s\n%+v\n%+v", seed, x.Name, y.Name, got, c.Sees(x.ID, y.ID), want, n.text(), x, y)
				}
			}
		}
	}
	if related < 20 {
		t.Errorf("only %d pairs carry one CIDR: the worlds say little of siblings", related)
	}
}

// connected tries an address of each kind that the generator's policies tell apart, of both families.
func (n *naive) connected(x, y Device, now time.Time) bool {
	if x.ID == y.ID {
		return false
	}
	return slices.ContainsFunc(n.grants, func(g grantModel) bool {
		return slices.ContainsFunc(probes(x), func(src netip.Addr) bool {
			return slices.ContainsFunc(probes(y), func(dst netip.Addr) bool { return n.connects(g, packet{from: x, to: y, src: src, dst: dst}, now) })
		})
	})
}

func probes(d Device) []netip.Addr {
	out := slices.Clone(d.Addresses)
	if len(d.Routes) == 0 && !d.Exit {
		return out
	}
	for _, s := range []string{"10.0.0.1", "10.1.0.1", "10.1.2.1", "10.1.2.3", "10.2.0.1", "10.2.0.9", "fd99::1", "fd99:1::1", "203.0.113.1", "8.8.1.1", "8.8.8.8", "2606::1", "2001::1", "9.9.9.9", "11.0.0.1"} {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}
