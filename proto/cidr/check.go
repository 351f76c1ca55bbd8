package cidr

import (
	"fmt"
	"net/netip"
	"slices"
)

// Check accepts a route by itself.
func (r Route) Check() error {
	switch r.Kind {
	case Exit:
		if !slices.Contains(Exits(), r) {
			return fmt.Errorf("an exit carries 0.0.0.0/0 and ::/0, not %s", r.Prefix)
		}
		return nil
	case Masqueraded, Site:
		if r.LAN != r.Prefix {
			return fmt.Errorf("%s is not translated, and yet is %s in the LAN: use --advertise %s=%s", r.Prefix, r.LAN, r.LAN, r.Prefix)
		}
		return CheckPrefix(r.Prefix)
	case Translated:
		if err := CheckPrefix(r.LAN); err != nil {
			return err
		}
		if err := CheckPrefix(r.Prefix); err != nil {
			return fmt.Errorf("behind the =, %w", err)
		}
		return r.checkTranslation()
	}
	return fmt.Errorf("%s is to be carried in a way that is not known (%s): is the other side newer?", r.Prefix, r.Kind)
}

// checkTranslation compares the two sides.
func (r Route) checkTranslation() error {
	switch {
	case r.LAN.Addr().Is4() != r.Prefix.Addr().Is4():
		return fmt.Errorf("%s translates between IPv4 and IPv6: both sides must be of one family", r)
	case r.LAN.Bits() != r.Prefix.Bits():
		return fmt.Errorf("%s: both sides must have one length, since each address gets one other: write %s=%s", r, r.LAN,
			netip.PrefixFrom(r.Prefix.Addr(), r.LAN.Bits()).Masked())
	case r.LAN == r.Prefix:
		return fmt.Errorf("%s translates to itself: write %s", r, r.LAN)
	}
	return nil
}

// CheckAll accepts the routes that one device is to carry, all together: each by itself, none in the way of another, and none in the way of the
// overlay's prefixes.
func CheckAll(routes []Route, overlay []netip.Prefix) error {
	if len(routes) > MaxRoutes {
		return fmt.Errorf("%d CIDRs, more than %d: join neighbours to wider ones", len(routes), MaxRoutes)
	}
	for _, r := range routes {
		if err := r.Check(); err != nil {
			return err
		}
		if r.Kind == Exit {
			continue
		}
		for _, o := range overlay {
			if err := checkOverlay(r, o); err != nil {
				return err
			}
		}
	}
	return checkApart(routes)
}

// checkOverlay refuses a route that is mixed up with the addresses of the devices themselves.
func checkOverlay(r Route, o netip.Prefix) error {
	switch {
	case r.Prefix.Overlaps(o) && r.Prefix.Bits() < o.Bits():
		return fmt.Errorf("%s holds the network's own prefix %s: give the parts beside it, %s", r, o, beside(r.Prefix, o))
	case r.Prefix.Overlaps(o) && r.Kind == Translated:
		return fmt.Errorf("%s: %s is in the network's own prefix %s: translate to a CIDR outside it", r, r.Prefix, o)
	case r.Prefix.Overlaps(o):
		return fmt.Errorf("%s is in the network's own prefix %s, whose addresses are devices': give the LAN's own CIDR, "+
			"or choose another prefix for the network", r, o)
	case r.LAN.Overlaps(o):
		return fmt.Errorf("%s: the LAN %s has addresses of the network's own prefix %s, so that this device cannot reach it: "+
			"choose another prefix for the network", r, r.LAN, o)
	}
	return nil
}

// beside lists what is left of p without o, which is a part of it, the greatest first.
func beside(p, o netip.Prefix) string {
	const most = 3
	var out string
	n := 0
	for bits := p.Bits() + 1; bits <= o.Bits(); bits, n = bits+1, n+1 {
		if n == most {
			return out + " and so on"
		}
		if n > 0 {
			out += ", "
		}
		out += sibling(netip.PrefixFrom(o.Addr(), bits).Masked()).String()
	}
	return out
}

// sibling is the other half of what p is one half of.
func sibling(p netip.Prefix) netip.Prefix {
	b := p.Addr().AsSlice()
	last := p.Bits() - 1
	b[last/8] ^= 0x80 >> (last % 8)
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, p.Bits())
}

// side is one of the CIDRs that a route is about.
type side struct {
	netip.Prefix
	of Route
}

// checkApart refuses CIDRs of which one holds another, on either side of a translation: which of the two a packet is for would be unclear.
func checkApart(routes []Route) error {
	var all []side
	for _, r := range routes {
		all = append(all, side{r.Prefix, r})
		if r.LAN != r.Prefix {
			all = append(all, side{r.LAN, r})
		}
	}
	// By address, the wider first: whatever holds others holds the one right behind it. An exit holds everything and is beside the matter.
	slices.SortStableFunc(all, func(a, b side) int { return a.Prefix.Compare(b.Prefix) })
	exits := map[netip.Prefix]bool{}
	var last side
	for _, s := range all {
		if s.of.Kind == Exit {
			if exits[s.Prefix] {
				return fmt.Errorf("%s is given twice: give --advertise-exit once", s.Prefix)
			}
			exits[s.Prefix] = true
			continue
		}
		if last.IsValid() && last.Overlaps(s.Prefix) {
			return clash(last, s)
		}
		last = s
	}
	return nil
}

// clash says what is wrong with a, which is as wide as b or holds it.
func clash(a, b side) error {
	switch {
	case a.of == b.of:
		return fmt.Errorf("%s %s is given twice: give it once", a.of.flag(), a.of)
	case a.of.Kind == Translated || b.of.Kind == Translated:
		return fmt.Errorf("%s %s and %s %s: %s is in both, on either side: translate to a CIDR that nothing else uses, and give each LAN once",
			a.of.flag(), a.of, b.of.flag(), b.of, b.Prefix)
	case a.Prefix == b.Prefix:
		return fmt.Errorf("%s is given by %s and by %s: choose --site to keep the addresses of clients, --advertise to hide them behind this device",
			a.Prefix, a.of.flag(), b.of.flag())
	}
	return fmt.Errorf("%s %s is a part of %s %s: leave one of them out", b.of.flag(), b.of, a.of.flag(), a.of)
}
