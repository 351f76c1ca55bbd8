//go:build !linux && !darwin && !windows

package portmapper

import (
	"errors"
	"net/netip"
)

func defaultGateway(string) (gateway, local netip.Addr, err error) {
	return gateway, local, errors.New("finding the default gateway is not yet possible on this system")
}
