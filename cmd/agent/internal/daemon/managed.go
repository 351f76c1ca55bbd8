package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"

	"warren/cmd/agent/internal/state"
	pb "warren/proto/warrenv1"
)

// Managed are a device's settings that the daemon's configuration makes. They go before what "warren up" and "warren set" have stored, which stays
// stored beneath them.
type Managed struct {
	Settings *pb.Settings
	// Origin tells where one was made, by the name of its flag.
	Origin func(flag string) string
}

// Option is what a daemon was started with, to be shown.
type Option struct{ Name, Value, Origin string }

// Change is what a daemon takes over while it runs. Done gets what became of it; after an error nothing has changed.
type Change struct {
	Managed Managed
	Join    Join
	Options []Option
	Done    chan<- error
}

// settingFlag is the name of a setting as a flag.
func settingFlag(f protoreflect.FieldDescriptor) string {
	return strings.ReplaceAll(string(f.Name()), "_", "-")
}

// refuse tells that a setting is not to be changed by s, since the configuration makes it otherwise.
func (m Managed) refuse(s *pb.Settings) (err error) {
	own := m.Settings.ProtoReflect()
	s.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if own.Has(f) && !own.Get(f).Equal(v) {
			err = connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("%s is set by %s; change it there, and reload the daemon or start it again",
				settingFlag(f), m.Origin(settingFlag(f))))
		}
		return err == nil
	})
	return err
}

// over gives stored with what is managed over it. What is stored and does not go together with that is left out. kill says whether a kill switch may be
// on: there is, or was, a tunnel.
func (m Managed) over(stored *state.State, kill bool) *state.State {
	next := *stored
	s := m.Settings
	if s == nil {
		return &next
	}
	if s.Name != nil {
		next.Name = s.GetName()
	}
	if s.Operator != nil {
		next.Operator = s.GetOperator()
	}
	r := &next.Routing
	if setRouting(r, s) != nil { // it was checked before
		return stored
	}
	if s.KillSwitch != nil {
		r.KillSwitch = s.GetKillSwitch() && kill
	}
	if r.AdvertiseExit && r.ExitNode != "" {
		r.AdvertiseExit = r.AdvertiseExit && s.GetExitNode() == ""
		if r.AdvertiseExit {
			r.ExitNode = ""
		}
	}
	if _, err := r.Routes(nil); err != nil { // by the configuration alone there is none
		r.Advertise, r.Site, r.AdvertiseExit = s.GetAdvertise().GetValues(), s.GetSite().GetValues(), s.GetAdvertiseExit()
	}
	return &next
}

// under gives next with what was stored in place of what is managed.
func (m Managed) under(next, stored *state.State) *state.State {
	out := *next
	s := m.Settings
	if s == nil {
		return &out
	}
	r, was := &out.Routing, stored.Routing
	for _, back := range []struct {
		managed bool
		put     func()
	}{
		{s.Name != nil, func() { out.Name = stored.Name }},
		{s.Operator != nil, func() { out.Operator = stored.Operator }},
		{s.Advertise != nil, func() { r.Advertise = was.Advertise }},
		{s.Site != nil, func() { r.Site = was.Site }},
		{s.AdvertiseExit != nil, func() { r.AdvertiseExit = was.AdvertiseExit }},
		{s.Priority != nil, func() { r.Priority = was.Priority }},
		{s.Probe != nil, func() { r.Probe = was.Probe }},
		{s.AcceptRoutes != nil, func() { r.RefuseRoutes = was.RefuseRoutes }},
		{s.PreferLan != nil, func() { r.PreferLAN = was.PreferLAN }},
		{s.ExitNode != nil, func() { r.ExitNode = was.ExitNode }},
		{s.ExitAllowLan != nil, func() { r.ExitAllowLAN = was.ExitAllowLAN }},
		{s.KillSwitch != nil, func() { r.KillSwitch = was.KillSwitch }},
	} {
		if back.managed {
			back.put()
		}
	}
	return &out
}

// effective puts what is managed over a state. The caller holds mu, or is alone.
func (d *daemon) effective(stored *state.State) *state.State {
	tunnel := stored.Up && stored.Membership != nil
	return d.cfg.Managed.over(stored, tunnel || d.state.Routing.KillSwitch)
}

// takeOver takes changes of the configuration over as they come.
func (d *daemon) takeOver(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-d.cfg.Changes:
			c.Done <- d.change(c)
		}
	}
}

func (d *daemon) change(c Change) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.cfg.Managed
	d.cfg.Managed = c.Managed
	next := d.effective(d.stored)
	if err := d.holdKillSwitch(next); err != nil {
		d.cfg.Managed = before
		return err
	}
	d.state, d.cfg.Options = next, c.Options
	d.applyOperator()
	if err := d.applyRouting(); err != nil { // all else counts
		d.log.Error("kill switch not lifted, as the configuration says", "err", err)
	}
	d.joiner.look(c.Join)
	return nil
}

// settings shows what is set, and where. The caller holds mu.
func (d *daemon) settings() []*pb.SettingStatus {
	var out []*pb.SettingStatus
	for _, o := range d.cfg.Options {
		out = append(out, &pb.SettingStatus{Name: o.Name, Value: o.Value, Origin: o.Origin})
	}
	stored := d.cfg.Managed.under(d.state, new(state.State)) // what is managed is as if never stored
	now, usual := settingTexts(d.state), settingTexts(new(state.State))
	under := settingTexts(stored)
	for _, name := range settingNames() {
		s := &pb.SettingStatus{Name: name, Value: now[name]}
		if f := new(pb.Settings).ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(strings.ReplaceAll(name, "-", "_"))); d.cfg.Managed.Settings.ProtoReflect().Has(f) {
			s.Origin = d.cfg.Managed.Origin(name)
		} else if under[name] != usual[name] {
			s.Origin = "warren set"
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *pb.SettingStatus) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out
}

func settingNames() []string {
	var out []string
	fields := new(pb.Settings).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		out = append(out, settingFlag(fields.Get(i)))
	}
	return out
}

func settingTexts(s *state.State) map[string]string {
	r := &s.Routing
	return map[string]string{
		"name": s.Name, "operator": s.Operator, "advertise": listed(r.Advertise), "site": listed(r.Site), "advertise-exit": fmt.Sprint(r.AdvertiseExit),
		"priority": fmt.Sprint(r.Rank()), "probe": listed(texts(r.Probe)), "accept-routes": fmt.Sprint(!r.RefuseRoutes), "prefer-lan": listed(texts(r.PreferLAN)),
		"exit-node": r.ExitNode, "exit-allow-lan": fmt.Sprint(r.ExitAllowLAN), "kill-switch": fmt.Sprint(r.KillSwitch),
	}
}

func listed(texts []string) string { return "[" + strings.Join(texts, ",") + "]" }

var errManagedKillSwitch = errors.New("the kill switch is on, and the tunnel's end would lift it")

// mayLiftKillSwitch refuses what would lift a kill switch that the configuration demands.
func (m Managed) mayLiftKillSwitch() error {
	if !m.Settings.GetKillSwitch() {
		return nil
	}
	return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("%w; it is set by %s: change it there first", errManagedKillSwitch, m.Origin("kill-switch")))
}
