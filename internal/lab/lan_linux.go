package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LAN is a switch with the prefixes of a company's network, which nothing routes but the hosts that are plugged in.
type LAN struct {
	lab     *Lab
	segment *segment
	ports   map[string]string // the switch's end of a cable, by host and interface
}

// LAN adds one. Either prefix may be invalid.
func (l *Lab) LAN(name string, v4, v6 netip.Prefix) (*LAN, error) {
	box, err := l.newHost(name)
	if err != nil {
		return nil, err
	}
	if err := box.addBridge(); err != nil {
		return nil, err
	}
	return &LAN{l, &segment{owner: box, v4: v4, v6: v6, lan: lanName}, map[string]string{}}, box.raise(lanName)
}

// Address4 gives the prefix's address of a number, or an invalid one.
func (n *LAN) Address4(number int) netip.Addr { return numbered(n.segment.v4, number).Addr() }

// Address6 is Address4 for IPv6.
func (n *LAN) Address6(number int) netip.Addr { return numbered(n.segment.v6, number).Addr() }

func numbered(p netip.Prefix, number int) netip.Prefix {
	if !p.IsValid() {
		return p
	}
	return nth(p, number)
}

// Plug connects an interface of a host, which gets the addresses of that number and no route beyond the LAN.
func (n *LAN) Plug(h *Host, link string, number int) error {
	s := n.segment
	port := fmt.Sprintf("to%d", s.owner.ports)
	s.owner.ports++
	n.ports[h.Name+" "+link] = port
	if err := s.cable(h, link, port); err != nil {
		return err
	}
	own4, own6 := numbered(s.v4, number), numbered(s.v6, number)
	u := &Uplink{Link: link, Addr4: own4.Addr(), Addr6: own6.Addr()}
	return errors.Join(h.raise(link, own4, own6), s.owner.raise(port), s.owner.awaitUp(port), s.join(port), s.owner.awaitUp(s.lan),
		h.awaitUp(link), h.awaitAddresses(u))
}

// Host adds a host with eth0 in the LAN, whose default routes lead to the address of the number via.
func (n *LAN) Host(name string, number, via int) (*Host, error) {
	h, err := n.lab.newHost(name)
	if err != nil {
		return nil, err
	}
	if err := n.Plug(h, "eth0", number); err != nil {
		return nil, err
	}
	h.Addr, h.Addr6 = n.Address4(number), n.Address6(number)
	return h, h.defaultRoutes(&Uplink{Link: "eth0", gateway4: n.Address4(via), gateway6: n.Address6(via)})
}

// Cut takes a cable out at the switch, and Mend puts it back: the host's interface has no carrier meanwhile, and keeps what it is configured with.
func (n *LAN) Cut(h *Host, link string) error { return n.setPort(h, link, false) }

// Mend undoes Cut.
func (n *LAN) Mend(h *Host, link string) error {
	return errors.Join(n.setPort(h, link, true), n.segment.owner.awaitUp(n.ports[h.Name+" "+link]), h.awaitUp(link))
}

func (n *LAN) setPort(h *Host, link string, up bool) error {
	s := n.segment
	port, err := s.owner.handle.LinkByName(n.ports[h.Name+" "+link])
	if err != nil {
		return fmt.Errorf("%s: %s of %s: %w", s.owner.Name, link, h.Name, err)
	}
	if up {
		return s.owner.handle.LinkSetUp(port)
	}
	return s.owner.handle.LinkSetDown(port)
}

// Route has the host send what is for a prefix to a neighbour.
func (h *Host) Route(to netip.Prefix, via netip.Addr) error { return h.route(to, via) }

// Sysctl sets a value below /proc/sys/net, such as ipv4/ip_forward.
func (h *Host) Sysctl(name, value string) error { return h.sysctl(name, value) }

// Announce gives a host that has a public address, of its own, others besides, which the internet routes to it: such as those outside of the
// prefixes for documentation, of which the lab's own are, and which a policy does not count among the internet's.
func (h *Host) Announce(addrs ...netip.Addr) error {
	lo, err := h.handle.LinkByName("lo")
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range addrs {
		own, via, flags := netip.PrefixFrom(a, a.BitLen()), h.Addr, 0
		if a.Is6() {
			via, flags = h.Addr6, unix.IFA_F_NODAD
		}
		errs = append(errs, h.handle.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(own), Flags: flags}), h.lab.internet.route(own, via))
	}
	return errors.Join(errs...)
}
