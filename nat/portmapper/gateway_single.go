//go:build darwin || windows

package portmapper

import (
	"net/netip"

	"warren/internal/hostroutes"
)

// defaultGateway reads the routing table: the cheapest default route, not through the tunnel.
func defaultGateway(except string) (gateway, local netip.Addr, err error) {
	table, err := hostroutes.Read()
	if err != nil {
		return gateway, local, err
	}
	interfaces, err := hostroutes.Interfaces()
	if err != nil {
		return gateway, local, err
	}
	gateway, local, ok := hostroutes.Gateway(table, interfaces, except)
	if !ok {
		return gateway, local, ErrNoGateway
	}
	return gateway, local, nil
}
