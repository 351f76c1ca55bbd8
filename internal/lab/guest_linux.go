package lab

import (
	"errors"
	"fmt"
	"net/netip"
)

// Guest is a place at a site's router for a machine that is none of the lab's hosts, such as a container that boots, and sets up its interface by
// itself. Whoever runs it makes the interface that is its other end on the router.
type Guest struct {
	// Addr and Gateway are what the machine has to configure. Public is the address that the internet sees.
	Addr    netip.Prefix
	Gateway netip.Addr
	Public  netip.Addr

	segment *segment
}

// Guest takes the next address of the site for a guest. The site must have a router; one with an MTU of 1500 and nothing else translates and
// blocks nothing.
func (s *Site) Guest() (*Guest, error) {
	if s.router == nil || !s.inside.v4.IsValid() {
		return nil, fmt.Errorf("site %s has no router with IPv4 for guests", s.Name)
	}
	g := &Guest{Addr: nth(s.inside.v4, 2+s.inside.used), Gateway: nth(s.inside.v4, 1).Addr(), Public: s.public, segment: s.inside}
	if !s.inside.v4.Contains(nth(s.inside.v4, 3+s.inside.used).Addr()) {
		return nil, fmt.Errorf("site %s has no room for another guest: %s is full", s.Name, s.inside.v4)
	}
	s.inside.used++
	if !g.Public.IsValid() {
		g.Public = g.Addr.Addr()
	}
	return g, nil
}

// Plug connects an interface of the router, the guest's other end, to the site.
func (g *Guest) Plug(port string) error {
	owner := g.segment.owner
	return errors.Join(owner.raise(port), g.segment.join(port))
}

// Unplug takes the cable out: the guest's interface loses its carrier.
func (g *Guest) Unplug(port string) error {
	link, err := g.segment.owner.handle.LinkByName(port)
	if err != nil {
		return err
	}
	return g.segment.owner.handle.LinkSetDown(link)
}
