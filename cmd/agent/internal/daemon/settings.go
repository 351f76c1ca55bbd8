package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"connectrpc.com/connect"

	"warren/cmd/agent/internal/local"
	"warren/cmd/agent/internal/state"
	"warren/internal/unixsock"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// invalid is for a setting that no state of things makes right.
func invalid(format string, a ...any) error {
	return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf(format, a...))
}

// withSettings gives a copy of the state with the settings applied, after checking all of them. up says that the tunnel is, or will be.
func (d *daemon) withSettings(caller unixsock.Caller, s *pb.Settings, up bool) (*state.State, error) {
	next := *d.state
	if s == nil {
		return &next, nil
	}
	if err := d.cfg.Managed.refuse(s); err != nil {
		return nil, err
	}
	if s.Name != nil {
		if err := record.CheckLabel(s.GetName()); err != nil {
			return nil, connect.NewError(connect.CodeInvalidArgument, err)
		}
		next.Name = s.GetName()
	}
	if s.Operator != nil {
		if !caller.Administrator() {
			return nil, connect.NewError(connect.CodePermissionDenied, errors.New("only root may change the operator; run with sudo"))
		}
		if _, err := local.LookUpOperator(s.GetOperator()); err != nil {
			return nil, connect.NewError(connect.CodeFailedPrecondition, err)
		}
		next.Operator = s.GetOperator()
	}
	if err := d.withRouting(&next.Routing, s, up); err != nil {
		return nil, err
	}
	return &next, nil
}

// withRouting applies those of the settings that concern routes to r, a copy. up says that the tunnel is, or will be.
func (d *daemon) withRouting(r *state.Routing, s *pb.Settings, up bool) error {
	if s.KillSwitch != nil {
		if s.GetKillSwitch() && !up {
			return connect.NewError(connect.CodeFailedPrecondition,
				errors.New("the tunnel is down, and nothing at all would leave this host; bring both up with \"warren up --kill-switch\""))
		}
		r.KillSwitch = s.GetKillSwitch()
	}
	return errors.Join(setRouting(r, s), d.checkRouting(r, s))
}

// setRouting applies those of the settings that concern routes, but for the kill switch, to r, a copy.
func setRouting(r *state.Routing, s *pb.Settings) error {
	if s.Advertise != nil {
		r.Advertise = slices.Clone(s.GetAdvertise().GetValues())
	}
	if s.Site != nil {
		r.Site = slices.Clone(s.GetSite().GetValues())
	}
	if s.AdvertiseExit != nil {
		r.AdvertiseExit = s.GetAdvertiseExit()
	}
	if s.Priority != nil {
		if s.GetPriority() < 1 || s.GetPriority() > 255 {
			return invalid("priority %d: a priority is 1 to 255", s.GetPriority())
		}
		r.Priority = uint8(s.GetPriority())
	}
	if s.AcceptRoutes != nil {
		r.RefuseRoutes = !s.GetAcceptRoutes()
	}
	if s.ExitNode != nil {
		r.ExitNode = s.GetExitNode()
	}
	if s.ExitAllowLan != nil {
		r.ExitAllowLAN = s.GetExitAllowLan()
	}
	return errors.Join(setList(&r.Probe, s.GetProbe(), "probe", parseHost),
		setList(&r.PreferLAN, s.GetPreferLan(), "prefer-lan", parsePrefix))
}

func parseHost(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return a, fmt.Errorf("%.60q is not an address; name a host by its address, such as 192.168.10.1", text)
	}
	return a, nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return p, fmt.Errorf("%.60q is not a CIDR, such as 192.168.10.0/24", text)
	case p != p.Masked():
		return p, fmt.Errorf("%s has bits set beyond its length; write %s", p, p.Masked())
	}
	return p, nil
}

// setList replaces a list if there is one to replace it.
func setList[T any](to *[]T, list *pb.TextList, what string, parse func(string) (T, error)) error {
	if list == nil {
		return nil
	}
	*to = nil
	for _, text := range list.GetValues() {
		v, err := parse(text)
		if err != nil {
			return invalid("%s: %w", what, err)
		}
		*to = append(*to, v)
	}
	return nil
}

// checkRouting compares what is wanted with itself and with what is known of the network. Only what s names is judged by the network, so that what
// has become wrong there keeps nobody from setting something else.
func (d *daemon) checkRouting(r *state.Routing, s *pb.Settings) error {
	var m *known
	if d.session != nil {
		m = d.session.known.Load()
	}
	var overlay []netip.Prefix
	if m != nil && m.m != nil {
		overlay = m.m.Statement.Prefixes
	}
	routes, err := r.Routes(overlay)
	if err != nil && (s.Advertise != nil || s.Site != nil || s.AdvertiseExit != nil) {
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	if d.cfg.Userspace != nil && (s.Advertise != nil || s.Site != nil || s.AdvertiseExit != nil || s.KillSwitch != nil) {
		if err := checkRoutingUserspace(r); err != nil {
			return connect.NewError(connect.CodeFailedPrecondition, err)
		}
	}
	if r.AdvertiseExit && r.ExitNode != "" {
		return invalid("an exit node sends its own traffic out by itself: turn one off, with --advertise-exit=false or --exit-node=\"\"")
	}
	if s.Probe != nil {
		for _, a := range r.Probe {
			if !slices.ContainsFunc(routes, func(c cidrRoute) bool { return c.Prefix.Bits() > 0 && c.LAN.Contains(a) }) {
				return invalid("probe %s: this device advertises no CIDR that has it; name a host on the LAN behind it", a)
			}
		}
	}
	if s.ExitNode != nil && r.ExitNode != "" && r.ExitNode != autoExit && m != nil && m.m != nil {
		if _, err := m.exitNode(r.ExitNode); err != nil {
			return connect.NewError(connect.CodeFailedPrecondition, err)
		}
	}
	return nil
}

// Set implements LocalService.
func (a *api) Set(ctx context.Context, req *connect.Request[pb.SetRequest]) (*connect.Response[pb.SetResponse], error) {
	caller, err := a.admit(ctx)
	if err != nil {
		return nil, err
	}
	if err := a.d.set(ctx, caller, req.Msg.GetSettings()); err != nil {
		return nil, err
	}
	if err := a.d.routingProblem(); err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("that is set, but this host is not as it was to be: %w", err))
	}
	return connect.NewResponse(&pb.SetResponse{Status: a.d.status()}), nil
}

// routingProblem is why what was set has not reached the host, if there is a session and it has not.
func (d *daemon) routingProblem() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.session == nil {
		return nil
	}
	return d.session.networks.problem()
}

func (d *daemon) set(ctx context.Context, caller unixsock.Caller, s *pb.Settings) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	next, err := d.withSettings(caller, s, d.state.Up)
	if err != nil {
		return err
	}
	if s != nil && s.Name != nil && next.Membership != nil {
		if err := d.rename(ctx, next.Name); err != nil {
			return err
		}
	}
	if err := d.holdKillSwitch(next); err != nil {
		return err
	}
	if err := d.save(next); err != nil {
		return internal(err)
	}
	d.applyOperator()
	return d.applyRouting()
}

// applyRouting brings a running session and the kill switch into line with the state. The caller holds mu.
func (d *daemon) applyRouting() error {
	if d.session != nil && !reflect.DeepEqual(d.session.networks.settings(), d.state.Routing) {
		d.session.networks.set(d.state.Routing)
		d.session.changed.Wake()
	}
	if err := d.liftKillSwitch(); err != nil {
		return internal(err)
	}
	return nil
}

// routing are the settings about routes.
func (d *daemon) routing() state.Routing {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state.Routing
}

// takeBackRoutes has this device advertise what it did before, if the coordinator has refused what s says. Before a device has joined, only the
// coordinator knows the network's prefixes.
func (d *daemon) takeBackRoutes(before state.Routing, s *pb.Settings) error {
	if s.GetAdvertise() == nil && s.GetSite() == nil && (s == nil || s.AdvertiseExit == nil) {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	next := *d.state
	next.Routing.Advertise, next.Routing.Site, next.Routing.AdvertiseExit = before.Advertise, before.Site, before.AdvertiseExit
	if err := d.save(&next); err != nil {
		return err
	}
	return d.applyRouting()
}
