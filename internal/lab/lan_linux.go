package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// LAN is a switch with the prefixes of a company's network, which nothing routes but the hosts that are plugged in.
type LAN struct {
	lab     *Lab
	segment *segment
}

// LAN adds one. Either prefix may be invalid.
func (l *Lab) LAN(name string, v4, v6 netip.Prefix) (*LAN, error) {
	box, err := l.newHost(name)
	if err != nil {
		return nil, err
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: lanName, MTU: defaultMTU, TxQLen: 1000}}
	if err := box.handle.LinkAdd(bridge); err != nil {
		return nil, fmt.Errorf("%s: bridge: %w", name, err)
	}
	return &LAN{l, &segment{owner: box, v4: v4, v6: v6, lan: lanName}}, box.raise(lanName)
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

// Route has the host send what is for a prefix to a neighbour.
func (h *Host) Route(to netip.Prefix, via netip.Addr) error { return h.route(to, via) }

// Sysctl sets a value below /proc/sys/net, such as ipv4/ip_forward.
func (h *Host) Sysctl(name, value string) error { return h.sysctl(name, value) }
