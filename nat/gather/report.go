package gather

import (
	"net/netip"
	"slices"
	"time"

	"warren/nat/candidate"
)

// Behaviour is how a NAT maps an address and port of ours to one outside, in the terms of RFC 4787 section 4.1 and RFC 5780.
type Behaviour uint8

// The behaviours.
const (
	// Unknown: fewer than two servers have answered.
	Unknown Behaviour = iota
	// NoNAT: servers see our own address.
	NoNAT
	// EndpointIndependent: every destination sees the same. Peers can be told where we are.
	EndpointIndependent
	// AddressDependent: every destination address sees another.
	AddressDependent
	// AddressAndPortDependent: every destination port sees another.
	AddressAndPortDependent
)

// String is the term.
func (b Behaviour) String() string {
	return [...]string{"unknown", "no NAT", "endpoint-independent", "address-dependent", "address-and-port-dependent"}[b]
}

// Dependent tells whether peers see another address than the servers do.
func (b Behaviour) Dependent() bool { return b == AddressDependent || b == AddressAndPortDependent }

// Mapping is the mapping behaviour of what is between us and the internet, in one address family.
type Mapping struct {
	Behaviour Behaviour
	// Sure is false if the servers that answered would have looked the same with a neighbouring behaviour: servers on one address cannot tell
	// endpoint-independent from address-dependent (which hardly any NAT is), nor servers on one port each the two kinds of dependent.
	Sure bool
	// External are the addresses that servers saw in the last round, in their order; repeated ones are left out.
	External []netip.AddrPort
}

// ServerReport is about one STUN server.
type ServerReport struct {
	// Name is the host:port that was configured, Addr one that it resolved to.
	Name string
	Addr netip.AddrPort
	// Mapped is where the server saw us, RTT how long its answer took, At when that was; zero if it has not answered lately.
	Mapped netip.AddrPort
	RTT    time.Duration
	At     time.Time
}

// Report is all that a Gatherer has found. It is a snapshot that nobody changes.
type Report struct {
	// IPv4 and IPv6 are made from one whole round of questions, so that a NAT that forgets between two rounds is not taken for a dependent one.
	IPv4, IPv6 Mapping
	// Whole says that a whole round is over since the start or the last change of the network: what has not answered does not.
	Whole   bool
	Servers []ServerReport
	// PortMapped is what SetMapped was told.
	PortMapped netip.AddrPort
	Candidates []candidate.Candidate
}

// same tells whether two reports differ at most in round trips.
func (r *Report) same(o *Report) bool {
	equal := func(a, b Mapping) bool {
		return a.Behaviour == b.Behaviour && a.Sure == b.Sure && slices.Equal(a.External, b.External)
	}
	return r.Whole == o.Whole && equal(r.IPv4, o.IPv4) && equal(r.IPv6, o.IPv6) && r.PortMapped == o.PortMapped && slices.Equal(r.Candidates, o.Candidates) &&
		slices.EqualFunc(r.Servers, o.Servers, func(a, b ServerReport) bool { return a.Addr == b.Addr && a.Mapped == b.Mapped })
}

// View is what one server said: where it saw us.
type View struct{ Server, Mapped netip.AddrPort }

// Compare tells the mapping behaviour from what servers of one address family said in one round. own are our addresses without any NAT.
func Compare(views []View, own func(netip.AddrPort) bool) (m Mapping) {
	for _, v := range views {
		if !slices.Contains(m.External, v.Mapped) {
			m.External = append(m.External, v.Mapped)
		}
	}
	if len(views) > 0 && !slices.ContainsFunc(m.External, func(a netip.AddrPort) bool { return !own(a) }) {
		m.Behaviour, m.Sure = NoNAT, true
		return m
	}
	// Two servers on one address tell whether the port matters, two on different ones whether anything does.
	var samePort, otherPort, otherAddr bool
	for i, a := range views {
		for _, b := range views[:i] {
			same := a.Mapped == b.Mapped
			if a.Server.Addr() != b.Server.Addr() {
				otherAddr = true
				continue
			}
			samePort, otherPort = samePort || same, otherPort || !same
		}
	}
	switch {
	case len(views) < 2:
	case len(m.External) == 1:
		m.Behaviour, m.Sure = EndpointIndependent, otherAddr
	case otherPort:
		m.Behaviour, m.Sure = AddressAndPortDependent, true
	default:
		m.Behaviour, m.Sure = AddressAndPortDependent, false
		if samePort {
			m.Behaviour, m.Sure = AddressDependent, true
		}
	}
	return m
}
