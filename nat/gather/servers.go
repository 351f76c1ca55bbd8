package gather

import (
	"context"
	"fmt"
	"maps"
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

// resolve gives at most one address of each family of a host:port, none if there are none. what is for the log.
func (g *Gatherer) resolve(ctx context.Context, what, server string) []netip.AddrPort {
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

// named is what a name was found to be; nothing if it was not found.
type named struct {
	name  string
	addrs []netip.AddrPort
}

// lookUp looks names up that changed or were not looked up for long. Addresses are there at once, what the resolver knows comes by r.names as
// it finds it. Until then, and if it finds nothing, names are what they were.
func (g *Gatherer) lookUp(ctx context.Context, s *state, r *round) {
	g.mu.Lock()
	names := g.servers
	g.mu.Unlock()
	if slices.Equal(names, s.names) && time.Since(s.resolved) < resolveEvery {
		return
	}
	s.names, s.resolved = names, time.Now()
	maps.DeleteFunc(s.addrs, func(name string, _ []netip.AddrPort) bool {
		return !slices.Contains(names, name) && !slices.Contains(g.cfg.Endpoints, name)
	})
	for what, names := range map[string][]string{"STUN server": names, "fixed endpoint": g.cfg.Endpoints} {
		for _, name := range names {
			if a, err := netip.ParseAddrPort(name); err == nil {
				s.addrs[name] = []netip.AddrPort{netip.AddrPortFrom(a.Addr().Unmap(), a.Port())}
				continue
			}
			r.lookups++
			go func() {
				select {
				case r.names <- named{name, g.resolve(ctx, what, name)}:
				case <-ctx.Done():
				}
			}()
		}
	}
	g.target(s)
}

// found takes what a name was found to be. If one was not found, all are looked up again soon.
func (g *Gatherer) found(s *state, n named) {
	if n.addrs == nil {
		s.resolved = time.Now().Add(notFoundFor - resolveEvery)
		return
	}
	s.addrs[n.name] = n.addrs
	g.target(s)
}

// target makes the list of servers to ask, each address once, and of fixed endpoints.
func (g *Gatherer) target(s *state) {
	s.targets, s.fixed = nil, nil
	for _, name := range s.names {
		for _, a := range s.addrs[name] {
			if !slices.ContainsFunc(s.targets, func(t target) bool { return t.addr == a }) {
				s.targets = append(s.targets, target{name, a})
			}
		}
	}
	for _, name := range g.cfg.Endpoints {
		s.fixed = append(s.fixed, s.addrs[name]...)
	}
	maps.DeleteFunc(s.mapped, func(q question, _ mapping) bool {
		return !slices.ContainsFunc(s.targets, func(t target) bool { return t.addr == q.server })
	})
}
