package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"warren/cmd/agent/internal/forward"
	"warren/cmd/agent/internal/proxy"
	"warren/internal/ipproto"
	"warren/tunnel/filter"
	"warren/tunnel/netstack"
)

// overlay is the network as programs of this host reach it without an interface. It lets through what an interface would lead into the tunnel: peers, CIDRs
// of gateways, and everything while an exit node is used. What the policy does not allow is told at once; with an interface it would be dropped.
type overlay struct {
	current func() *session
	// lookUp asks the host's resolver; nil: net.DefaultResolver.
	lookUp func(ctx context.Context, name string) ([]netip.Addr, error)
}

// session gives the one that runs, and its stack.
func (o *overlay) session() (*session, *netstack.Stack, error) {
	s := o.current()
	if s == nil {
		return nil, nil, fmt.Errorf("%w; run \"warren up\"", proxy.ErrDown)
	}
	h, ok := s.router.(*userspaceHost)
	if !ok || s.known.Load().m == nil {
		return nil, nil, fmt.Errorf("%w: no network map yet", proxy.ErrDown)
	}
	return s, h.stack, nil
}

// Resolve implements proxy.Network.
func (o *overlay) Resolve(ctx context.Context, protocol, host string, port uint16) ([]netip.AddrPort, error) {
	s, stack, err := o.session()
	if err != nil {
		return nil, err
	}
	addrs, err := o.addresses(ctx, s, stack, host)
	if err != nil {
		return nil, err
	}
	own := stack.Addresses()
	var out []netip.AddrPort
	var errs []error
	for _, a := range addrs {
		if err := s.mayReach(own, a, protocol, port); err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, netip.AddrPortFrom(a, port))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: %w", host, firstOf(errs))
	}
	return out, nil
}

// firstOf prefers an error that says most: that the policy is what stands in the way.
func firstOf(errs []error) error {
	for _, err := range errs {
		if errors.Is(err, proxy.ErrPolicy) {
			return err
		}
	}
	if len(errs) == 0 {
		return proxy.ErrUnknown
	}
	return errs[0]
}

// addresses are those of a host: by itself, by the network's names, by the exit node's resolver if one is used, or else by this host's.
func (o *overlay) addresses(ctx context.Context, s *session, stack *netstack.Stack, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap().WithZone("")}, nil
	}
	k, name := s.known.Load(), hostName(host)
	if name == s.name() {
		return stack.Addresses(), nil
	}
	for _, p := range k.m.Peers {
		if p.Name == name {
			return p.Addresses, nil
		}
	}
	look := o.lookUp
	if look == nil {
		look = func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		}
	}
	if at, used := s.networks.resolvers(); used {
		if len(at) == 0 {
			return nil, fmt.Errorf("%.253q is not resolved: %w for it: the exit node cannot be used at present", host, proxy.ErrDown)
		}
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			to := netip.AddrPortFrom(at[0], dnsPort)
			if network == "udp" || network == "udp4" || network == "udp6" {
				return stack.DialUDP(to)
			}
			return stack.DialTCP(ctx, to)
		}}
		look = func(ctx context.Context, name string) ([]netip.Addr, error) {
			return r.LookupNetIP(ctx, "ip", name+".")
		}
	}
	list, err := look(ctx, name)
	var notFound *net.DNSError
	if errors.As(err, &notFound) && notFound.IsNotFound || err == nil && len(list) == 0 {
		return nil, fmt.Errorf("%.253q: %w, in this network or elsewhere", host, proxy.ErrUnknown)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", proxy.ErrUnknown, err)
	}
	for i := range list {
		list[i] = list[i].Unmap()
	}
	return list, nil
}

const dnsPort = 53

// resolvers are where names are resolved if an exit node is to be used.
func (n *networks) resolvers() (at []netip.Addr, used bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known.m == nil || n.routing.ExitNode == "" {
		return nil, n.routing.ExitNode != ""
	}
	return n.exitResolvers(), true
}

// mayReach says why an address cannot be reached from one of our own.
func (s *session) mayReach(own []netip.Addr, a netip.Addr, protocol string, port uint16) error {
	if slices.Contains(own, a) {
		return nil
	}
	k := s.known.Load()
	switch inside := slices.ContainsFunc(k.m.Statement.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) }); {
	case inside && !k.isPeer(a):
		return fmt.Errorf("%s: %w: no peer that this device knows has that address", a, proxy.ErrUnknown)
	case !inside && !s.networks.inTunnel(a):
		return fmt.Errorf("%s: %w, behind no gateway of it that is in use, and no exit node is used (\"warren set --exit-node\")", a, proxy.ErrOutside)
	}
	i := slices.IndexFunc(own, func(o netip.Addr) bool { return o.Is4() == a.Is4() })
	if i < 0 {
		return fmt.Errorf("%s: %w: this device has no address of that family", a, proxy.ErrOutside)
	}
	flow := ipproto.Flow{Protocol: ipproto.TCP, Port: port}
	if protocol == string(forward.UDP) {
		flow.Protocol = ipproto.UDP
	}
	if allowed, _ := filter.Explain(k.m.Statement.GetGrants(), own[i], a, flow); len(allowed) == 0 {
		return fmt.Errorf("%w: %s from %s to %s (\"warren why %s %s\" tells more)", proxy.ErrPolicy, flow, own[i], a, a, flow)
	}
	return nil
}

// DialTCP implements proxy.Network.
func (o *overlay) DialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	_, stack, err := o.session()
	if err != nil {
		return nil, err
	}
	c, err := stack.DialTCP(ctx, to)
	if err != nil {
		return nil, err // not c, which would be an interface that is not nil
	}
	return c, nil
}

// ListenUDP implements proxy.Network.
func (o *overlay) ListenUDP(v6 bool) (net.PacketConn, error) {
	_, stack, err := o.session()
	if err != nil {
		return nil, err
	}
	return stack.ListenUDP(v6)
}

// Dial implements forward.Network.
func (o *overlay) Dial(ctx context.Context, protocol forward.Protocol, host string, port uint16) (net.Conn, error) {
	list, err := o.Resolve(ctx, string(protocol), host, port)
	if err != nil {
		return nil, err
	}
	if protocol == forward.UDP {
		_, stack, err := o.session()
		if err != nil {
			return nil, err
		}
		return stack.DialUDP(list[0])
	}
	for _, at := range list {
		var c net.Conn
		if c, err = o.DialTCP(ctx, at); err == nil {
			return c, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", net.JoinHostPort(host, strconv.Itoa(int(port))), err)
}
