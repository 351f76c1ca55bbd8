// Package candidate holds the addresses at which a device may be reached. A Candidate becomes a message by ToProto, and is checked on its
// way back by FromProto: what a peer claims as its address is hostile until then.
package candidate

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	pb "warren/proto/warrenv1"
)

// Max is how many candidates a device tells its peers.
const Max = 32

// Candidate is one address.
type Candidate struct {
	Kind pb.CandidateKind
	Addr netip.AddrPort
}

// String is for logs.
func (c Candidate) String() string {
	names := map[pb.CandidateKind]string{
		pb.CandidateKind_CANDIDATE_KIND_HOST:             "host",
		pb.CandidateKind_CANDIDATE_KIND_SERVER_REFLEXIVE: "server reflexive",
		pb.CandidateKind_CANDIDATE_KIND_PORT_MAPPED:      "port mapped",
	}
	return fmt.Sprintf("%s %s", names[c.Kind], c.Addr)
}

// ErrAddress says that nothing may be sent to an address that a peer named.
var ErrAddress = errors.New("not an address that a device can be reached at")

// Usable accepts addresses that a packet to a peer may be sent to. overlay are the network's own prefixes: a tunnel inside the
// tunnel would go round in circles.
func Usable(a netip.AddrPort, overlay []netip.Prefix) error {
	ip := a.Addr()
	if !ip.IsValid() || a.Port() == 0 || ip.Is4In6() || ip.Zone() != "" || ip.IsUnspecified() || ip.IsLoopback() ||
		ip.IsMulticast() || ip.IsLinkLocalUnicast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return fmt.Errorf("%w: %s", ErrAddress, a)
	}
	if ip.Is4() && ip.As4()[0] == 0 {
		return fmt.Errorf("%w: %s", ErrAddress, a)
	}
	for _, p := range overlay {
		if p.Contains(ip) {
			return fmt.Errorf("%w: %s lies inside the network's own %s", ErrAddress, a, p)
		}
	}
	return nil
}

// ToProto encodes at most Max candidates.
func ToProto(in []Candidate) []*pb.Candidate {
	var out []*pb.Candidate
	for _, c := range in[:min(len(in), Max)] {
		out = append(out, &pb.Candidate{Kind: c.Kind, Address: c.Addr.Addr().AsSlice(), Port: uint32(c.Addr.Port())})
	}
	return out
}

// FromProto decodes a peer's candidates. Those that are not usable are left out; more than Max are an error.
func FromProto(in []*pb.Candidate, overlay []netip.Prefix) ([]Candidate, error) {
	if len(in) > Max {
		return nil, fmt.Errorf("%d candidates, more than %d", len(in), Max)
	}
	var out []Candidate
	for _, m := range in {
		ip, ok := netip.AddrFromSlice(m.GetAddress())
		if !ok || m.GetPort() > 65535 {
			return nil, fmt.Errorf("%w: %x port %d", ErrAddress, m.GetAddress(), m.GetPort())
		}
		c := Candidate{m.GetKind(), netip.AddrPortFrom(ip, uint16(m.GetPort()))}
		if Usable(c.Addr, overlay) == nil && !slices.ContainsFunc(out, func(o Candidate) bool { return o.Addr == c.Addr }) {
			out = append(out, c)
		}
	}
	return out, nil
}

// Sort puts candidates into an order that does not depend on where they came from, and drops repeated addresses; of those the one of the lower
// kind stays.
func Sort(in []Candidate) []Candidate {
	out := slices.Clone(in)
	slices.SortFunc(out, func(a, b Candidate) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Kind, b.Kind)) })
	out = slices.CompactFunc(out, func(a, b Candidate) bool { return a.Addr == b.Addr })
	slices.SortStableFunc(out, func(a, b Candidate) int { return cmp.Compare(a.Kind, b.Kind) })
	return out
}
