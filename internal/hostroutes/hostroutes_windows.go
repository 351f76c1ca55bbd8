package hostroutes

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/windows"
	"golang.zx2c4.com/wireguard/windows/tunnel/winipcfg"
)

// Errors of Add and Remove that callers tell apart.
var (
	ErrExists  error = windows.ERROR_OBJECT_ALREADY_EXISTS
	ErrMissing error = windows.ERROR_NOT_FOUND
)

// Read gives the routing table.
func Read() ([]Route, error) {
	rows, err := winipcfg.GetIPForwardTable2(windows.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("routes of this host: %w", err)
	}
	interfaces, err := winipcfg.GetIPInterfaceTable(windows.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("costs of this host's interfaces: %w", err)
	}
	type end struct {
		index  uint32
		family winipcfg.AddressFamily
	}
	costs := map[end]uint32{}
	for _, i := range interfaces {
		costs[end{i.InterfaceIndex, i.Family}] = i.Metric
	}
	var out []Route
	for _, row := range rows {
		p := row.DestinationPrefix.Prefix()
		if !p.IsValid() {
			continue
		}
		family := winipcfg.AddressFamily(windows.AF_INET)
		if p.Addr().Is6() {
			family = windows.AF_INET6
		}
		r := Route{
			Prefix: netip.PrefixFrom(clearZone(p.Addr()), p.Bits()).Masked(), Interface: int(row.InterfaceIndex),
			Metric: int(row.Metric) + int(costs[end{row.InterfaceIndex, family}]), Own: row.Loopback || p.IsSingleIP() && row.Protocol == winipcfg.RouteProtocolLocal,
		}
		if hop := row.NextHop.Addr(); hop.IsValid() && !hop.IsUnspecified() {
			r.Gateway = clearZone(hop)
		}
		out = append(out, r)
	}
	return out, nil
}

// Add adds a route; the error wraps ErrExists if there is one of that prefix by the same way.
func Add(r Route) error {
	luid, hop, err := endOf(r)
	if err == nil {
		err = luid.AddRoute(r.Prefix, hop, 0)
	}
	if err != nil {
		return fmt.Errorf("route %s: %w", r.Prefix, err)
	}
	return nil
}

// Remove removes a route; the error wraps ErrMissing if it is not there.
func Remove(r Route) error {
	luid, hop, err := endOf(r)
	if err == nil {
		err = luid.DeleteRoute(r.Prefix, hop)
	}
	if err != nil {
		return fmt.Errorf("route %s: %w", r.Prefix, err)
	}
	return nil
}

func endOf(r Route) (winipcfg.LUID, netip.Addr, error) {
	hop := r.Gateway
	if !hop.IsValid() {
		hop = netip.IPv4Unspecified()
		if r.Prefix.Addr().Is6() {
			hop = netip.IPv6Unspecified()
		}
	}
	luid, err := winipcfg.LUIDFromIndex(uint32(r.Interface))
	return luid, hop, err
}

// Watch calls changed for each change of routes, addresses and interfaces until ctx ends. Calls may overlap.
func Watch(ctx context.Context, changed func()) error {
	routes, err := winipcfg.RegisterRouteChangeCallback(func(winipcfg.MibNotificationType, *winipcfg.MibIPforwardRow2) { changed() })
	if err != nil {
		return fmt.Errorf("changes of routes: %w", err)
	}
	addresses, err := winipcfg.RegisterUnicastAddressChangeCallback(func(winipcfg.MibNotificationType, *winipcfg.MibUnicastIPAddressRow) { changed() })
	if err != nil {
		return errors.Join(fmt.Errorf("changes of addresses: %w", err), routes.Unregister())
	}
	interfaces, err := winipcfg.RegisterInterfaceChangeCallback(func(winipcfg.MibNotificationType, *winipcfg.MibIPInterfaceRow) { changed() })
	if err != nil {
		return errors.Join(fmt.Errorf("changes of interfaces: %w", err), addresses.Unregister(), routes.Unregister())
	}
	<-ctx.Done()
	return errors.Join(interfaces.Unregister(), addresses.Unregister(), routes.Unregister())
}
