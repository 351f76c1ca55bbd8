package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"warren/cmd/agent/internal/local"
	"warren/cmd/internal/flowview"
	"warren/internal/unixsock"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
	"warren/proto/warrenv1/warrenv1connect"
	"warren/tunnel/filter"
	"warren/tunnel/flowlog"
)

// whoIsSocket is the name of the socket that answers WhoIs only.
const whoIsSocket = "whois.sock"

// maxWhoIsFlows bounds the flows of one answer.
const maxWhoIsFlows = 64

// WhoIs implements LocalService.
func (a *api) WhoIs(ctx context.Context, req *connect.Request[pb.WhoIsRequest]) (*connect.Response[pb.WhoIsResponse], error) {
	if _, err := a.admit(ctx); err != nil {
		return nil, err
	}
	return a.d.whoIs(req)
}

// whoIsAPI is for services: it answers one question, to whom the kernel lets use its socket.
type whoIsAPI struct {
	warrenv1connect.UnimplementedLocalServiceHandler
	d     *daemon
	group local.Operator
}

// WhoIs implements LocalService.
func (a *whoIsAPI) WhoIs(ctx context.Context, req *connect.Request[pb.WhoIsRequest]) (*connect.Response[pb.WhoIsResponse], error) {
	if c, ok := unixsock.CallerFrom(ctx); !ok || !a.group.Admits(c) {
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("only members of the group given by --whois-group may ask"))
	}
	return a.d.whoIs(req)
}

// serveWhoIs answers services on a socket of their own.
func (d *daemon) serveWhoIs(ctx context.Context, group *errgroup.Group) error {
	o, err := local.LookUpOperator("group:" + d.cfg.WhoIsGroup)
	if err != nil {
		return fmt.Errorf("%w; choose another with --whois-group", err)
	}
	path := filepath.Join(filepath.Dir(d.cfg.Socket), whoIsSocket)
	l, err := unixsock.Listen(path)
	if err != nil {
		return err
	}
	if err := local.Grant(path, o); err != nil {
		l.Close()
		return fmt.Errorf("socket %s cannot be given to group %s: %w", path, d.cfg.WhoIsGroup, err)
	}
	mux := http.NewServeMux()
	mux.Handle(warrenv1connect.NewLocalServiceHandler(&whoIsAPI{d: d, group: o}))
	group.Go(func() error {
		defer os.Remove(path)
		return unixsock.Serve(ctx, l, mux)
	})
	return nil
}

func (d *daemon) whoIs(req *connect.Request[pb.WhoIsRequest]) (*connect.Response[pb.WhoIsResponse], error) {
	addr, port, err := local.ParseEnd(req.Msg.GetAddress())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	s := d.current()
	if s == nil {
		return nil, errDown
	}
	m, device, err := s.known.Load().whoIs(addr, s.self, s.networks.inUse)
	if err != nil {
		return nil, connect.NewError(connect.CodeNotFound, err)
	}
	if port != 0 {
		m.Flows = s.flowsOf(netip.AddrPortFrom(addr, port), device)
	}
	return connect.NewResponse(m), nil
}

// whoIs answers from the map; device is the peer that flows of the address go through, or zero for this device.
func (k *known) whoIs(a netip.Addr, self *record.Device, inUse func(netip.Prefix) *record.Device) (
	m *pb.WhoIsResponse, device key.DevicePublic, err error,
) {
	if k.m == nil {
		return nil, device, errors.New("no network map yet; see \"warren status\"")
	}
	if k.m.Self != nil {
		self = k.m.Self
	}
	if slices.Contains(self.Addresses, a) {
		m = k.identify(self)
		m.Self = true
		return m, device, nil
	}
	for _, p := range k.m.Peers {
		if slices.Contains(p.Addresses, a) {
			return k.identify(p), p.Key, nil
		}
	}
	if p, route, ok := k.carrier(a, inUse); ok {
		return &pb.WhoIsResponse{Gateway: p.Name, Route: route.String()}, p.Key, nil
	}
	return nil, device, fmt.Errorf("nobody in this device's map has the address %s; \"warren status\" lists the peers", a)
}

func (k *known) identify(d *record.Device) *pb.WhoIsResponse {
	m := &pb.WhoIsResponse{Device: d.Name, User: d.Owner, Tags: d.Tags, Addresses: texts(d.Addresses)}
	if len(d.Tags) > 0 || d.Owner == "" || k.m.Statement == nil {
		return m // a device with tags belongs to them: it is in no group by its owner
	}
	for _, u := range k.m.Statement.GetGroups() {
		if u.GetUser() == d.Owner {
			m.Groups = u.GetGroups()
		}
	}
	return m
}

// flowsOf gives live flows that have an end, of one peer or, if that is zero, of all.
func (s *session) flowsOf(end netip.AddrPort, device key.DevicePublic) (out []*pb.FlowRecord) {
	now := time.Now()
	s.engine.Flows(device, func(r *filter.Record) bool {
		if r.Src == end || r.Dst == end {
			record := flowlog.FromFilter(r, s.resolve(r.Peer.ID), now)
			out = append(out, flowview.ToWire(&record))
		}
		return len(out) < maxWhoIsFlows
	})
	return out
}
