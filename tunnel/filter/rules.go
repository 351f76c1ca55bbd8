package filter

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	pb "warren/proto/warrenv1"
)

// Rules are compiled grants; they do not change. What a new flow costs grows with the logarithm of the grants that its addresses are in, not
// with all grants; only the first between two kinds of addresses, those that are in the same grants, costs in proportion to those.
type Rules struct {
	grants  []grant
	members *bart.Table[*membership]
	nowhere *membership
	// anything says that some grant allows everything between its addresses.
	anything bool
	pairs    pairs
}

// grant is one of the map's, with its flows; none if it allows everything.
type grant struct {
	id    string
	flows []flow
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
		index := []uint32{uint32(len(r.grants))}
		r.grants = append(r.grants, grant{g.GetId(), flows})
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

// anything gives the first grant by which from may send anything to to; the lists rise.
func anything(from, to *membership) (grant uint32, ok bool) {
	short, long := from.anySource, to.anyDestination
	if len(short) > len(long) {
		short, long = long, short
	}
	for _, g := range short {
		if _, ok := slices.BinarySearch(long, g); ok {
			return g, true
		}
	}
	return none, false
}

// open reports whether two addresses may send each other anything, and gives the grant for what goes from one to the other.
func open(from, to *membership) (grant uint32, ok bool) {
	grant, ok = anything(from, to)
	if ok {
		_, ok = anything(to, from)
	}
	return grant, ok
}

// openOr lets a packet pass that goes between two addresses that may send each other anything, whatever it is; others get the verdict.
func (r *Rules) openOr(b []byte, v Verdict) Judgement {
	if !r.anything {
		return Judgement{Verdict: v}
	}
	src, dst, err := Addresses(b)
	if err != nil {
		return Judgement{Verdict: Malformed}
	}
	g, ok := open(r.of(src), r.of(dst))
	if !ok {
		return Judgement{Verdict: v}
	}
	return Judgement{Verdict: Pass, Grant: r.grants[g].id}
}

// allow gives the first grant by which a new flow may begin.
func (r *Rules) allow(src, dst netip.Addr, proto uint8, port uint16) (id string, ok bool) {
	g, ok := r.pair(r.of(src), r.of(dst)).allow(proto, port)
	if !ok {
		return "", false
	}
	return r.grants[g].id, true
}

// renew reports whether e may go on, and has it know by which grant. It is about to enter the table, or its shard is locked.
func (r *Rules) renew(e *Flow) (ok bool) {
	whole := e
	if e.whole != nil {
		whole = e.whole
	}
	src, dst := whole.ends()
	grant, ok := r.allow(src.Addr(), dst.Addr(), whole.key[keyProto], dst.Port())
	if ok {
		e.grant = grant
	}
	return ok
}
