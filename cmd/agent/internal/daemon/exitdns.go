package daemon

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"warren/proto/record"
	"warren/tunnel/dnsforward"
)

// exitDNS makes the forwarder that answers questions for names of those who use this device as their exit node. What comes by the tunnel has
// passed the packet filter, whose grants say who may ask; what comes by any other way is not for it.
func (s *session) exitDNS() *dnsforward.Forwarder {
	return dnsforward.New(dnsforward.Config{
		Control:   onlyFrom(s.router.Name()),
		Dial:      s.dialResolver,
		Resolvers: dnsforward.NewFile(dnsforward.ResolvConf, nil).Resolvers,
		Allowed:   func(a netip.Addr) bool { return s.known.Load().isPeer(a) },
		Log:       s.log,
	})
}

// isPeer reports whether an address is a peer's own.
func (k *known) isPeer(a netip.Addr) bool {
	return k.m != nil && slices.ContainsFunc(k.m.Peers, func(p *record.Device) bool { return slices.Contains(p.Addresses, a) })
}

// dialResolver connects to a resolver of this host past the kill switch, unless it is one that only the tunnel leads to.
func (s *session) dialResolver(ctx context.Context, network, address string) (net.Conn, error) {
	at, err := netip.ParseAddrPort(address)
	if err == nil && s.networks.inTunnel(at.Addr()) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	return markedDialer(s.log, s.cfg.mark()).DialContext(ctx, network, address)
}

// inTunnel reports whether packets for an address go into the tunnel.
func (n *networks) inTunnel(a netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	longest, in := -1, false
	for _, p := range n.plan.Routes {
		if p.Bits() > longest && p.Contains(a) {
			longest, in = p.Bits(), true
		}
	}
	for _, p := range n.plan.Local {
		if p.Bits() >= longest && p.Contains(a) {
			longest, in = p.Bits(), false
		}
	}
	return in
}
