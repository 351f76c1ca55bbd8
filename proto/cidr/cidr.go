// Package cidr holds what a device may carry for others besides its own addresses: the CIDRs of --advertise and --site, and how each is carried.
//
// A command line calls Parse with all that was given. Who gets Routes from elsewhere, as the coordinator does, calls CheckAll, which makes the same
// demands. Every error says what to write instead.
package cidr

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

const (
	// MaxRoutes is how many one device may carry.
	MaxRoutes = 1024
	// MinBits4 and MinBits6 are the lengths of the widest CIDRs that are no exit: 10.0.0.0/8 is as wide as private networks get (RFC 1918), and no
	// registry gives away an IPv6 block of a /16. Whoever wants more wants an exit node.
	MinBits4, MinBits6 = 8, 16
)

// Kind is how a gateway carries a CIDR.
type Kind uint8

// The kinds.
const (
	// Masqueraded has the gateway's address in the LAN as the source of what comes out of the tunnel, so that hosts there need no route.
	Masqueraded Kind = iota
	// Site keeps the addresses both ways.
	Site
	// Translated shows the LAN under another CIDR of the same length, address by address.
	Translated
	// Exit is all addresses of a family.
	Exit
)

// String is as in JSON.
func (k Kind) String() string {
	switch k {
	case Masqueraded:
		return "masqueraded"
	case Site:
		return "site"
	case Translated:
		return "translated"
	case Exit:
		return "exit"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Route is one CIDR that a device carries.
type Route struct {
	Kind Kind
	// Prefix is what the other devices use, and what the policy speaks of.
	Prefix netip.Prefix
	// LAN is what the network behind the gateway uses. It is Prefix, unless translated.
	LAN netip.Prefix
}

// String is as it is written on a command line; of an exit, the prefix.
func (r Route) String() string {
	if r.Kind == Translated {
		return r.LAN.String() + "=" + r.Prefix.String()
	}
	return r.Prefix.String()
}

// flag is what a person gives such a route with.
func (r Route) flag() string {
	switch r.Kind {
	case Site:
		return "--site"
	case Exit:
		return "--advertise-exit"
	}
	return "--advertise"
}

// Exits are the routes of an exit node.
func Exits() []Route {
	v4, v6 := netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	return []Route{{Exit, v4, v4}, {Exit, v6, v6}}
}

// Parse reads the values of --advertise and --site, and adds Exits where exit is set. Overlay are the network's own prefixes; none, if they are not
// known yet. The result is sorted.
func Parse(advertise, site []string, exit bool, overlay []netip.Prefix) ([]Route, error) {
	var out []Route
	for _, s := range advertise {
		r, err := ParseAdvertise(s)
		if err != nil {
			return nil, fmt.Errorf("--advertise: %w", err)
		}
		out = append(out, r)
	}
	for _, s := range site {
		r, err := ParseSite(s)
		if err != nil {
			return nil, fmt.Errorf("--site: %w", err)
		}
		out = append(out, r)
	}
	if exit {
		out = append(out, Exits()...)
	}
	if err := CheckAll(out, overlay); err != nil {
		return nil, err
	}
	Sort(out)
	return out, nil
}

// ParseAdvertise reads one value of --advertise: 192.168.10.0/24, or 192.168.1.0/24=10.77.1.0/24 for a LAN that others are to see under another CIDR.
// It does not know the network's prefixes: CheckAll compares with them.
func ParseAdvertise(s string) (Route, error) {
	left, right, translated := strings.Cut(s, "=")
	lan, err := ParsePrefix(left)
	if err != nil {
		return Route{}, err
	}
	if !translated {
		return Route{Masqueraded, lan, lan}, nil
	}
	p, err := ParsePrefix(right)
	if err != nil {
		return Route{}, fmt.Errorf("behind the =, %w", err)
	}
	r := Route{Translated, p, lan}
	return r, r.checkTranslation()
}

// ParseSite reads one value of --site, such as 10.1.0.0/16.
func ParseSite(s string) (Route, error) {
	if strings.Contains(s, "=") {
		return Route{}, fmt.Errorf("%.90q: a site keeps its addresses; to show it under others, use --advertise %.90s", s, s)
	}
	p, err := ParsePrefix(s)
	return Route{Site, p, p}, err
}

// ParsePrefix reads a CIDR that a gateway may carry.
func ParsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			a = a.Unmap()
			return p, fmt.Errorf("%s is an address: write %s/%d for that host alone, or the CIDR of its network", s, a, a.BitLen())
		}
		return p, fmt.Errorf("%.60q is not a CIDR: write one such as 192.168.10.0/24 or fd12:3456:789a::/48", s)
	}
	return p, CheckPrefix(p)
}

// CheckPrefix accepts what ParsePrefix does.
func CheckPrefix(p netip.Prefix) error {
	switch a := p.Addr(); {
	case !p.IsValid():
		return fmt.Errorf("the CIDR is malformed: give an address and a length that its family allows")
	case a.Is4In6() && p.Bits() >= 96:
		return fmt.Errorf("%s is an IPv4 CIDR mapped into IPv6: write %s", p, netip.PrefixFrom(a.Unmap(), p.Bits()-96).Masked())
	case a.Is4In6():
		return fmt.Errorf("%s is wider than the IPv4 addresses mapped into IPv6: write an IPv4 or an IPv6 CIDR", p)
	case p.Bits() == 0:
		return fmt.Errorf("%s is the default route: use --advertise-exit to carry all traffic", p)
	case p != p.Masked():
		return fmt.Errorf("%s has bits set beyond its length: write %s, or %s/%d for that host alone", p, p.Masked(), a, a.BitLen())
	}
	bits := MinBits6
	if p.Addr().Is4() {
		bits = MinBits4
	}
	if p.Bits() < bits {
		return fmt.Errorf("%s is too wide: /%d is the widest; give the CIDRs that are really there, or use --advertise-exit to carry all traffic",
			p, bits)
	}
	for _, s := range reserved {
		if p.Overlaps(s.prefix) {
			return fmt.Errorf("%s %s: %s", p, s.is, s.instead)
		}
	}
	return nil
}

const theirs = "give the CIDR of the network behind this device"

// reserved are the blocks that mean something of their own to every host (RFC 6890), so that no gateway can carry them.
var reserved = []struct {
	prefix      netip.Prefix
	is, instead string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "holds addresses that mean “this host” (0.0.0.0/8)", theirs},
	{netip.MustParsePrefix("127.0.0.0/8"), "is loopback (127.0.0.0/8), which each host keeps to itself", theirs},
	{netip.MustParsePrefix("169.254.0.0/16"), "holds link-local addresses (169.254.0.0/16), which routers do not forward", theirs},
	{netip.MustParsePrefix("224.0.0.0/4"), "is multicast (224.0.0.0/4), which the tunnel does not carry", "give the CIDR of the hosts, not of their groups"},
	{netip.MustParsePrefix("240.0.0.0/4"), "is reserved (240.0.0.0/4)", theirs},
	{netip.MustParsePrefix("::/16"), "holds loopback and mapped addresses (::/16)", theirs},
	{netip.MustParsePrefix("fe80::/10"), "holds link-local addresses (fe80::/10), which routers do not forward",
		"give the network's global or unique local CIDR, which begins with 2, 3 or fd"},
	{netip.MustParsePrefix("ff00::/8"), "is multicast (ff00::/8), which the tunnel does not carry", "give the CIDR of the hosts, not of their groups"},
}

// Sort puts routes into the order of their prefixes.
func Sort(routes []Route) {
	slices.SortFunc(routes, func(a, b Route) int { return a.Prefix.Compare(b.Prefix) })
}
