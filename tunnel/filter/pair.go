package filter

import (
	"cmp"
	"slices"
	"sync"

	"warren/internal/ipproto"
)

// none stands for no grant.
const none = ^uint32(0)

// pair is what one membership may send to another.
type pair struct {
	anything uint32 // the first grant that allows everything
	// ports says, by protocol, which grant allows which. The spans stand in order and do not overlap; for a protocol without ports there is one.
	ports map[uint8][]span
}

// span is a range of ports and the first grant that allows it.
type span struct {
	first, last uint16
	grant       uint32
}

// allow gives the first grant that allows a flow.
func (p *pair) allow(proto uint8, port uint16) (grant uint32, ok bool) {
	grant = p.anything
	if spans := p.ports[proto]; len(spans) > 0 {
		if !ipproto.HasPorts(proto) {
			port = 0
		}
		i, found := slices.BinarySearchFunc(spans, port, func(s span, port uint16) int {
			switch {
			case port < s.first:
				return 1
			case port > s.last:
				return -1
			}
			return 0
		})
		if found {
			grant = spans[i].grant // it comes before the one of everything, or would not be here
		}
	}
	return grant, grant != none
}

// makePair compiles what from may send to to.
func (r *Rules) makePair(from, to *membership) *pair {
	p := &pair{ports: map[uint8][]span{}}
	p.anything, _ = anything(from, to)
	for g := range common(from.source, to.destination) {
		if g > p.anything {
			break // that one allows it all
		}
		for _, f := range r.grants[g].flows {
			s := span{f.first, f.last, g}
			if !ipproto.HasPorts(f.proto) {
				s.first, s.last = 0, 0
			}
			p.ports[f.proto] = append(p.ports[f.proto], s)
		}
	}
	for proto, spans := range p.ports {
		p.ports[proto] = disjoint(spans)
	}
	return p
}

// common gives what two rising lists share, in order.
func common(a, b []uint32) func(yield func(uint32) bool) {
	return func(yield func(uint32) bool) {
		for len(a) > 0 && len(b) > 0 {
			switch c := cmp.Compare(a[0], b[0]); {
			case c < 0:
				a = a[1:]
			case c > 0:
				b = b[1:]
			case !yield(a[0]):
				return
			default:
				a, b = a[1:], b[1:]
			}
		}
	}
}

// disjoint cuts spans, which come by rising grant, so that each port has the first of those that cover it.
func disjoint(spans []span) []span {
	if len(spans) == 1 {
		return spans
	}
	edges := make([]int, 0, 2*len(spans)) // where a piece begins; the last one is behind all
	for _, s := range spans {
		edges = append(edges, int(s.first), int(s.last)+1)
	}
	slices.Sort(edges)
	edges = slices.Compact(edges)
	owner := make([]uint32, len(edges))
	next := make([]int, len(edges)) // the first piece from here that nobody owns, followed as by union-find
	for i := range owner {
		owner[i], next[i] = none, i
	}
	free := func(i int) int {
		for next[i] != i {
			next[i] = next[next[i]]
			i = next[i]
		}
		return i
	}
	for _, s := range spans {
		i, _ := slices.BinarySearch(edges, int(s.first))
		for i = free(i); edges[i] <= int(s.last); i = free(i) {
			owner[i], next[i] = s.grant, i+1
		}
	}
	var out []span
	for i, g := range owner {
		if g == none {
			continue
		}
		first, last := uint16(edges[i]), uint16(edges[i+1]-1)
		if n := len(out); n > 0 && out[n-1].grant == g && int(out[n-1].last)+1 == edges[i] {
			out[n-1].last = last
		} else {
			out = append(out, span{first, last, g})
		}
	}
	return out
}

// maxSpans bounds what the pairs of a set of rules take, at 8 bytes a span.
const maxSpans = 1 << 18

// pairs keeps those that were asked for.
type pairs struct {
	mu    sync.RWMutex
	known map[[2]*membership]*pair
	spans int
}

// pair gives what from may send to to.
func (r *Rules) pair(from, to *membership) *pair {
	k := [2]*membership{from, to}
	r.pairs.mu.RLock()
	p := r.pairs.known[k]
	r.pairs.mu.RUnlock()
	if p != nil {
		return p
	}
	p = r.makePair(from, to)
	size := 16 // about what an entry takes without spans
	for _, spans := range p.ports {
		size += len(spans)
	}
	r.pairs.mu.Lock()
	defer r.pairs.mu.Unlock()
	if r.pairs.spans += size; r.pairs.spans > maxSpans || r.pairs.known == nil {
		r.pairs.known, r.pairs.spans = map[[2]*membership]*pair{}, size
	}
	r.pairs.known[k] = p
	return p
}
