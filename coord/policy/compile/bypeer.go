package compile

import (
	"bytes"
	"cmp"
	"slices"

	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// defaultMinNamed is how many devices a list has at least in which they are named by bits. Shorter ones stay as they are, which people can read.
const defaultMinNamed = 32

// ViewByPeer is View with the peers in long lists of prefixes named by one bit each, as pb.Grant has it: 10,000 devices take 1,250 bytes instead of
// 330,000. The bits count among the peers of this device, so that such grants are not shared, and have no Hash.
func (c *Compiler) ViewByPeer(id ID) View {
	slot, ok := c.slots[id]
	if !ok {
		return c.View(id)
	}
	b := c.build(slot)
	n := namer{builder: b, named: map[*prefixList]pieces{}}
	if !slices.ContainsFunc(b.told, func(t told) bool { return n.isNamed(t.src) || n.isNamed(t.dst) }) {
		return View{RuleSet: b.ruleSet(), Routes: b.routes()}
	}
	b.sortTold()
	n.rankPeers()
	set := new(RuleSet)
	for _, t := range b.told {
		set.Grants = append(set.Grants, t.grants(n.pieces(t.src), n.pieces(t.dst))...)
	}
	return View{RuleSet: set, Routes: b.routes()}
}

// namer names peers of one device.
type namer struct {
	*builder
	peers bits
	rank  []int32 // of peers, by slot
	count int32   // of peers
	named map[*prefixList]pieces
}

// piece is as much of a list as one grant can hold.
type piece struct {
	prefixes []*pb.Prefix
	peers    []byte
}

type pieces []piece

// chunks divides prefixes into pieces.
func chunks(list []*pb.Prefix) (out pieces) {
	for s := range slices.Chunk(list, record.MaxPrefixes) {
		out = append(out, piece{prefixes: s})
	}
	return out
}

// grants joins all pieces of sources with all of destinations.
func (t told) grants(src, dst pieces) (out []*pb.Grant) {
	for _, s := range src {
		for _, d := range dst {
			out = append(out, &pb.Grant{
				Id: t.id, Flows: t.flows, Sources: s.prefixes, SourcePeers: s.peers, Destinations: d.prefixes, DestinationPeers: d.peers,
			})
		}
	}
	return out
}

func (n *namer) isNamed(l *prefixList) bool { return l.whole.count() >= n.minNamed }

// pieces divides a list into pieces, of which the first names peers.
func (n *namer) pieces(l *prefixList) pieces {
	if !n.isNamed(l) {
		return chunks(l.prefixes)
	}
	if out, ok := n.named[l]; ok {
		return out
	}
	rest := l.rest
	if l.whole.has(n.slot) { // no peer of itself
		for _, p := range n.e.own {
			rest = append(rest[:len(rest):len(rest)], p.pb)
		}
	}
	out := chunks(rest)
	if len(out) == 0 {
		out = pieces{{}}
	}
	out[0].peers = n.bitsOf(l.whole)
	n.named[l] = out
	return out
}

// rankPeers numbers the peers in order of their keys.
func (n *namer) rankPeers() {
	n.peers, n.rank = n.builder.peers(n.slot), make([]int32, len(n.entries))
	for _, slot := range n.order {
		if n.peers.has(slot) {
			n.rank[slot] = n.count
			n.count++
		}
	}
}

// bitsOf gives the bits of those peers that are in set, without zeros at the end.
func (n *namer) bitsOf(set bits) []byte {
	out, end := make([]byte, (n.count+7)/8), int32(0)
	for slot := range set.all() {
		if n.peers.has(slot) {
			i := n.rank[slot]
			out[i/8] |= 1 << (i % 8)
			end = max(end, i/8+1)
		}
	}
	return slices.Clone(out[:end])
}

// find gives where a device is, or would be, in the order of keys.
func (d *directory) find(id ID) (int, bool) {
	return slices.BinarySearchFunc(d.order, id, func(slot int, id ID) int { return bytes.Compare(d.entries[slot].ID[:], id[:]) })
}

// sortTold puts what was told into an order that does not depend on how it came about.
func (b *builder) sortTold() {
	slices.SortFunc(b.told, func(x, y told) int {
		return cmp.Or(compareIDs(x.id, y.id), bytes.Compare(x.sum, y.sum))
	})
	b.told = slices.CompactFunc(b.told, func(x, y told) bool { return bytes.Equal(x.sum, y.sum) })
}
