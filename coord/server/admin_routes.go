package server

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"warren/coord/domain"
	"warren/coord/store"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// ListRoutes implements AdminService.
func (a *admin) ListRoutes(ctx context.Context, req *connect.Request[pb.ListRoutesRequest]) (*connect.Response[pb.ListRoutesResponse], error) {
	devices, err := a.devicesOf(ctx, req.Msg.GetDevice())
	if err != nil {
		return nil, a.deviceFailure("route list", err)
	}
	slices.SortFunc(devices, func(x, y *domain.Device) int { return strings.Compare(x.Name, y.Name) })
	var out pb.ListRoutesResponse
	for _, d := range devices {
		if !d.Removed {
			out.Routes = append(out.Routes, a.routeMessages(d, nil)...)
		}
	}
	return connect.NewResponse(&out), nil
}

// devicesOf gives the device that is named, or all.
func (s *Server) devicesOf(ctx context.Context, which string) (out []*domain.Device, err error) {
	if which != "" {
		d, err := s.lookUp(ctx, which)
		return []*domain.Device{d}, err
	}
	err = s.store.View(ctx, func(tx store.Tx) error {
		all, err := tx.Devices()
		for _, d := range all {
			out = append(out, &d.Device)
		}
		return err
	})
	return out, err
}

// routeMessages gives those routes of a device that are in only, or all.
func (s *Server) routeMessages(d *domain.Device, only []netip.Prefix) (out []*pb.Route) {
	states := d.RouteStates()
	if len(states) == 0 {
		return nil
	}
	online := s.online(d.Key)
	for _, r := range states {
		if only == nil || slices.Contains(only, r.Prefix) {
			out = append(out, s.routeMessage(d, r, online))
		}
	}
	return out
}

// ApproveRoutes implements AdminService.
func (a *admin) ApproveRoutes(ctx context.Context, req *connect.Request[pb.ApproveRoutesRequest]) (*connect.Response[pb.ApproveRoutesResponse], error) {
	routes, err := a.ruleRoutes(ctx, req.Msg.GetDevice(), req.Msg.GetPrefixes(), true)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.ApproveRoutesResponse{Routes: routes}), nil
}

// RevokeRoutes implements AdminService.
func (a *admin) RevokeRoutes(ctx context.Context, req *connect.Request[pb.RevokeRoutesRequest]) (*connect.Response[pb.RevokeRoutesResponse], error) {
	routes, err := a.ruleRoutes(ctx, req.Msg.GetDevice(), req.Msg.GetPrefixes(), false)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.RevokeRoutesResponse{Routes: routes}), nil
}

// ruleRoutes approves or revokes, all of it or nothing, and gives the routes that it was about.
func (a *admin) ruleRoutes(ctx context.Context, which string, prefixes []*pb.Prefix, approved bool) ([]*pb.Route, error) {
	asked, err := record.PrefixesFromProto(prefixes, record.MaxRoutes)
	if err != nil {
		return nil, a.failure("route", fmt.Errorf("%w: %w", errForm, err))
	}
	ruled, err := a.change(ctx, which, func(_ *batch, d *domain.Device) (*domain.Device, error) {
		if len(asked) == 0 {
			asked = d.MeantRoutes(approved)
		}
		return domain.RuleRoutes(&a.network, d, asked, approved, callerOf(ctx), a.cfg.Now())
	})
	if err != nil {
		return nil, a.deviceFailure("change of routes", err)
	}
	return a.routeMessages(ruled, asked), nil
}
