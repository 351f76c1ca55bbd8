package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"warren/internal/sim/natmodel"
)

// Site is a place with one way to the internet, which its hosts share.
type Site struct {
	Name   string
	Access Access

	lab           *Lab
	n             int // its number among the sites
	inside        *segment
	public        netip.Addr
	proxy         string
	router, cgnat *Host // nil if there is none
	models        []*model
}

// prefixes of site n. Outside are the internet's end (first address) and the site's; what is behind a router is routed there.
func outside4(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(4 * n)}), 30)
}

// mapped4 is outside4 for routers with miniupnpd, which refuses to work with documentation addresses.
func mapped4(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{128, 66, byte(n), 0}), 30)
}
func routed4(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(4 * n)}), 30)
}
func lan4(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(n + 1), 0}), 24)
}
func cgnat4(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, byte(n), 0}), 24)
}

// pool4 is the external address of a box that runs the model, and providerPool4 of one behind such a box: routed to it, not its own.
func pool4(n int) netip.Addr         { return netip.AddrFrom4([4]byte{192, 0, 2, byte(n + 1)}) }
func providerPool4(n int) netip.Addr { return netip.AddrFrom4([4]byte{100, 64, byte(n), 254}) }

// site6 is a /64 of the site's 2001:db8:N::/48: 0 of the LAN, 1 behind the provider's box. outside6 joins it to the internet.
func site6(n, net int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, byte(n), 0, byte(net)}), 64)
}
func outside6(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0xff, 0xff, 0, byte(n)}), 64)
}

const (
	wanName = "wan"
	lanName = "lan"
)

// Site adds a place with its boxes and no hosts.
func (l *Lab) Site(name string, a Access) (*Site, error) {
	if err := a.check(); err != nil {
		return nil, fmt.Errorf("site %s: %w", name, err)
	}
	if l.count >= maxHosts {
		return nil, fmt.Errorf("a lab has room for %d sites", maxHosts)
	}
	s := &Site{Name: name, Access: a, lab: l, n: l.count}
	l.count++
	s.inside = &segment{owner: l.internet, v4: outside4(s.n), v6: outside6(s.n), mtu: a.MTU, link: a.Link, seed: a.Seed}
	if a.PortMapping {
		s.inside.v4 = mapped4(s.n)
	}
	if a.NoIPv4 {
		s.inside.v4 = netip.Prefix{}
	}
	if a.IPv6 == NoIPv6 {
		s.inside.v6 = netip.Prefix{}
	}
	if a.CGNAT != nil {
		if err := s.addCGNAT(); err != nil {
			return nil, err
		}
	}
	if a.router() {
		if err := s.addRouter(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// addBox puts a box between the site and what it was plugged into. v4 and v6 are its inside, and routed4 tells whether the former is routed
// there rather than translated.
func (s *Site) addBox(name string, v4, v6 netip.Prefix, routed4 bool) (*Host, error) {
	box, err := s.lab.newHost(name)
	if err != nil {
		return nil, err
	}
	outer := s.inside
	up, err := outer.plug(box, wanName, 0)
	if err != nil {
		return nil, err
	}
	if !outer.v4.IsValid() {
		v4 = netip.Prefix{}
	}
	if !outer.v6.IsValid() {
		v6 = netip.Prefix{}
	}
	box.Uplinks = []*Uplink{up}
	if !s.public.IsValid() {
		s.public = up.Addr4
	}
	if s.inside, err = newLAN(box, v4, v6, s.Access.Isolated); err != nil {
		return nil, err
	}
	if v6.IsValid() {
		whole := netip.PrefixFrom(site6(s.n, 0).Addr(), 48)
		err = errors.Join(err, outer.owner.route(whole, up.Addr6))
	}
	if routed4 && v4.IsValid() {
		s.public = netip.Addr{}
		err = errors.Join(err, outer.owner.route(v4, up.Addr4))
	}
	return box, errors.Join(err, box.forward())
}

func (s *Site) addCGNAT() (err error) {
	if s.cgnat, err = s.addBox(s.Name+"'s CGNAT", cgnat4(s.n), site6(s.n, 1), false); err != nil {
		return err
	}
	r := rules{nat: s.Access.CGNAT, ipv6: OpenIPv6}
	if r.model = s.Access.modelled(r.nat); r.model {
		err = s.addModel(s.cgnat, r.nat, pool4(s.n), s.lab.internet)
	}
	return errors.Join(err, s.cgnat.applyRules(r))
}

// addModel has a box translate by the simulator's model, to an address that the box does not have: outer routes it there.
func (s *Site) addModel(box *Host, o *natmodel.Options, external netip.Addr, outer *Host) error {
	m, err := box.startModel(o, s.inside.v4, external, uint64(s.n))
	if err != nil {
		return err
	}
	s.models = append(s.models, m)
	if outer == s.lab.internet {
		s.public = external
	}
	return outer.route(netip.PrefixFrom(external, 32), box.Uplinks[0].Addr4)
}

func (s *Site) addRouter() (err error) {
	a := s.Access
	inside := lan4(s.n)
	routed := a.NAT == nil
	if routed {
		inside = routed4(s.n)
	}
	if s.router, err = s.addBox(s.Name+"'s NAT", inside, site6(s.n, 0), routed); err != nil {
		return err
	}
	if a.modelled(a.NAT) {
		external, outer := pool4(s.n), s.lab.internet
		if s.cgnat != nil {
			external, outer = providerPool4(s.n), s.cgnat
		}
		if err := s.addModel(s.router, a.NAT, external, outer); err != nil {
			return err
		}
	}
	if err := s.router.applyRules(s.rules()); err != nil {
		return err
	}
	if a.BlackHole {
		outermost := s.router
		if s.cgnat != nil {
			outermost = s.cgnat
		}
		if err := errors.Join(outermost.swallow(a.MTU), s.lab.internet.swallow(a.MTU)); err != nil {
			return err
		}
	}
	switch {
	case a.Block == BlockAllButProxy:
		s.proxy, err = s.startProxy()
	case a.Block == CaptivePortal:
		err = s.startPortal()
	case a.PortMapping:
		err = s.startPortMapper()
	}
	return err
}

func (s *Site) rules() rules {
	a := s.Access
	return rules{nat: a.NAT, model: a.modelled(a.NAT), ipv6: a.IPv6, block: a.Block, brokenIPv4: a.BrokenIPv4, portMapping: a.PortMapping}
}

// Router is the site's own box, nil if it has none: a host like others, where programs can run.
func (s *Site) Router() *Host { return s.router }

// Provider is the CGNAT box, nil if there is none.
func (s *Site) Provider() *Host { return s.cgnat }

// Host adds a host to the site.
func (s *Site) Host(name string) (*Host, error) { return s.lab.HostAt(name, s) }

// plug gives a host an uplink of the site. Where there is no box each gets a cable to the internet of its own.
func (s *Site) plug(h *Host, link string, metric int) (*Uplink, error) {
	if s.router == nil && s.cgnat == nil && s.inside.used > 0 {
		other, err := s.lab.Site(s.Name, s.Access)
		if err != nil {
			return nil, err
		}
		return other.plug(h, link, metric)
	}
	u, err := s.inside.plug(h, link, metric)
	if err != nil {
		return nil, err
	}
	if s.public.IsValid() {
		u.Public4 = s.public
	}
	u.Proxy, u.site = s.proxy, s
	return u, nil
}

// Move takes a host's cables out, deletes their interfaces, and plugs it in at another site, as eth0: another address, gateway and NAT. Hosts of
// several uplinks have one afterwards.
func (h *Host) Move(to *Site) error {
	for _, u := range h.Uplinks {
		link, err := h.handle.LinkByName(u.Link)
		if err == nil {
			err = h.handle.LinkDel(link)
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", h.Name, u.Link, err)
		}
	}
	h.Uplinks = nil
	u, err := to.plug(h, "eth0", 0)
	if err != nil {
		return err
	}
	h.Uplinks = []*Uplink{u}
	h.Addr, h.Addr6, h.Public, h.proxy = u.Addr4, u.Addr6, u.Public4, u.Proxy
	return nil
}
