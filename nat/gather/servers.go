package gather

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// target is one address of a STUN server.
type target struct {
	name string
	addr netip.AddrPort
}

// CheckEndpoint refuses what cannot be a fixed endpoint: HOST:PORT, where a peer may send to.
func CheckEndpoint(text string) error {
	host, port, err := net.SplitHostPort(text)
	if err != nil || host == "" {
		return fmt.Errorf("endpoint %q is not of the form HOST:PORT", text)
	}
	if n, err := net.LookupPort("udp", port); err != nil || n == 0 {
		return fmt.Errorf("endpoint %q: %q is no UDP port", text, port)
	}
	if a, err := netip.ParseAddr(host); err == nil && (a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Zone() != "") {
		return fmt.Errorf("endpoint %q: no peer can reach that address", text)
	}
	return nil
}

// resolve gives at most one address of each family of a host:port. what is for the log.
func (g *Gatherer) resolve(ctx context.Context, what, server string) []netip.AddrPort {
	if a, err := netip.ParseAddrPort(server); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(a.Addr().Unmap(), a.Port())}
	}
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		g.cfg.Log.Warn(what+" ignored: not host:port", "name", server)
		return nil
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		g.cfg.Log.Warn(what+" ignored", "name", server, "err", err)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	addrs, err := g.cfg.Resolve(ctx, host)
	if err != nil {
		g.cfg.Log.Info(what+" not found", "name", server, "err", err)
		return nil
	}
	var out []netip.AddrPort
	for _, is4 := range []bool{true, false} {
		i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Unmap().Is4() == is4 })
		if i >= 0 {
			out = append(out, netip.AddrPortFrom(addrs[i].Unmap(), uint16(n)))
		}
	}
	return out
}

// resolveAll looks up names that changed or were not looked up for long.
func (g *Gatherer) resolveAll(ctx context.Context, s *state) {
	g.mu.Lock()
	names := g.servers
	g.mu.Unlock()
	if slices.Equal(names, s.names) && time.Since(s.resolved) < resolveEvery {
		return
	}
	s.names, s.resolved, s.targets, s.fixed = names, time.Now(), nil, nil
	for _, name := range names {
		for _, a := range g.resolve(ctx, "STUN server", name) {
			if !slices.ContainsFunc(s.targets, func(t target) bool { return t.addr == a }) {
				s.targets = append(s.targets, target{name, a})
			}
		}
	}
	for _, name := range g.cfg.Endpoints {
		s.fixed = append(s.fixed, g.resolve(ctx, "fixed endpoint", name)...)
	}
	for server := range s.mapped {
		if !slices.ContainsFunc(s.targets, func(t target) bool { return t.addr == server }) {
			delete(s.mapped, server)
		}
	}
}
