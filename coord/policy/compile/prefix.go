package compile

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"

	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// part is a prefix in the forms in which it is needed: to be asked, sorted and sent.
type part struct {
	netip.Prefix
	pb *pb.Prefix
	// high and low are the address, for sorting.
	high, low uint64
}

func newPart(p netip.Prefix) part {
	a := p.Addr().As16()
	return part{Prefix: p, pb: record.PrefixToProto(p), high: binary.BigEndian.Uint64(a[:8]), low: binary.BigEndian.Uint64(a[8:])}
}

func newParts(list []netip.Prefix) (out []part) {
	for _, p := range list {
		out = append(out, newPart(p))
	}
	return out
}

// compareParts orders by family and address, and wider prefixes first.
func compareParts(a, b part) int {
	switch {
	case a.Addr().Is4() != b.Addr().Is4():
		return cmp.Compare(a.Addr().BitLen(), b.Addr().BitLen())
	case a.high != b.high:
		return cmp.Compare(a.high, b.high)
	case a.low != b.low:
		return cmp.Compare(a.low, b.low)
	}
	return cmp.Compare(a.Bits(), b.Bits())
}

// intersect appends what p has in common with sorted prefixes that do not overlap.
func intersect(out []part, p part, with []part) []part {
	i, _ := slices.BinarySearchFunc(with, p, compareParts)
	if i > 0 && with[i-1].Overlaps(p.Prefix) {
		return append(out, p)
	}
	for ; i < len(with) && with[i].Overlaps(p.Prefix); i++ {
		out = append(out, with[i])
	}
	return out
}

// contains reports whether one of parts contains a.
func contains(parts []part, a netip.Addr) bool {
	return slices.ContainsFunc(parts, func(p part) bool { return p.Contains(a) })
}

// within reports whether n lies in h.
func within(h, n netip.Prefix) bool { return h.Bits() <= n.Bits() && h.Contains(n.Addr()) }

// apart sorts parts and drops those that others contain.
func apart(parts []part) []part {
	slices.SortFunc(parts, compareParts)
	n := 0
	for _, p := range parts {
		if n == 0 || !parts[n-1].Overlaps(p.Prefix) {
			parts[n] = p
			n++
		}
	}
	return parts[:n]
}

// prefixList is prefixes of which none contains another, sorted, as grants have them.
type prefixList struct {
	prefixes []*pb.Prefix
	sum      [32]byte
	// whole are devices that are there with all that they have, rest is what else there is; both are empty where no device is to be named.
	whole bits
	rest  []*pb.Prefix
}

// name notes of what devices a list is.
func (l *prefixList) name(whole bits, rest []part) {
	l.whole = whole
	for _, p := range apart(rest) {
		l.rest = append(l.rest, p.pb)
	}
}

// newPrefixList takes parts over, which it sorts.
func newPrefixList(parts []part) *prefixList {
	parts = apart(parts)
	l := &prefixList{prefixes: make([]*pb.Prefix, len(parts))}
	b := make([]byte, 0, 17*len(parts))
	for i, p := range parts {
		l.prefixes[i] = p.pb
		b = append(b, uint8(p.Bits()))
		b = append(b, p.pb.GetAddress()...)
	}
	// A list of one family cannot pass for one of both: lengths tell them apart, for IPv4 comes first.
	b = binary.BigEndian.AppendUint32(b, uint32(len(parts)))
	l.sum = sha256.Sum256(b)
	return l
}
