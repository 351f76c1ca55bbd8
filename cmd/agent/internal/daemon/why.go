package daemon

import (
	"context"
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/cmd/agent/internal/local"
	"warren/nat/gather"
	"warren/nat/signal"
	"warren/nat/traversal"
	"warren/nat/why"
	pb "warren/proto/warrenv1"
)

// askFor is how long why waits for the peer's own view, and explainFor for ours.
const (
	askFor     = time.Second
	explainFor = 5 * time.Second
)

// errDown says that nothing can be asked of the tunnel.
var errDown = connect.NewError(connect.CodeFailedPrecondition, errors.New("the tunnel is down; run \"warren up\" first"))

// running gives the session for a call that needs one.
func (a *api) running(ctx context.Context) (*session, error) {
	if _, err := a.admit(ctx); err != nil {
		return nil, err
	}
	if s := a.d.current(); s != nil {
		return s, nil
	}
	return nil, errDown
}

// current gives the session that runs, or nil.
func (d *daemon) current() *session {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.session == nil || d.session.ended() {
		return nil
	}
	return d.session
}

// Why implements LocalService.
func (a *api) Why(ctx context.Context, req *connect.Request[pb.WhyRequest]) (*connect.Response[pb.WhyResponse], error) {
	s, err := a.running(ctx)
	if err != nil {
		return nil, err
	}
	k := s.known.Load()
	peer, flows, err := k.findFor(req.Msg, s.self.Addresses, s.networks.inUse)
	if err != nil {
		return nil, err
	}
	asking, cancel := context.WithTimeout(ctx, askFor)
	s.traversal.Ask(asking, peer.NodeKey)
	cancel()
	ctx, cancel = context.WithTimeout(ctx, explainFor)
	defer cancel()
	e, err := s.traversal.Explain(ctx, peer.NodeKey)
	if err != nil {
		return nil, internal(err)
	}
	_, online := s.online.Load(peer.Key.Raw())
	words := why.Explain(why.Facts{
		Now: time.Now(), Peer: peer.Name, CoordinatorUp: s.control.Load().Connected, Online: online,
		Relays: len(k.m.Statement.GetRelays()), Explanation: e,
	})
	out := &pb.WhyResponse{
		Peer: peer.Name, Path: pathStatus(e.Path), Now: words.Now, Tried: words.Tried, Stopped: words.Stopped, Help: words.Help,
		Self: sideStatus(e.Own, time.Now()), Pairs: pairStatus(e), History: history(e.History), Flows: flows,
	}
	if !e.TheirsAt.IsZero() {
		out.Remote = sideStatus(e.Theirs, e.TheirsAt)
	}
	return connect.NewResponse(out), nil
}

// ownView is what the gatherer found, as peers are told it. IPv4 counts more: there are the NATs.
func ownView(r gather.Report) (v signal.View) {
	for _, s := range r.Servers {
		if !s.At.IsZero() {
			v.UDP = pb.Reach_REACH_WORKS
		}
	}
	if v.UDP == 0 && r.Whole && len(r.Servers) > 0 {
		v.UDP = pb.Reach_REACH_BLOCKED
	}
	if v.Mapping = mappingOf(r.IPv4); v.Mapping == 0 {
		v.Mapping = mappingOf(r.IPv6)
	}
	return v
}

func mappingOf(m gather.Mapping) pb.Mapping {
	switch m.Behaviour {
	case gather.NoNAT:
		return pb.Mapping_MAPPING_NONE
	case gather.EndpointIndependent:
		return pb.Mapping_MAPPING_ENDPOINT_INDEPENDENT
	case gather.AddressDependent:
		return pb.Mapping_MAPPING_ADDRESS_DEPENDENT
	case gather.AddressAndPortDependent:
		return pb.Mapping_MAPPING_ADDRESS_AND_PORT_DEPENDENT
	}
	return pb.Mapping_MAPPING_UNSPECIFIED
}

func sideStatus(v signal.View, at time.Time) *pb.SideStatus {
	return &pb.SideStatus{
		Udp: word(v.UDP.String(), "REACH_"), Mapping: word(v.Mapping.String(), "MAPPING_"), Path: word(v.Path.String(), "PATH_KIND_"),
		Mtu: uint32(v.MTU), At: timestamppb.New(at),
	}
}

// word makes a name of protobuf's one for people: RFC 4787's, with hyphens.
func word(name, prefix string) string {
	name = strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, prefix), "_", "-"))
	if name == "unspecified" {
		return "unknown"
	}
	return name
}

func pairStatus(e traversal.Explanation) (out []*pb.PairStatus) {
	for _, p := range e.Pairs {
		st := &pb.PairStatus{
			Remote: addrText(p.Remote), Kind: why.KindName(p.Kind), Sent: uint32(p.Sent), Answered: uint32(p.Answered),
			RttMs: float64(p.RTT) / float64(time.Millisecond), LastSent: local.Stamp(p.LastSent), LastAnswer: local.Stamp(p.LastAnswer), InUse: p.Current,
		}
		if p.Local.IsValid() {
			st.Local = p.Local.String()
		}
		out = append(out, st)
	}
	return out
}

func history(list []traversal.Change) (out []*pb.PathChange) {
	for _, c := range list {
		out = append(out, &pb.PathChange{
			At: local.Stamp(c.At), Kind: c.Kind.String(), Local: addrText(c.Local), Remote: addrText(c.Remote), Relay: c.Relay, Mtu: uint32(c.MTU),
			Cause: c.Cause.Label(), Reason: c.Reason,
		})
	}
	return out
}
