package lab

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"warren/internal/sim/linkmodel"
)

// segment is where hosts can be plugged in: one of the internet's ports, or the LAN of a box.
type segment struct {
	owner *Host
	// v4 and v6 are its prefixes, invalid if it lacks the family; the owner has the first address of each.
	v4, v6 netip.Prefix
	// lan is the bridge that cables join; "" gives the owner's end of the only cable the addresses.
	lan      string
	isolated bool
	used     int // hosts so far
	mtu      int
	link     *linkmodel.Options // nil: a plain cable
	seed     uint64
}

const (
	defaultMTU  = 1500
	metricSteps = 100 // between the default routes of a host's uplinks
)

// Uplink is one of a host's ways out.
type Uplink struct {
	// Link is the interface, "eth0" for the first.
	Link string
	// Addr4 and Addr6 are the host's addresses there, invalid if it has none. Public4 is the IPv4 address that the internet sees.
	Addr4, Addr6, Public4 netip.Addr
	// Proxy is the URL of the HTTP proxy that is the only way out, or "".
	Proxy string

	gateway4, gateway6 netip.Addr
	metric             int
	segment            *segment // what it is plugged into, and at which of its owner's interfaces
	port               string
	site               *Site
}

// nth gives the prefix's address number i, the gateway being 1.
func nth(p netip.Prefix, i int) netip.Prefix {
	a := p.Masked().Addr()
	for range i {
		a = a.Next()
	}
	return netip.PrefixFrom(a, p.Bits())
}

// addBridge makes the bridge that joins a LAN's cables. Its link-layer address is set and not left to the kernel, which would take that of a port and
// another whenever a port comes or goes: the hosts would send to the old one until they doubt it, over IPv6 for up to half a minute.
func (h *Host) addBridge() error {
	mac := net.HardwareAddr(make([]byte, 6))
	rand.Read(mac)
	mac[0] = mac[0]&^1 | 2 // of one host, locally administered
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: lanName, MTU: defaultMTU, TxQLen: 1000, HardwareAddr: mac}}
	if err := h.handle.LinkAdd(bridge); err != nil {
		return fmt.Errorf("%s: bridge: %w", h.Name, err)
	}
	return nil
}

// newLAN makes the bridge that a box's hosts share.
func newLAN(box *Host, v4, v6 netip.Prefix, isolated bool) (*segment, error) {
	if err := box.addBridge(); err != nil {
		return nil, err
	}
	s := &segment{owner: box, v4: v4, v6: v6, lan: lanName, isolated: isolated}
	return s, box.raise(lanName, nth(v4, 1), nth(v6, 1))
}

// plug connects a host's interface to the segment and gives it the segment's next addresses and default routes through the owner.
func (s *segment) plug(h *Host, link string, metric int) (*Uplink, error) {
	port := fmt.Sprintf("to%d", s.owner.ports)
	s.owner.ports++
	s.used++
	at := func(p netip.Prefix, i int) netip.Prefix {
		if !p.IsValid() {
			return p
		}
		return nth(p, i)
	}
	own4, own6 := at(s.v4, 1+s.used), at(s.v6, 1+s.used)
	if own4.IsValid() && !s.v4.Contains(nth(s.v4, 2+s.used).Addr()) { // the last one is for broadcasts
		return nil, fmt.Errorf("%s has no room for %s: %s is full", s.owner.Name, h.Name, s.v4)
	}
	if err := s.cable(h, link, port); err != nil {
		return nil, err
	}
	err := h.raise(link, own4, own6)
	if s.lan == "" {
		err = errors.Join(err, s.owner.raise(port, at(s.v4, 1), at(s.v6, 1)), s.owner.awaitUp(port))
	} else {
		err = errors.Join(err, s.owner.raise(port), s.owner.awaitUp(port), s.join(port), s.owner.awaitUp(s.lan))
	}
	u := &Uplink{
		Link: link, Addr4: own4.Addr(), Addr6: own6.Addr(), Public4: own4.Addr(),
		gateway4: at(s.v4, 1).Addr(), gateway6: at(s.v6, 1).Addr(), metric: metric, segment: s, port: port,
	}
	return u, errors.Join(err, h.awaitUp(link), h.awaitAddresses(u), h.defaultRoutes(u))
}

// awaitUp waits until an interface carries packets. The kernel sees to that a little after both ends of a cable were set up, and loses what is sent
// before: an ARP request, and with it the first second.
func (h *Host) awaitUp(name string) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 2000 {
		link, err := h.handle.LinkByName(name)
		// Devices of programs do not say.
		if err != nil || link.Attrs().OperState == netlink.OperUp || link.Attrs().OperState == netlink.OperUnknown {
			return err
		}
		<-tick.C
	}
	return fmt.Errorf("%s: %s does not come up", h.Name, name)
}

// awaitAddresses waits until the uplink's IPv6 address can be used. While an interface is down it counts as not checked for duplicates, and even
// without such checks the kernel takes it back only some time after the interface is up: a connection that is made before has the source address of
// another uplink and hangs, and answers to what was sent before are for nobody.
func (h *Host) awaitAddresses(u *Uplink) error {
	if !u.Addr6.IsValid() {
		return nil
	}
	link, err := h.handle.LinkByName(u.Link)
	if err != nil {
		return err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 10_000 {
		ready, err := h.addressReady(link, u.Addr6)
		if ready || err != nil {
			return err
		}
		<-tick.C
	}
	return fmt.Errorf("%s: the address %s of %s does not come back", h.Name, u.Addr6, u.Link)
}

// addressReady reports whether an IPv6 address of a link is no longer tentative and packets to it are the host's own.
func (h *Host) addressReady(link netlink.Link, a netip.Addr) (bool, error) {
	addrs, err := h.handle.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return false, err
	}
	if slices.ContainsFunc(addrs, func(o netlink.Addr) bool { return o.IP.Equal(a.AsSlice()) && o.Flags&unix.IFA_F_TENTATIVE != 0 }) {
		return false, nil
	}
	own := netlink.Route{Table: unix.RT_TABLE_LOCAL, Dst: ipNet(netip.PrefixFrom(a, 128))}
	routes, err := h.handle.RouteListFiltered(netlink.FAMILY_V6, &own, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
	return len(routes) > 0, err
}

// awaitPort waits until the owner's end of a cable carries packets.
func (s *segment) awaitPort(port string) error {
	err := s.owner.awaitUp(port)
	if s.lan != "" {
		err = errors.Join(err, s.owner.awaitUp(s.lan))
	}
	return err
}

// join makes a port, which is up, part of the segment's bridge.
func (s *segment) join(port string) error {
	bridge, err := s.owner.handle.LinkByName(s.lan)
	if err != nil {
		return err
	}
	link, err := s.owner.handle.LinkByName(port)
	if err != nil {
		return err
	}
	if err := s.owner.handle.LinkSetMaster(link, bridge); err != nil {
		return err
	}
	if s.isolated {
		if err := s.owner.handle.LinkSetIsolated(link, true); err != nil {
			return err
		}
	}
	return nil
}

// cable joins a host to the segment's owner.
func (s *segment) cable(h *Host, link, port string) error {
	if s.link == nil {
		return plainCable(h, link, s.owner, port, s.mtu)
	}
	if err := shapedCable(h, link, s.owner, port, *s.link, s.seed); err != nil || s.mtu == 0 {
		return err
	}
	return errors.Join(h.setMTU(link, s.mtu), s.owner.setMTU(port, s.mtu))
}

func (h *Host) setMTU(name string, mtu int) error {
	link, err := h.handle.LinkByName(name)
	if err != nil {
		return err
	}
	return h.handle.LinkSetMTU(link, mtu)
}

// plainCable joins two hosts by a pair of interfaces.
func plainCable(a *Host, aName string, b *Host, bName string, mtu int) error {
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: aName, MTU: mtu, TxQLen: 1000}, PeerName: bName,
		PeerNamespace: netlink.NsFd(b.ns.Fd()), PeerMTU: uint32(mtu),
	}
	if mtu == 0 {
		veth.MTU, veth.PeerMTU = defaultMTU, defaultMTU
	}
	if err := a.handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("cable between %s and %s: %w", a.Name, b.Name, err)
	}
	return nil
}

// raise sets an interface up with those of the addresses that are valid.
func (h *Host) raise(name string, addrs ...netip.Prefix) error {
	link, err := h.handle.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if !a.IsValid() {
			continue
		}
		if err := h.handle.AddrAdd(link, &netlink.Addr{IPNet: ipNet(a)}); err != nil {
			return fmt.Errorf("%s: address %s: %w", h.Name, a, err)
		}
	}
	return h.handle.LinkSetUp(link)
}

// defaultRoutes lead to the uplink's gateways. The first uplink is preferred, as the metrics say.
func (h *Host) defaultRoutes(u *Uplink) error {
	link, err := h.handle.LinkByName(u.Link)
	if err != nil {
		return err
	}
	for _, gw := range []netip.Addr{u.gateway4, u.gateway6} {
		if !gw.IsValid() {
			continue
		}
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gw.AsSlice(), Priority: u.metric}
		if gw.Is6() {
			r.Priority += 1024 // the kernel takes 0 for this, and does not prefer it
		}
		if err := h.handle.RouteReplace(r); err != nil {
			return fmt.Errorf("%s: default route by %s: %w", h.Name, gw, err)
		}
	}
	return nil
}

// route has the host send what is for a prefix to a neighbour.
func (h *Host) route(to netip.Prefix, via netip.Addr) error {
	if err := h.handle.RouteReplace(&netlink.Route{Dst: ipNet(to), Gw: via.AsSlice()}); err != nil {
		return fmt.Errorf("%s: route to %s: %w", h.Name, to, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Unplug takes the host off the network, by all its uplinks or those that are named; Plug puts it back.
func (h *Host) Unplug(links ...string) error { return h.set(false, links) }

// Plug undoes Unplug.
func (h *Host) Plug(links ...string) error { return h.set(true, links) }

func (h *Host) set(up bool, links []string) error {
	for _, u := range h.Uplinks {
		if len(links) > 0 && !slices.Contains(links, u.Link) {
			continue
		}
		link, err := h.handle.LinkByName(u.Link)
		if err != nil {
			return err
		}
		if !up {
			err = h.handle.LinkSetDown(link)
		} else if err = h.handle.LinkSetUp(link); err == nil {
			// Taking a link down takes its routes away, and the bridge at its other end may have no other port.
			err = errors.Join(h.awaitUp(u.Link), u.segment.awaitPort(u.port), h.awaitAddresses(u), h.defaultRoutes(u))
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", h.Name, u.Link, err)
		}
	}
	return nil
}

// Prefer makes the default routes of one uplink the preferred ones.
func (h *Host) Prefer(link string) error {
	before := map[*Uplink]int{}
	for _, u := range h.Uplinks {
		before[u] = u.metric
		u.metric = metricSteps * (1 + slices.Index(h.Uplinks, u))
		if u.Link == link {
			u.metric = 0
		}
	}
	for u, metric := range before {
		if u.metric == metric {
			continue
		}
		l, err := h.handle.LinkByName(u.Link)
		if err != nil {
			return err
		}
		routes, err := h.handle.RouteList(l, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		if err := h.defaultRoutes(u); err != nil {
			return err
		}
		for _, r := range routes { // another metric is another route
			if r.Gw != nil && (r.Dst == nil || r.Dst.IP.IsUnspecified()) {
				if err := h.handle.RouteDel(&r); err != nil {
					return fmt.Errorf("%s: default route by %s: %w", h.Name, u.Link, err)
				}
			}
		}
	}
	return nil
}

// Readdress replaces the IPv4 address of an uplink behind a NAT, where prefixes have 24 bits, by another, as a lease that is not renewed does.
func (h *Host) Readdress(link string, addr netip.Addr) error {
	for _, u := range h.Uplinks {
		if u.Link != link {
			continue
		}
		l, err := h.handle.LinkByName(link)
		if err != nil {
			return err
		}
		if err := h.handle.AddrDel(l, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(u.Addr4, 24))}); err != nil {
			return fmt.Errorf("%s: address %s: %w", h.Name, u.Addr4, err)
		}
		if err := h.handle.AddrAdd(l, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(addr, 24))}); err != nil {
			return fmt.Errorf("%s: address %s: %w", h.Name, addr, err)
		}
		u.Addr4 = addr
		if h.Uplinks[0] == u {
			h.Addr = addr
		}
		return h.defaultRoutes(u)
	}
	return fmt.Errorf("%s has no uplink %s", h.Name, link)
}
