package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"connectrpc.com/connect"

	"warren/cmd/agent/internal/state"
	"warren/coord/client"
	"warren/internal/buildversion"
	"warren/internal/osversion"
	"warren/internal/unixsock"
	"warren/proto/key"
	"warren/proto/token"
	pb "warren/proto/warrenv1"
	"warren/proto/warrenv1/warrenv1connect"
)

// api answers the local API.
type api struct {
	warrenv1connect.UnimplementedLocalServiceHandler
	d *daemon
}

var errNotEnrolled = connect.NewError(connect.CodeFailedPrecondition,
	errors.New("this device has joined no network; run \"warren up TOKEN\" with a token from \"warren-coordinator token create\""))

// admit refuses a caller who is neither root nor the operator.
func (a *api) admit(ctx context.Context) (unixsock.Caller, error) {
	c, ok := unixsock.CallerFrom(ctx)
	a.d.mu.Lock()
	operator := a.d.operator
	a.d.mu.Unlock()
	if !ok || !operator.Admits(c) {
		return c, connect.NewError(connect.CodePermissionDenied,
			errors.New("you may not use this daemon; run with sudo, or let an administrator run \"warren set --operator USER\""))
	}
	return c, nil
}

// Up implements LocalService.
func (a *api) Up(ctx context.Context, req *connect.Request[pb.UpRequest], out *connect.ServerStream[pb.UpResponse]) error {
	caller, err := a.admit(ctx)
	if err != nil {
		return err
	}
	before := a.d.routing()
	s, warnings, err := a.bringUp(ctx, caller, req.Msg, out)
	if err != nil && ctx.Err() != nil {
		return connect.NewError(connect.CodeDeadlineExceeded, err) // the caller has no more patience, whatever else there is
	}
	if err != nil {
		return err
	}
	for _, w := range warnings {
		if err := out.Send(&pb.UpResponse{Warning: w}); err != nil {
			return err
		}
	}
	if err := a.awaitConnected(ctx, s, out); err != nil {
		return err
	}
	if err := s.advertise.problem(); err != nil {
		if err := a.d.takeBackRoutes(before, req.Msg.GetSettings()); err != nil {
			return internal(err)
		}
		return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("the tunnel is up, but what this device advertises stays as it was: %w", err))
	}
	if err := s.networks.problem(); err != nil {
		return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("the tunnel is up, but this host is not as it was to be: %w", err))
	}
	return out.Send(&pb.UpResponse{Done: true, Status: a.d.status()})
}

// bringUp changes state and session; it returns the running session.
func (a *api) bringUp(ctx context.Context, caller unixsock.Caller, m *pb.UpRequest, out *connect.ServerStream[pb.UpResponse]) (*session, []string, error) {
	d := a.d
	d.mu.Lock()
	defer d.mu.Unlock()
	var warnings []string
	next, err := d.withSettings(caller, m.GetSettings(), true)
	if err != nil {
		return nil, nil, err
	}
	enrolling := m.GetToken() != ""
	if enrolling {
		if err := out.Send(&pb.UpResponse{Progress: "enrolling"}); err != nil {
			return nil, nil, err
		}
		if warnings, err = d.enrol(ctx, next, m.GetToken()); err != nil {
			return nil, nil, err
		}
	}
	if next.Membership == nil {
		return nil, nil, d.notJoined()
	}
	name, renaming := next.Name, m.GetSettings() != nil && m.GetSettings().Name != nil && !enrolling
	if renaming && d.session != nil { // before all else, so that a name that is refused changes nothing
		if err := d.rename(ctx, name); err != nil {
			return nil, nil, err
		}
		renaming = false
	}
	if !enrolling {
		next.Name = d.state.Name // as the coordinator has agreed
	}
	next.Up = true
	next = d.effective(next)
	if err := d.holdKillSwitch(next); err != nil {
		return nil, nil, err
	}
	if err := d.save(next); err != nil {
		return nil, nil, internal(err)
	}
	d.applyOperator()
	if err := d.applyRouting(); err != nil {
		return nil, nil, err
	}
	if d.session != nil && (enrolling || d.session.rejected()) {
		d.session.askAgain() // what the coordinator said before may hold no longer
	}
	if err := d.ensureSession(); err != nil {
		return nil, nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	if renaming {
		if err := d.rename(ctx, name); err != nil {
			return nil, nil, connect.NewError(connect.CodeOf(err), fmt.Errorf("the tunnel is up, and all else is set, but the name stays: %w", errors.Unwrap(err)))
		}
	}
	return d.session, warnings, nil
}

// rename asks the coordinator for another name unless the device has it, and keeps it if it is granted. The caller holds mu.
func (d *daemon) rename(ctx context.Context, name string) error {
	if d.session != nil && d.session.name() == name {
		return nil
	}
	if d.session == nil {
		return connect.NewError(connect.CodeFailedPrecondition, errors.New("the name can be changed only while the tunnel is up; run \"warren up\" first"))
	}
	if err := d.session.client.SetName(ctx, name); err != nil {
		return connect.NewError(connect.CodeFailedPrecondition, err)
	}
	next := *d.state
	next.Name = name
	if err := d.save(&next); err != nil {
		return internal(err)
	}
	return nil
}

// enrol makes or renews the membership in next. Nothing is stored before the coordinator agreed, except the device's keys, so that
// a repeated call is recognised as the same device.
func (d *daemon) enrol(ctx context.Context, next *state.State, text string) ([]string, error) {
	t, err := token.Parse(text)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	if m := next.Membership; m != nil && (m.Network != t.Network || !m.Authority.Equal(t.Authority)) {
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf(
			"this token is for network %s, but this device belongs to %s; run \"warren leave\" first", t.Network, m.Network))
	}
	if err := d.ensureKeys(next); err != nil {
		return nil, internal(err)
	}
	e, err := d.askToEnrol(ctx, t, next)
	if err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	next.Membership = &state.Membership{Network: t.Network, Authority: t.Authority, Endpoints: t.Endpoints, Record: e.Signed}
	if skewed(e.ClockSkew) {
		return []string{skewText(e.ClockSkew)}, nil
	}
	return nil, nil
}

// ensureKeys gives next the keys of the device, which are made, and stored, if there are none. The caller holds mu.
func (d *daemon) ensureKeys(next *state.State) error {
	if !next.Device.IsZero() {
		return nil
	}
	next.Device, next.Node = key.NewDevice(), key.NewNode()
	keysOnly := *d.state
	keysOnly.Device, keysOnly.Node = next.Device, next.Node
	return d.save(&keysOnly)
}

// askToEnrol asks the coordinator to admit the device with the keys and the name of s. It needs no lock.
func (d *daemon) askToEnrol(ctx context.Context, t *token.Token, s *state.State) (*client.Enrolled, error) {
	hostname, _ := os.Hostname() // an empty one is fine: the coordinator makes up a name
	e, err := client.Enrol(ctx, client.EnrolConfig{
		Token: t, Device: s.Device, Node: s.Node.Public(), Name: s.Name,
		Hostname: hostname, OS: runtime.GOOS, OSVersion: osversion.Get(), Version: buildversion.Get(), Now: d.cfg.Now, Dial: client.DialFunc(d.dial),
	})
	if err == nil {
		d.log.Info("enrolled", "name", e.Record.Name, "addresses", e.Record.Addresses, "renewed", e.Renewed)
	}
	return e, err
}

// maxSkew is how far off a clock may be before a person is told.
const maxSkew = 2 * time.Minute

func skewed(d time.Duration) bool { return d.Abs() > maxSkew }

func skewText(d time.Duration) string {
	way := "ahead of"
	if d < 0 {
		way = "behind"
	}
	return fmt.Sprintf("this machine's clock is %s %s the coordinator's; set it, or the map on disk may count as too old", d.Abs().Round(time.Second), way)
}

// Down implements LocalService.
func (a *api) Down(ctx context.Context, req *connect.Request[pb.DownRequest]) (*connect.Response[pb.DownResponse], error) {
	if _, err := a.admit(ctx); err != nil {
		return nil, err
	}
	d := a.d
	d.mu.Lock()
	defer d.mu.Unlock()
	next := *d.state
	next.Up = false
	if next.Routing.KillSwitch && !req.Msg.GetLiftKillSwitch() {
		return nil, connect.NewError(connect.CodeFailedPrecondition,
			errors.New("the kill switch is on, and without the tunnel nothing would leave this host; lift it first with \"warren up --kill-switch=false\""))
	}
	if next.Routing.KillSwitch {
		if err := d.cfg.Managed.mayLiftKillSwitch(); err != nil {
			return nil, err
		}
	}
	next.Routing.KillSwitch = false
	if err := d.save(&next); err != nil {
		return nil, internal(err)
	}
	d.stopSession()
	if err := d.liftKillSwitch(); err != nil {
		return nil, internal(err)
	}
	return connect.NewResponse(&pb.DownResponse{}), nil
}

// leaveTimeout bounds how long leave tries to tell the coordinator.
const leaveTimeout = 10 * time.Second

// Leave implements LocalService.
func (a *api) Leave(ctx context.Context, req *connect.Request[pb.LeaveRequest]) (*connect.Response[pb.LeaveResponse], error) {
	if _, err := a.admit(ctx); err != nil {
		return nil, err
	}
	d := a.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state.Membership == nil {
		return nil, d.notJoined()
	}
	var out pb.LeaveResponse
	if err := d.tellLeaving(ctx); err != nil {
		if !req.Msg.GetForce() {
			return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf(
				"the coordinator could not be told: %w; try again later, or forget the keys with --force and have the device removed there", err))
		}
		out.Warning = fmt.Sprintf("the coordinator was not told: %v; remove the device there with \"warren-coordinator device remove\"", err)
	}
	d.stopSession()
	kept, err := d.dir.Forget(d.state)
	if err != nil {
		return nil, internal(err)
	}
	d.stored, d.lastErr = kept, nil
	d.state = d.effective(kept)
	d.log.Info("left the network")
	if o := d.cfg.Join.Origin; o != "" {
		out.Warning = strings.TrimPrefix(out.Warning+"; ", "; ") + "there is a join token in " + o + ": take it away, or the device joins again when the daemon starts anew"
	}
	return connect.NewResponse(&out), nil
}

func (d *daemon) tellLeaving(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	if d.session != nil {
		if d.session.rejected() {
			return nil // it is gone there already
		}
		return d.session.client.Leave(ctx)
	}
	c, err := client.New(clientConfig(sessionConfig{Config: d.cfg, state: *d.state, mapFile: d.dir.MapFile(), dial: d.dial}))
	if err != nil {
		return err
	}
	return c.Leave(ctx)
}

// Status implements LocalService.
func (a *api) Status(ctx context.Context, _ *connect.Request[pb.StatusRequest]) (*connect.Response[pb.StatusResponse], error) {
	if _, err := a.admit(ctx); err != nil {
		return nil, err
	}
	return connect.NewResponse(a.d.status()), nil
}

func internal(err error) error { return connect.NewError(connect.CodeInternal, err) }
