package lab

import (
	"errors"
	"fmt"
	"time"

	"warren/internal/sim/linkmodel"
	"warren/internal/sim/natmodel"
)

// Access is what lies between the hosts of a site and the internet: options that combine. The zero value is a public IPv4 address with
// nothing in the way.
type Access struct {
	// NAT is how the site's router translates IPv4; nil for not at all.
	NAT *natmodel.Options
	// CGNAT is how the provider's box, whose inside is 100.64.0.0/10, translates what the router sends, or the host if there is no router.
	CGNAT *natmodel.Options
	// Model has the simulator's model translate even where the kernel's NAT behaves the same.
	Model bool
	// NoIPv4 leaves hosts without IPv4. BrokenIPv4 gives them addresses and a default route, and loses all their packets.
	NoIPv4, BrokenIPv4 bool
	IPv6               IPv6
	Block              Block
	// PortMapping has the router run miniupnpd: PCP, NAT-PMP and UPnP IGD.
	PortMapping bool
	// MTU of the cable between the site and the internet, in bytes; 0 for 1500. With BlackHole nobody says by ICMP that a packet was too big
	// for it.
	MTU       int
	BlackHole bool
	// Link shapes both directions of that cable; nil for as fast as the machine is. Seed decides about its chances.
	Link *linkmodel.Options
	Seed uint64
	// Isolated hosts of the site cannot reach each other at their internal addresses.
	Isolated bool
}

// IPv6 says what hosts have of it.
type IPv6 uint8

// Kinds of IPv6.
const (
	NoIPv6         IPv6 = iota
	OpenIPv6            // global addresses, nothing in the way
	FirewalledIPv6      // global addresses, and only replies come in
)

// Block says what the site's router lets out, of both families.
type Block uint8

// Kinds of blocks.
const (
	BlockNothing     Block = iota
	BlockUDP               // TCP and ICMP pass
	BlockAllBut443         // TCP to port 443 passes
	BlockAllButProxy       // nothing passes; a CONNECT proxy on the router does, to port 443
	CaptivePortal          // nothing passes and HTTP is answered by a portal, until Site.OpenPortal or a POST to the portal
)

// NAT is a kind of access with a name of its own: what tests and benchmarks pair with each other. All but None drop silently what they did
// not ask for.
type NAT int

// The kinds, in the terms of RFC 4787.
const (
	// None gives the host a public address.
	None NAT = iota
	// Easy maps endpoint-independently, keeps the port when it is free, and filters by address and port.
	Easy
	// Hard gives every destination another, random port.
	Hard
	// UDPBlocked lets TCP out and no UDP.
	UDPBlocked
	// EasyCGNAT and HardCGNAT are an easy router behind a provider's easy or hard NAT.
	EasyCGNAT
	HardCGNAT
	// SameNAT and SameNATHairpin put all hosts of the kind behind one easy NAT, on one LAN, without and with hairpinning.
	SameNAT
	SameNATHairpin
	// PortMapped is a hard NAT that maps ports on request.
	PortMapped
	// IPv6Firewalled has IPv6 that lets only replies in, and a hard NAT for IPv4: the direct path must be IPv6.
	IPv6Firewalled
	// BrokenV4 has IPv6, and IPv4 that leads nowhere.
	BrokenV4
	// TCP443Only lets nothing out but TCP to port 443.
	TCP443Only
	// ProxyOnly has no way out but an HTTP proxy.
	ProxyOnly
	// ShortTimeout is an easy NAT that forgets a silent mapping after 20 s.
	ShortTimeout
	kinds
)

// Kinds lists all of them.
func Kinds() []NAT {
	out := make([]NAT, kinds)
	for i := range out {
		out[i] = NAT(i)
	}
	return out
}

// String is the kind's name.
func (n NAT) String() string {
	names := [...]string{
		"none", "easy", "hard", "udp-blocked", "easy-cgnat", "hard-cgnat", "same-nat", "same-nat-hairpin", "portmapped",
		"ipv6-firewalled", "dual-stack-broken-v4", "443-only", "proxy-only", "short-timeout",
	}
	if n < 0 || int(n) >= len(names) {
		return fmt.Sprintf("unknown kind %d", int(n))
	}
	return names[n]
}

// ParseNAT finds a kind by its name.
func ParseNAT(name string) (NAT, error) {
	for _, n := range Kinds() {
		if n.String() == name {
			return n, nil
		}
	}
	return 0, fmt.Errorf("no kind of NAT is called %q; they are %v", name, Kinds())
}

// Access is what the kind means.
func (n NAT) Access() Access {
	easy, hard := natmodel.Easy, natmodel.Hard
	switch n {
	case Easy, SameNAT:
		return Access{NAT: easy()}
	case Hard:
		return Access{NAT: hard()}
	case UDPBlocked:
		return Access{NAT: easy(), Block: BlockUDP}
	case EasyCGNAT:
		return Access{NAT: easy(), CGNAT: easy()}
	case HardCGNAT:
		return Access{NAT: easy(), CGNAT: hard()}
	case SameNATHairpin:
		o := easy()
		o.Hairpin = true
		return Access{NAT: o}
	case PortMapped:
		return Access{NAT: hard(), PortMapping: true}
	case IPv6Firewalled:
		return Access{NAT: hard(), IPv6: FirewalledIPv6}
	case BrokenV4:
		return Access{NAT: easy(), BrokenIPv4: true, IPv6: OpenIPv6}
	case TCP443Only:
		return Access{NAT: easy(), Block: BlockAllBut443}
	case ProxyOnly:
		return Access{NAT: easy(), Block: BlockAllButProxy}
	case ShortTimeout:
		o := easy()
		o.Timeout = natmodel.ShortTimeout
		return Access{NAT: o}
	}
	return Access{}
}

// shared reports whether all hosts of the kind are at one site.
func (n NAT) shared() bool { return n == SameNAT || n == SameNATHairpin }

// check refuses what makes no sense.
func (a Access) check() error {
	switch {
	case a.NoIPv4 && a.IPv6 == NoIPv6:
		return errors.New("neither IPv4 nor IPv6")
	case a.NoIPv4 && (a.NAT != nil || a.CGNAT != nil || a.BrokenIPv4 || a.PortMapping):
		return errors.New("without IPv4 there is nothing to translate")
	case a.PortMapping && (a.NAT == nil || a.CGNAT != nil):
		return errors.New("port mapping needs one NAT")
	case a.PortMapping && a.modelled(a.NAT):
		return errors.New("port mapping works only with the kernel's NAT")
	case a.MTU != 0 && (a.MTU < 1280 || a.MTU > 1500):
		return fmt.Errorf("an MTU of %d; want 1280 to 1500", a.MTU)
	case a.BlackHole && a.MTU == 0:
		return errors.New("a black hole needs an MTU")
	case a.CGNAT != nil && a.NAT == nil && a.router():
		return errors.New("behind a CGNAT the router needs a NAT of its own")
	}
	if a.Link != nil {
		if err := a.Link.Check(); err != nil {
			return err
		}
	}
	for _, o := range []*natmodel.Options{a.NAT, a.CGNAT} {
		if o != nil && o.Mapping == natmodel.NoMapping {
			return errors.New("a NAT must map; leave it nil if it is not to")
		}
	}
	return nil
}

// router reports whether a box is needed at the site.
func (a Access) router() bool {
	return a.NAT != nil || a.BrokenIPv4 || a.Block != BlockNothing || a.MTU != 0 || a.IPv6 == FirewalledIPv6
}

// modelled reports whether the simulator's model runs a NAT, rather than the kernel.
func (a Access) modelled(o *natmodel.Options) bool { return o != nil && (a.Model || !expressible(o)) }

// expressible reports whether the kernel's NAT behaves like that: it maps endpoint-independently only because it keeps ports.
func expressible(o *natmodel.Options) bool {
	if o.Filtering != natmodel.FilterAddressAndPort || o.Hairpin || o.NoUDP || o.OutboundRefresh || o.Timeout%time.Second != 0 {
		return false
	}
	return o.Mapping == natmodel.EndpointIndependent && o.Ports == natmodel.PreservePort ||
		o.Mapping == natmodel.AddressAndPortDependent && o.Ports == natmodel.RandomPort
}
