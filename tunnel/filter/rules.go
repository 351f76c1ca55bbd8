package filter

import (
	"fmt"
	"net/netip"

	"github.com/gaissmai/bart"

	pb "warren/proto/warrenv1"
)

// Rules are compiled grants; they do not change.
type Rules struct {
	grants []grant
}

type grant struct {
	sources, destinations *bart.Lite
	// any says that every protocol and port is allowed.
	any   bool
	flows []flow
}

type flow struct {
	proto       uint8
	first, last uint16
}

// Compile turns grants into rules. Without a grant everything is denied.
func Compile(grants []*pb.Grant) (*Rules, error) {
	r := new(Rules)
	for _, g := range grants {
		c := grant{sources: new(bart.Lite), destinations: new(bart.Lite)}
		for _, f := range g.GetFlows() {
			if f.GetProtocol() == 0 {
				c.any = true
				continue
			}
			if f.GetProtocol() > 255 || f.GetLastPort() > 65535 || f.GetFirstPort() > f.GetLastPort() {
				return nil, fmt.Errorf("grant %q: flow %d %d-%d is malformed", g.GetId(), f.GetProtocol(), f.GetFirstPort(), f.GetLastPort())
			}
			c.flows = append(c.flows, flow{uint8(f.GetProtocol()), uint16(f.GetFirstPort()), uint16(f.GetLastPort())})
		}
		if err := insert(c.sources, g.GetSources()); err != nil {
			return nil, fmt.Errorf("grant %q: %w", g.GetId(), err)
		}
		if err := insert(c.destinations, g.GetDestinations()); err != nil {
			return nil, fmt.Errorf("grant %q: %w", g.GetId(), err)
		}
		if c.any || len(c.flows) > 0 {
			r.grants = append(r.grants, c)
		}
	}
	return r, nil
}

func insert(t *bart.Lite, prefixes []*pb.Prefix) error {
	for _, m := range prefixes {
		a, ok := netip.AddrFromSlice(m.GetAddress())
		if !ok || m.GetBits() > uint32(a.BitLen()) {
			return fmt.Errorf("prefix %x/%d is malformed", m.GetAddress(), m.GetBits())
		}
		t.Insert(netip.PrefixFrom(a, int(m.GetBits())).Masked())
	}
	return nil
}

// open reports whether src may send anything to dst, so that no state is needed.
func (r *Rules) open(src, dst netip.Addr) bool {
	for i := range r.grants {
		g := &r.grants[i]
		if g.any && g.sources.Contains(src) && g.destinations.Contains(dst) {
			return true
		}
	}
	return false
}

// allow reports whether a new flow may begin.
func (r *Rules) allow(src, dst netip.Addr, proto uint8, port uint16) bool {
	for i := range r.grants {
		g := &r.grants[i]
		if !g.matches(proto, port) || !g.sources.Contains(src) || !g.destinations.Contains(dst) {
			continue
		}
		return true
	}
	return false
}

func (g *grant) matches(proto uint8, port uint16) bool {
	if g.any {
		return true
	}
	for _, f := range g.flows {
		if f.proto != proto {
			continue
		}
		switch proto {
		case protoTCP, protoUDP, protoSCTP:
			if port >= f.first && port <= f.last {
				return true
			}
		default:
			return true
		}
	}
	return false
}
