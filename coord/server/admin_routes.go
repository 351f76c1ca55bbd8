package server

import (
	"context"
	"errors"
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
	var devices []*store.Device
	err := a.store.View(ctx, func(tx store.Tx) error {
		which := req.Msg.GetDevice()
		if which != "" {
			d, err := (&batch{s: a.Server, tx: tx}).find(which)
			if err != nil {
				return err
			}
			devices = append(devices, &store.Device{Device: *d})
			return nil
		}
		var err error
		devices, err = tx.Devices()
		return err
	})
	if err != nil {
		return nil, a.routeFailure("route list", err)
	}
	slices.SortFunc(devices, func(x, y *store.Device) int { return strings.Compare(x.Name, y.Name) })
	var out pb.ListRoutesResponse
	for _, d := range devices {
		if !d.Removed {
			out.Routes = append(out.Routes, a.routeMessages(&d.Device, nil)...)
		}
	}
	return connect.NewResponse(&out), nil
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
	var ruled *domain.Device
	err = a.commit(ctx, func(b *batch) error {
		d, err := b.find(which)
		if err != nil {
			return err
		}
		if len(asked) == 0 {
			asked = d.MeantRoutes(approved)
		}
		next, err := domain.RuleRoutes(&a.network, d, asked, approved, callerOf(ctx), a.cfg.Now())
		if err != nil {
			return err
		}
		if err := b.put(next); err != nil {
			return err
		}
		ruled = &b.devices[0].Device
		return nil
	})
	if err != nil {
		return nil, a.routeFailure("change of routes", err)
	}
	return a.routeMessages(ruled, asked), nil
}

// routeFailure is failure for calls that name a device and its routes.
func (a *admin) routeFailure(what string, err error) *connect.Error {
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, domain.ErrRouteUnknown) {
		return connect.NewError(connect.CodeNotFound, err)
	}
	return a.failure(what, err)
}
