package portmapper

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"warren/internal/netdump"
)

// defaultGateway reads the main routing table: the default route of the lowest metric, not through the tunnel.
func defaultGateway(except string) (gateway, local netip.Addr, err error) {
	routes, err := netdump.Whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return gateway, local, fmt.Errorf("reading routes: %w", err)
	}
	var best *netlink.Route
	var link netlink.Link
	for _, r := range routes {
		ones := 0
		if r.Dst != nil {
			ones, _ = r.Dst.Mask.Size()
		}
		if ones != 0 || r.Gw == nil || best != nil && r.Priority >= best.Priority {
			continue
		}
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil && l.Attrs().Name != except {
			best, link = &r, l
		}
	}
	if best == nil {
		return gateway, local, ErrNoGateway
	}
	gateway, _ = netip.AddrFromSlice(best.Gw.To4())
	local, err = sourceTowards(link, *best, gateway)
	return gateway, local, err
}

// sourceTowards is the address that the route asks for, or else the link's address in the gateway's network, or its first one.
func sourceTowards(link netlink.Link, r netlink.Route, gateway netip.Addr) (netip.Addr, error) {
	if src, ok := netip.AddrFromSlice(r.Src.To4()); ok {
		return src, nil
	}
	addrs, err := netdump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return netip.Addr{}, fmt.Errorf("addresses of %s: %w", link.Attrs().Name, err)
	}
	var first netip.Addr
	for _, a := range addrs {
		own, ok := netip.AddrFromSlice(a.IP.To4())
		if ok && a.Contains(gateway.AsSlice()) {
			return own, nil
		}
		if ok && !first.IsValid() {
			first = own
		}
	}
	if !first.IsValid() {
		return first, fmt.Errorf("%s, which leads to gateway %s, has no IPv4 address", link.Attrs().Name, gateway)
	}
	return first, nil
}
