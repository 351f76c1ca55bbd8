package daemon

import (
	"context"

	"connectrpc.com/connect"

	"warren/proto/cidr"
	pb "warren/proto/warrenv1"
	"warren/tunnel/dnsforward"
	"warren/tunnel/leak"
)

// LeakTest implements LocalService.
func (a *api) LeakTest(ctx context.Context, _ *connect.Request[pb.LeakTestRequest], out *connect.ServerStream[pb.LeakTestResponse]) error {
	s, err := a.running(ctx)
	if err != nil {
		return err
	}
	if s.cfg.Userspace != nil {
		return connect.NewError(connect.CodeFailedPrecondition, errNeedsInterface("the leak test"))
	}
	return leak.Run(ctx, s.networks.leakConfig(s.router.Name()), func(r leak.Result) error {
		return out.Send(&pb.LeakTestResponse{Result: &pb.CheckResult{Name: r.Name, Outcome: string(r.Outcome), Text: r.Text, Help: r.Help}})
	})
}

// leakConfig is how things should be.
func (n *networks) leakConfig(tunnel string) leak.Config {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := leak.Config{
		Interface: tunnel, Mark: firewallMark, Exit: n.routing.ExitNode != "", KillSwitch: n.routing.KillSwitch,
		Local: n.plan.Local, Overlay: n.overlay(), ResolvConf: dnsforward.ResolvConf,
	}
	for _, r := range cidr.Exits() {
		if _, ok := n.chosen[r.Prefix]; ok {
			c.Routed.IPv4 = c.Routed.IPv4 || r.Prefix.Addr().Is4()
			c.Routed.IPv6 = c.Routed.IPv6 || r.Prefix.Addr().Is6()
		}
	}
	for _, l := range n.links {
		if l.Served {
			continue
		}
		c.Uplinks = append(c.Uplinks, l.Interface)
		for _, p := range l.Prefixes {
			if !p.Addr().IsLinkLocalUnicast() && !p.IsSingleIP() {
				c.Connected = append(c.Connected, p.Masked())
			}
		}
	}
	return c
}
