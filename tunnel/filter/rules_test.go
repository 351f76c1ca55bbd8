package filter

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	pb "warren/proto/warrenv1"
)

func TestCompileMalformed(t *testing.T) {
	good := grants(a4 + " -> " + b4 + " 6:80-80")[0]
	for name, c := range map[string]struct {
		change func(*pb.Grant)
		want   string
	}{
		"protocol":            {func(g *pb.Grant) { g.Flows[0].Protocol = 256 }, "flow 256 80-80"},
		"last port":           {func(g *pb.Grant) { g.Flows[0].LastPort = 65536 }, "flow 6 80-65536"},
		"range":               {func(g *pb.Grant) { g.Flows[0].FirstPort = 81 }, "flow 6 81-80"},
		"address":             {func(g *pb.Grant) { g.Sources[0].Address = []byte{1, 2, 3} }, "prefix 010203/32"},
		"no address":          {func(g *pb.Grant) { g.Destinations[0].Address = nil }, "prefix /32"},
		"bits":                {func(g *pb.Grant) { g.Destinations[0].Bits = 33 }, "prefix 64400002/33"},
		"bits over an int":    {func(g *pb.Grant) { g.Sources[0].Bits = 1<<32 - 1 }, "/4294967295"},
		"first of two is bad": {func(g *pb.Grant) { g.Flows = []*pb.Flow{{Protocol: 999}, {}} }, "flow 999"},
	} {
		g := grants(a4 + " -> " + b4 + " 6:80-80")[0]
		c.change(g)
		r, err := Compile([]*pb.Grant{good, g})
		if err == nil || r != nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), `grant "0"`) {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
}

// naiveGrant is a grant that is asked as the policy is worded.
type naiveGrant struct {
	id                    string
	sources, destinations []netip.Prefix
	flows                 []*pb.Flow
}

type naiveRules []naiveGrant

func naive(list []*pb.Grant) (out naiveRules) {
	for _, g := range list {
		n := naiveGrant{id: g.Id, flows: g.Flows}
		for i, from := range [][]*pb.Prefix{g.Sources, g.Destinations} {
			for _, m := range from {
				a, _ := netip.AddrFromSlice(m.Address)
				p := netip.PrefixFrom(a, int(m.Bits))
				if i == 0 {
					n.sources = append(n.sources, p)
				} else {
					n.destinations = append(n.destinations, p)
				}
			}
		}
		out = append(out, n)
	}
	return out
}

func within(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// allows gives the first grant that allows the flow, or "", and tells whether one allows every flow.
func (n naiveRules) allows(src, dst netip.Addr, proto uint8, port uint16) (allowed string, anything bool) {
	for _, g := range n {
		if !within(g.sources, src) || !within(g.destinations, dst) {
			continue
		}
		for _, f := range g.flows {
			if f.Protocol == 0 {
				anything = true
			}
			ports := proto == protoTCP || proto == protoUDP || proto == protoSCTP
			if f.Protocol == 0 || f.Protocol == uint32(proto) && (!ports || (uint32(port) >= f.FirstPort && uint32(port) <= f.LastPort)) {
				allowed = cmp.Or(allowed, g.id)
			}
		}
	}
	return allowed, anything
}

// randomGrants draws from few addresses and nested prefixes, so that much overlaps.
func randomGrants(rng *rand.Rand, most int) (out []*pb.Grant) {
	pool := []string{
		a4, b4, c4, "100.64.0.4", "100.64.0.0/30", "100.64.0.2/31", "100.64.0.0/16", "0.0.0.0/0",
		a6, b6, c6, "fd00::4", "fd00::/126", "fd00::2/127", "fd00::/48", "::/0", "10.1.0.0/16", "10.1.2.0/24",
	}
	some := func() (out []*pb.Prefix) {
		for range rng.IntN(6) {
			out = append(out, prefixes(pool[rng.IntN(len(pool))])...)
		}
		return out
	}
	for i := range rng.IntN(most + 1) {
		g := &pb.Grant{Id: fmt.Sprint("g", i), Sources: some(), Destinations: some()}
		for range rng.IntN(5) {
			f := &pb.Flow{Protocol: []uint32{0, 1, 1, 6, 6, 6, 17, 17, 17, 47, 58, 58, 132, 132}[rng.IntN(14)]}
			f.FirstPort = []uint32{0, 80, 81, 1000}[rng.IntN(4)]
			f.LastPort = f.FirstPort + []uint32{0, 1, 64000}[rng.IntN(3)]
			g.Flows = append(g.Flows, f)
		}
		out = append(out, g)
	}
	return out
}

// TestRulesModel compares compiled grants with the grants themselves.
func TestRulesModel(t *testing.T) {
	addresses := []string{a4, b4, c4, "100.64.0.4", "100.64.9.9", "9.9.9.9", "10.1.2.3", "10.1.3.3", a6, b6, c6, "fd00::4", "fd00::99", "2001:db8::1"}
	protocols, ports := []uint8{1, 6, 17, 47, 58, 132, 255}, []uint16{0, 79, 80, 81, 82, 1000, 65000, 65535}
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		list := randomGrants(rng, 12)
		rules, err := Compile(list)
		if err != nil {
			t.Fatal(err)
		}
		n := naive(list)
		for range 500 {
			src, dst := netip.MustParseAddr(addresses[rng.IntN(len(addresses))]), netip.MustParseAddr(addresses[rng.IntN(len(addresses))])
			proto, port := protocols[rng.IntN(len(protocols))], ports[rng.IntN(len(ports))]
			from, to := rules.of(src), rules.of(dst)
			wantAllow, wantAny := n.allows(src, dst, proto, port)
			if got, ok := rules.allow(src, dst, proto, port); got != wantAllow || ok != (got != "") {
				t.Fatalf("seed %d: allow(%s, %s, %d, %d) = %q, %v, want %q\n%v", seed, src, dst, proto, port, got, ok, wantAllow, list)
			}
			if _, got := anything(from, to); got != wantAny {
				t.Fatalf("seed %d: anything(%s, %s) = %v\n%v", seed, src, dst, got, list)
			}
		}
	}
}
