package local

import (
	"fmt"
	"net/netip"
)

// ParseEnd reads ADDRESS or ADDRESS:PORT; the port of the former is 0. IPv4 addresses come as IPv6 ones from sockets that take both.
func ParseEnd(text string) (netip.Addr, uint16, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return a.Unmap().WithZone(""), 0, nil
	}
	ap, err := netip.ParseAddrPort(text)
	if err != nil || ap.Port() == 0 {
		return netip.Addr{}, 0, fmt.Errorf("%.80q: want ADDRESS or ADDRESS:PORT, such as 100.64.0.2:50000 or [fd00::2]:50000", text)
	}
	return ap.Addr().Unmap().WithZone(""), ap.Port(), nil
}
