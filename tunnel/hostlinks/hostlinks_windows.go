package hostlinks

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/windows"
	"golang.zx2c4.com/wireguard/windows/tunnel/winipcfg"

	"warren/internal/hostroutes"
	"warren/tunnel/routeplan"
)

// Read gives the links that are up and have addresses, by name.
func (r *Reader) Read() ([]routeplan.Link, error) {
	interfaces, err := hostroutes.Interfaces()
	if err != nil {
		return nil, err
	}
	table, err := hostroutes.Read()
	if err != nil {
		return nil, err
	}
	adapters, err := winipcfg.GetAdaptersAddresses(windows.AF_UNSPEC, winipcfg.GAAFlagDefault)
	if err != nil {
		return nil, fmt.Errorf("adapters of this host: %w", err)
	}
	servers := map[int][]netip.Addr{}
	for _, a := range adapters {
		if s := a.DHCPv4Server.IP(); s != nil {
			if server, ok := netip.AddrFromSlice(s); ok && !server.IsUnspecified() {
				servers[int(a.IfIndex)] = []netip.Addr{server.Unmap()}
			}
		}
	}
	dhcp := func(i hostroutes.Interface) []netip.Addr { return servers[i.Index] }
	return r.linksOf(interfaces, table, dhcp, servedByName), nil
}

// Neighbours gives the hosts that the system has heard of lately on the links other than the tunnel's.
func (r *Reader) Neighbours() ([]netip.Addr, error) {
	found, err := hostroutes.Neighbours()
	if err != nil {
		return nil, err
	}
	tunnel := 0
	if interfaces, err := hostroutes.Interfaces(); err == nil {
		for _, i := range interfaces {
			if i.Name == r.Ignore {
				tunnel = i.Index
			}
		}
	}
	return neighboursOf(found, tunnel), nil
}
