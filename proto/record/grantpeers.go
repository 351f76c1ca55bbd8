package record

import (
	"fmt"
	"math/bits"
	"net/netip"

	pb "warren/proto/warrenv1"
)

// MaxNamedPeers bounds how many peers the grants of a map statement name by bits, each counted as often as it is named: a device spells them out.
const MaxNamedPeers = 1 << 17

// NamedPeers counts the peers that grants name by bits.
func NamedPeers(grants []*pb.Grant) (n int) {
	for _, g := range grants {
		for _, set := range [][]byte{g.GetSourcePeers(), g.GetDestinationPeers()} {
			for _, b := range set {
				n += bits.OnesCount8(b)
			}
		}
	}
	return n
}

// SpellPeers puts the addresses of the peers that grants name by bits in their place. Peers are the addresses of those that the statement's
// digest is over, in order of their keys. The grants that were opened stay as they are. It fails if a bit stands for no peer, and then changes nothing.
func (s *Statement) SpellPeers(peers [][]netip.Addr) error {
	if NamedPeers(s.GetGrants()) == 0 {
		return nil
	}
	sp := speller{peers: peers, known: map[string][]*pb.Prefix{}, prefixes: make([][]*pb.Prefix, len(peers))}
	grants := make([]*pb.Grant, len(s.GetGrants()))
	for i, g := range s.GetGrants() {
		src, err := sp.spell(g.GetSources(), g.GetSourcePeers())
		if err != nil {
			return fmt.Errorf("map statement: grant %q: sources: %w", g.GetId(), err)
		}
		dst, err := sp.spell(g.GetDestinations(), g.GetDestinationPeers())
		if err != nil {
			return fmt.Errorf("map statement: grant %q: destinations: %w", g.GetId(), err)
		}
		grants[i] = &pb.Grant{Id: g.GetId(), Sources: src, Destinations: dst, Flows: g.GetFlows()}
	}
	s.Grants = grants
	return nil
}

// speller shares lists that are equal, and the prefixes of a peer.
type speller struct {
	peers    [][]netip.Addr
	prefixes [][]*pb.Prefix // by peer, once it was named
	known    map[string][]*pb.Prefix
}

func (sp *speller) spell(list []*pb.Prefix, set []byte) ([]*pb.Prefix, error) {
	if len(set) == 0 {
		return list, nil
	}
	named, ok := sp.known[string(set)]
	if !ok {
		for i, b := range set {
			for ; b != 0; b &= b - 1 {
				peer := i*8 + bits.TrailingZeros8(b)
				if peer >= len(sp.peers) {
					return nil, fmt.Errorf("it names peer %d of %d", peer+1, len(sp.peers))
				}
				named = append(named, sp.of(peer)...)
			}
		}
		sp.known[string(set)] = named
	}
	if len(list) == 0 {
		return named[:len(named):len(named)], nil
	}
	return append(list[:len(list):len(list)], named...), nil
}

func (sp *speller) of(peer int) []*pb.Prefix {
	if sp.prefixes[peer] == nil {
		for _, a := range sp.peers[peer] {
			sp.prefixes[peer] = append(sp.prefixes[peer], PrefixToProto(netip.PrefixFrom(a, a.BitLen())))
		}
	}
	return sp.prefixes[peer]
}
