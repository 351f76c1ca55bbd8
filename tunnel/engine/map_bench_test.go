package engine

import (
	"fmt"
	"net/netip"
	"testing"

	"warren/proto/key"
)

// BenchmarkOneChange is a change of one peer's prefixes in maps of several sizes, told as a change and as a whole map.
func BenchmarkOneChange(b *testing.B) {
	for _, peers := range []int{100, 1000, 10_000} {
		n := newNode(b, addresses[0], nil)
		m := Map{Self: []netip.Addr{n.addr}, Grants: everything()}
		for i := range peers {
			m.Peers = append(m.Peers, Peer{Device: key.NewDevice().Public(), NodeKey: key.NewNode().Public(), Prefixes: prefixOf(i)})
		}
		n.engine.SetMap(m)
		at := peers / 2
		both := [2]Peer{m.Peers[at], m.Peers[at]}
		both[1].Prefixes = prefixOf(peers)
		b.Run(fmt.Sprintf("Update/%d", peers), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				n.engine.Update(Change{Self: m.Self, Grants: m.Grants, Put: both[(i+1)%2 : (i+1)%2+1]})
			}
		})
		b.Run(fmt.Sprintf("SetMap/%d", peers), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				m.Peers[at] = both[(i+1)%2]
				n.engine.SetMap(m)
			}
		})
	}
}

func prefixOf(i int) []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)}
}
