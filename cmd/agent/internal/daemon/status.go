package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/internal/buildversion"
	"warren/nat/traversal"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
	"warren/tunnel/engine"
)

// status puts together what the parts know.
func (d *daemon) status() *pb.StatusResponse {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := &pb.StatusResponse{
		State: pb.StatusResponse_STATE_NOT_ENROLLED, Version: buildversion.Get(),
		Self: &pb.Self{}, Coordinator: &pb.CoordinatorStatus{}, Operator: d.state.Operator, Pid: uint32(os.Getpid()),
		Started: timestamppb.New(d.began),
	}
	m := d.state.Membership
	r.KillSwitch, r.AcceptRoutes = d.state.Routing.KillSwitch, !d.state.Routing.RefuseRoutes
	if w := d.killSwitchWarning(); w != "" {
		r.Warnings = append(r.Warnings, w)
	}
	r.Settings = d.settings()
	if w := d.joiner.warning(); w != "" {
		r.Warnings = append(r.Warnings, w)
	}
	if d.services != nil {
		r.Interface, r.Userspace = UserspaceName, d.services.status()
	}
	if m == nil {
		return r
	}
	r.State = pb.StatusResponse_STATE_DOWN
	r.Coordinator.Url = m.Endpoints[0].URL
	if d.lastErr != nil {
		r.Warnings = append(r.Warnings, d.lastErr.Error())
	}
	if self, err := record.OpenDevice(m.Authority, m.Network, m.Record); err == nil {
		r.Self = selfStatus(self)
	}
	if d.session != nil && !d.session.ended() {
		d.session.fill(r, d.cfg.Now())
	}
	return r
}

func selfStatus(d *record.Device) *pb.Self {
	return &pb.Self{Name: d.Name, Addresses: texts(d.Addresses), NodeKey: d.NodeKey.String(), Owner: d.Owner, Tags: d.Tags}
}

func texts[T fmt.Stringer](in []T) []string {
	out := make([]string, 0, len(in))
	for _, v := range in {
		out = append(out, v.String())
	}
	return out
}

// fill adds what a running session knows.
func (s *session) fill(r *pb.StatusResponse, now time.Time) {
	r.Interface = s.router.Name()
	r.State = pb.StatusResponse_STATE_STARTING
	control, k := s.control.Load(), s.known.Load()
	if control.URL != "" {
		r.Coordinator.Url = control.URL
	}
	r.Coordinator.Connected = control.Connected
	if control.Err != nil {
		r.Coordinator.Error = control.Err.Error()
	}
	if control.Connected || control.Skew != 0 {
		r.Coordinator.ClockAhead = durationpb.New(control.Skew)
	}
	if skewed(control.Skew) {
		r.Warnings = append(r.Warnings, skewText(control.Skew))
	}
	switch {
	case s.rejected():
		r.State = pb.StatusResponse_STATE_REJECTED
		r.Warnings = append(r.Warnings, r.Coordinator.Error)
	case k.m != nil:
		r.State = pb.StatusResponse_STATE_UP
	}
	r.Nat = s.natStatus()
	s.networks.fill(r)
	if err := s.advertise.problem(); err != nil {
		r.Warnings = append(r.Warnings, fmt.Sprintf("nothing is advertised: %v", err))
	}
	if err := s.dns.Problem(); err != nil {
		r.Warnings = append(r.Warnings, err.Error())
	}
	if k.m == nil {
		return
	}
	if k.m.Self != nil {
		r.Self = selfStatus(k.m.Self)
	}
	r.Coordinator.MapRevision = k.m.Revision
	if !control.Connected && !k.m.CurrentAt.IsZero() {
		r.Coordinator.MapAgeS = uint64(max(0, now.Sub(k.m.CurrentAt)) / time.Second)
	}
	s.fillPeers(r, k)
}

func (s *session) fillPeers(r *pb.StatusResponse, k *known) {
	paths, histories := s.traversal.Paths(), s.traversal.Histories()
	stats := map[[key.Size]byte]engine.PeerStats{}
	for _, st := range s.engine.Stats() {
		stats[st.NodeKey.Raw()] = st
	}
	for _, p := range k.m.Peers {
		_, online := s.online.Load(p.Key.Raw())
		st := stats[p.NodeKey.Raw()]
		peer := &pb.PeerStatus{
			Name: p.Name, Addresses: texts(p.Addresses), NodeKey: p.NodeKey.String(), Online: online, Routes: texts(p.Routes),
			Path: pathStatus(paths[p.NodeKey.Raw()]), RxBytes: st.RxBytes, TxBytes: st.TxBytes,
			History: history(histories[p.NodeKey.Raw()]),
		}
		if !st.LastHandshake.IsZero() {
			peer.LastHandshake = timestamppb.New(st.LastHandshake)
		}
		r.Peers = append(r.Peers, peer)
	}
}

func pathStatus(p traversal.Path) *pb.PathStatus {
	out := &pb.PathStatus{Kind: "none"}
	switch p.Kind {
	case traversal.Direct:
		out.Kind, out.Local, out.Remote = "direct", addrText(p.Local), addrText(p.Remote)
	case traversal.Relay:
		out.Kind, out.Relay, out.Remote = "relay", p.Relay, addrText(p.RelayAddr)
	}
	out.Mtu = uint32(p.MTU)
	out.RttMs = float64(p.RTT) / float64(time.Millisecond)
	if !p.Since.IsZero() {
		out.Since = timestamppb.New(p.Since)
	}
	return out
}

func addrText(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// rejected reports whether the coordinator no longer wants this device.
func (s *session) rejected() bool { return s.control.Load().Rejected }

// awayAfter is how long up waits for a coordinator that is away when a map on disk serves as well.
const awayAfter = 3 * time.Second

// awaitConnected returns when the session has what it needs to reach peers: the map, and a relay if the network has any. With a map on
// disk it does not insist on the coordinator.
func (a *api) awaitConnected(ctx context.Context, s *session, out *connect.ServerStream[pb.UpResponse]) error {
	away := time.NewTimer(awayAfter)
	defer away.Stop()
	patient, told := true, ""
	for {
		changed := s.changed.Next()
		missing, err := s.missing()
		if err != nil {
			return connect.NewError(connect.CodeFailedPrecondition, err)
		}
		if missing == "" {
			return nil
		}
		if !patient && s.known.Load().m != nil {
			return out.Send(&pb.UpResponse{Warning: "going on with the map on disk: " + missing})
		}
		if missing != told {
			told = missing
			if err := out.Send(&pb.UpResponse{Progress: missing}); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-away.C:
			patient = false
		}
	}
}

// missing tells what is not there yet, or an error that waiting will not mend.
func (s *session) missing() (string, error) {
	control := s.control.Load()
	k := s.known.Load()
	_, _, relayed := s.relays.first()
	switch {
	case s.ended():
		return "", fmt.Errorf("the tunnel went down: %w", errors.Join(s.err))
	case control.Rejected:
		return "", control.Err
	case !control.Connected && control.Err != nil:
		return fmt.Sprintf("the coordinator is not reachable: %v", control.Err), nil
	case !control.Connected:
		return "connecting to the coordinator", nil
	case k.m == nil:
		return "waiting for the network map", nil
	case !relayed && len(k.m.Statement.GetRelays()) > 0:
		return "connecting to the relay", nil
	case !s.advertise.settled():
		return "telling the coordinator what this device advertises", nil
	case s.advertise.problem() == nil && !s.networks.accounted():
		return "waiting for what becomes of what this device advertises", nil
	}
	return "", nil
}
