package router

import (
	"errors"
	"fmt"
	"net/netip"
)

// maxPrefixes bounds each list of a State: a device's network maps are bounded before they come here, so that more is a mistake.
const maxPrefixes = 65536

// check refuses a State that makes no sense, before anything of it is applied.
func (s State) check() error {
	var errs []error
	for what, list := range map[string][]netip.Prefix{
		"network": s.Network, "route": s.Routes, "local": s.Local, "kill switch": s.KillSwitchLAN,
	} {
		if len(list) > maxPrefixes {
			errs = append(errs, fmt.Errorf("%d prefixes of kind %q: at most %d", len(list), what, maxPrefixes))
		}
		for _, p := range list {
			errs = append(errs, checkPrefix(what, p))
		}
	}
	for _, p := range s.Addresses {
		if !p.IsValid() || !p.IsSingleIP() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
			errs = append(errs, fmt.Errorf("address %s: a device's own is of full length", p))
		}
	}
	return errors.Join(append(errs, checkAddrs("DNS server", s.DNS), onePerFamily(s.DNS), checkAddrs("probe", s.Probes), checkCarried(s.Carried))...)
}

func checkPrefix(what string, p netip.Prefix) error {
	switch {
	case !p.IsValid() || p.Addr().Is4In6():
		return fmt.Errorf("%s %s: not a prefix", what, p)
	case p != p.Masked():
		return fmt.Errorf("%s %s has host bits: it is %s", what, p, p.Masked())
	}
	return nil
}

func checkAddrs(what string, list []netip.Addr) error {
	for _, a := range list {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("%s %s: not an address of one device", what, a)
		}
	}
	return nil
}

func onePerFamily(list []netip.Addr) error {
	for i, a := range list {
		for _, b := range list[:i] {
			if a.Is4() == b.Is4() {
				return fmt.Errorf("DNS servers %s and %s: at most one of each family", b, a)
			}
		}
	}
	return nil
}

func checkCarried(list []Carried) error {
	var errs []error
	byPrefix, byLAN := make(map[netip.Prefix]bool), make(map[netip.Prefix]netip.Prefix)
	for _, c := range list {
		lan := c.lan()
		if err := errors.Join(checkPrefix("carried", c.Prefix), checkPrefix("LAN of "+c.Prefix.String(), lan)); err != nil {
			errs = append(errs, err)
			continue
		}
		if c.Prefix.Bits() == 0 {
			errs = append(errs, fmt.Errorf("carried %s: all addresses are for an exit node", c.Prefix))
		}
		if lan.Bits() != c.Prefix.Bits() || lan.Addr().Is4() != c.Prefix.Addr().Is4() {
			errs = append(errs, fmt.Errorf("carried %s cannot be translated to %s one to one: choose two of the same length and family", c.Prefix, lan))
		}
		if byPrefix[c.Prefix] {
			errs = append(errs, fmt.Errorf("carried %s: twice", c.Prefix))
		} else if other, ok := byLAN[lan]; ok {
			errs = append(errs, fmt.Errorf("LAN %s is carried twice, as %s and as %s: choose one", lan, other, c.Prefix))
		}
		byPrefix[c.Prefix], byLAN[lan] = true, c.Prefix
	}
	return errors.Join(errs...)
}

// lan is what is really there.
func (c Carried) lan() netip.Prefix {
	if c.LAN.IsValid() {
		return c.LAN
	}
	return c.Prefix
}

// translated reports whether the two sides differ.
func (c Carried) translated() bool { return c.lan() != c.Prefix }

// exits are the families whose default route leads into the tunnel.
func (s State) exits() (f Families) {
	for _, p := range s.Routes {
		if p.Bits() == 0 {
			f.IPv4, f.IPv6 = f.IPv4 || p.Addr().Is4(), f.IPv6 || p.Addr().Is6()
		}
	}
	return f
}

// gateway reports whether packets of others are forwarded between the tunnel and a LAN, by family.
func (s State) gateway() (f Families) {
	f = s.Exit
	for _, c := range s.Carried {
		f.IPv4, f.IPv6 = f.IPv4 || c.Prefix.Addr().Is4(), f.IPv6 || c.Prefix.Addr().Is6()
	}
	return f
}

// narrow are the network's prefixes and the routes but the default, of a's family.
func (s State) narrow(a netip.Addr) (out []netip.Prefix) {
	seen := make(map[netip.Prefix]bool)
	for _, list := range [][]netip.Prefix{s.Network, s.Routes} {
		for _, p := range list {
			if p.Bits() > 0 && p.Addr().Is4() == a.Is4() && !seen[p] {
				seen[p] = true
				out = append(out, p)
			}
		}
	}
	return out
}
