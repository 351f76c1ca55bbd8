// Package freebind listens at addresses that this host may not have yet, such as its own in a network that it joins later (IP_FREEBIND, ip(7)). Listen is
// what to call; Missing tells of such an address, which may also be a mistake. Other systems than Linux listen at addresses that are there only.
package freebind

import (
	"context"
	"net"
	"net/netip"
	"slices"
)

// Listen opens a TCP socket at [HOST]:PORT.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	c := net.ListenConfig{Control: allow}
	return c.Listen(ctx, "tcp", address)
}

// Missing reports whether a socket listens at an address that no interface of this host has. It is false where that cannot be found out.
func Missing(at net.Addr) bool {
	ap, err := netip.ParseAddrPort(at.String())
	if err != nil || ap.Addr().IsUnspecified() || ap.Addr().IsLoopback() {
		return false
	}
	all, err := net.InterfaceAddrs()
	return err == nil && !slices.ContainsFunc(all, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr() == ap.Addr().Unmap().WithZone("")
	})
}
