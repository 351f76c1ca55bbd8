package filter

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	pb "warren/proto/warrenv1"
)

// Rules are compiled grants; they do not change. What a packet costs grows with the logarithm of the grants that its addresses are in, not
// with all grants.
type Rules struct {
	// flows are what each grant allows; nil for one that allows everything.
	flows   [][]flow
	members *bart.Table[*membership]
	nowhere *membership
	// anything says that some grant allows everything between its addresses.
	anything bool
}

type flow struct {
	proto       uint8
	first, last uint16
}

// membership is which grants an address is in, by rising index: as a source, as a destination, and the same of those that allow everything.
type membership struct {
	source, destination       []uint32
	anySource, anyDestination []uint32
}

func newRules() *Rules {
	return &Rules{members: new(bart.Table[*membership]), nowhere: new(membership)}
}

// Compile turns grants into rules. Without a grant everything is denied.
func Compile(grants []*pb.Grant) (*Rules, error) {
	r := newRules()
	for _, g := range grants {
		flows, anything, err := compileFlows(g)
		if err != nil {
			return nil, err
		}
		if len(flows) == 0 && !anything {
			continue
		}
		r.anything = r.anything || anything
		index := []uint32{uint32(len(r.flows))}
		r.flows = append(r.flows, flows)
		for i, list := range [][]*pb.Prefix{g.GetSources(), g.GetDestinations()} {
			for _, m := range list {
				p, err := prefix(m)
				if err != nil {
					return nil, fmt.Errorf("grant %q: %w", g.GetId(), err)
				}
				r.membership(p).add(index, i == 1, anything)
			}
		}
	}
	r.nest()
	return r, nil
}

// membership gives that of a prefix, to be changed.
func (r *Rules) membership(p netip.Prefix) *membership {
	m, ok := r.members.Get(p)
	if !ok {
		m = new(membership)
		r.members.Insert(p, m)
	}
	return m
}

// compileFlows gives the flows of a grant, or none if it allows everything.
func compileFlows(g *pb.Grant) (flows []flow, anything bool, err error) {
	for _, f := range g.GetFlows() {
		if f.GetProtocol() == 0 {
			anything = true
			continue
		}
		if f.GetProtocol() > 255 || f.GetLastPort() > 65535 || f.GetFirstPort() > f.GetLastPort() {
			return nil, false, fmt.Errorf("grant %q: flow %d %d-%d is malformed", g.GetId(), f.GetProtocol(), f.GetFirstPort(), f.GetLastPort())
		}
		flows = append(flows, flow{uint8(f.GetProtocol()), uint16(f.GetFirstPort()), uint16(f.GetLastPort())})
	}
	if anything {
		flows = nil
	}
	return flows, anything, nil
}

func prefix(m *pb.Prefix) (netip.Prefix, error) {
	a, ok := netip.AddrFromSlice(m.GetAddress())
	if !ok || m.GetBits() > uint32(a.BitLen()) {
		return netip.Prefix{}, fmt.Errorf("prefix %x/%d is malformed", m.GetAddress(), m.GetBits())
	}
	return netip.PrefixFrom(a, int(m.GetBits())).Masked(), nil
}

// add puts a grant into the sets. Grants come by rising index, each in a list of its own, which is shared.
func (m *membership) add(grant []uint32, destination, anything bool) {
	list := &m.source
	switch {
	case destination && anything:
		list = &m.anyDestination
	case destination:
		list = &m.destination
	case anything:
		list = &m.anySource
	}
	switch n := len(*list); {
	case n == 0:
		*list = grant
	case (*list)[n-1] != grant[0]:
		*list = append(*list, grant[0])
	}
}

// nest gives each prefix the grants of those around it, so that an address's longest prefix has them all.
func (r *Rules) nest() {
	type set struct {
		prefix netip.Prefix
		*membership
	}
	var around []set
	for p, m := range r.members.AllSorted() { // wider ones first
		for len(around) > 0 && !around[len(around)-1].prefix.Contains(p.Addr()) {
			around = around[:len(around)-1]
		}
		if n := len(around); n > 0 {
			m.join(around[n-1].membership)
		}
		around = append(around, set{p, m})
	}
}

func (m *membership) join(wider *membership) {
	m.source, m.destination = union(m.source, wider.source), union(m.destination, wider.destination)
	m.anySource, m.anyDestination = union(m.anySource, wider.anySource), union(m.anyDestination, wider.anyDestination)
}

func union(a, b []uint32) []uint32 {
	switch {
	case len(b) == 0:
		return a
	case len(a) == 0:
		return b
	}
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

// of gives the grants that an address is in.
func (r *Rules) of(a netip.Addr) *membership {
	if m, ok := r.members.Lookup(a); ok {
		return m
	}
	return r.nowhere
}

// anything reports whether from may send anything to to.
func anything(from, to *membership) bool {
	short, long := from.anySource, to.anyDestination
	if len(short) > len(long) {
		short, long = long, short
	}
	for _, g := range short {
		if _, ok := slices.BinarySearch(long, g); ok {
			return true
		}
	}
	return false
}

// open reports whether two addresses may send each other anything, so that no state is needed.
func open(a, b *membership) bool { return anything(a, b) && anything(b, a) }

// allow reports whether a new flow may begin.
func (r *Rules) allow(k flowKey) bool {
	from, to := r.of(k.src), r.of(k.dst)
	if anything(from, to) {
		return true
	}
	short, long := from.source, to.destination
	if len(short) > len(long) {
		short, long = long, short
	}
	for _, g := range short {
		if _, ok := slices.BinarySearch(long, g); ok && matches(r.flows[g], k.proto, k.dstPort) {
			return true
		}
	}
	return false
}

func matches(flows []flow, proto uint8, port uint16) bool {
	for _, f := range flows {
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
