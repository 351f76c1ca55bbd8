package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"warren/coord/domain"
	"warren/coord/policy"
	"warren/coord/store"
	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/token"
	pb "warren/proto/warrenv1"
	"warren/proto/warrenv1/warrenv1connect"
)

// admin answers AdminService.
type admin struct {
	warrenv1connect.UnimplementedAdminServiceHandler
	*Server
}

// CreateToken makes a join token and gives its text, which is not stored.
func (s *Server) CreateToken(ctx context.Context, w domain.TokenWish) (*domain.Token, string, error) {
	if len(s.cfg.Endpoints) == 0 {
		return nil, "", fmt.Errorf("%w: the coordinator has no address to put into a token; start it with --url", errForm)
	}
	if err := policy.CheckUser(w.Owner); w.Owner != "" && err != nil {
		return nil, "", fmt.Errorf("%w: user %.100q: %w", errForm, w.Owner, err)
	}
	text := &token.Token{Network: s.network.ID, Authority: s.Authority()}
	rand.Read(text.Secret[:])
	for _, e := range s.cfg.Endpoints {
		text.Endpoints = append(text.Endpoints, token.Endpoint{URL: e.GetUrl(), Mode: e.GetTlsMode()})
	}
	private, err := text.Secret.Key()
	if err != nil {
		return nil, "", err
	}
	t, err := domain.NewToken(w, token.Hash(private.Public()), rand.Reader, s.cfg.Now())
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", errForm, err)
	}
	encoded, err := text.Encode()
	if err != nil {
		return nil, "", err
	}
	if err = s.store.Update(ctx, func(tx store.Tx) error { return tx.PutToken(t) }); err != nil {
		return nil, "", err
	}
	s.log.Info("join token made", "token", t.ID, "reusable", t.Reusable, "expires", t.ExpiresAt, "owner", t.Owner)
	return t, encoded, nil
}

// CreateToken implements AdminService.
func (a *admin) CreateToken(ctx context.Context, req *connect.Request[pb.CreateTokenRequest]) (*connect.Response[pb.CreateTokenResponse], error) {
	m := req.Msg
	if d := m.GetExpiresIn(); d != nil && (d.CheckValid() != nil || d.AsDuration() <= 0) {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("a token's life must be longer than nothing"))
	}
	owner := strings.TrimSuffix(m.GetOwner(), "@") // as policies may have it
	if owner == "" && len(m.GetTags()) == 0 && !m.GetRelay() {
		owner = callerOf(ctx) // a device that had neither user nor tags could be named by no policy
	}
	t, text, err := a.Server.CreateToken(ctx, domain.TokenWish{
		Life: m.GetExpiresIn().AsDuration(), Reusable: m.GetReusable(), Owner: owner, Tags: m.GetTags(),
		Ephemeral: m.GetEphemeral(), Relay: m.GetRelay(),
	})
	if err != nil {
		return nil, a.failure("token create", err)
	}
	return connect.NewResponse(&pb.CreateTokenResponse{Token: tokenMessage(t), Text: text}), nil
}

func tokenMessage(t *domain.Token) *pb.Token {
	return &pb.Token{
		Id: t.ID, CreatedAt: timestamp(t.CreatedAt), ExpiresAt: timestamp(t.ExpiresAt), Reusable: t.Reusable, Uses: t.Uses,
		Owner: t.Owner, Tags: t.Tags, Ephemeral: t.Ephemeral, Revoked: t.Revoked, Relay: t.Relay,
	}
}

// ListTokens implements AdminService.
func (a *admin) ListTokens(ctx context.Context, _ *connect.Request[pb.ListTokensRequest]) (*connect.Response[pb.ListTokensResponse], error) {
	var out pb.ListTokensResponse
	err := a.store.View(ctx, func(tx store.Tx) error {
		all, err := tx.Tokens()
		for _, t := range all {
			out.Tokens = append(out.Tokens, tokenMessage(t))
		}
		return err
	})
	if err != nil {
		return nil, a.internal("token list", err)
	}
	return connect.NewResponse(&out), nil
}

// RevokeToken implements AdminService. Devices that enrolled by the token stay.
func (a *admin) RevokeToken(ctx context.Context, req *connect.Request[pb.RevokeTokenRequest]) (*connect.Response[pb.RevokeTokenResponse], error) {
	var out pb.RevokeTokenResponse
	err := a.store.Update(ctx, func(tx store.Tx) error {
		t, err := tx.Token(req.Msg.GetId())
		if err != nil {
			return err
		}
		t.Revoked = true
		out.Token = tokenMessage(t)
		return tx.PutToken(t)
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("no token has the id %.60q; \"token list\" shows them", req.Msg.GetId()))
	}
	if err != nil {
		return nil, a.internal("token revoke", err)
	}
	a.log.Info("join token revoked", "token", req.Msg.GetId())
	return connect.NewResponse(&out), nil
}

// ListDevices implements AdminService.
func (a *admin) ListDevices(ctx context.Context, _ *connect.Request[pb.ListDevicesRequest]) (*connect.Response[pb.ListDevicesResponse], error) {
	var out pb.ListDevicesResponse
	err := a.store.View(ctx, func(tx store.Tx) error {
		all, err := tx.Devices()
		for _, d := range all {
			if d.Removed {
				continue
			}
			if fresh := a.hub.device(d.Key); fresh != nil {
				d = seenDevice(d, store.Sighting{At: fresh.LastSeen, Host: fresh.Host})
			}
			out.Devices = append(out.Devices, a.deviceMessage(&d.Device))
		}
		return err
	})
	if err != nil {
		return nil, a.internal("device list", err)
	}
	slices.SortFunc(out.Devices, func(x, y *pb.Device) int { return strings.Compare(x.GetName(), y.GetName()) })
	return connect.NewResponse(&out), nil
}

func (s *Server) deviceMessage(d *domain.Device) *pb.Device {
	now := s.cfg.Now()
	online, remote, duplicate := s.hub.sighting(d.Key, now)
	m := &pb.Device{
		Name: d.Name, DeviceKey: d.Key.Bytes(), NodeKey: d.NodeKey.Bytes(), Tags: d.Tags, Owner: d.Owner,
		Routes: record.PrefixesToProto(d.Routes), Ephemeral: d.Ephemeral, Online: online,
		CreatedAt: timestamp(d.CreatedAt), ExpiresAt: timestamp(d.ExpiresAt), LastSeen: timestamp(d.LastSeen),
		Hostname: d.Hostname, Os: d.OS, OsVersion: d.OSVersion, AgentVersion: d.AgentVersion,
		Version:   &pb.Version{Generation: d.Version.Generation, Counter: d.Version.Counter},
		Duplicate: duplicate, Remote: remote, Expired: d.Expired(now),
	}
	for _, addr := range d.Addresses {
		m.Addresses = append(m.Addresses, addr.AsSlice())
	}
	return m
}

// find looks a device up by name, address or device key.
func (b *batch) find(text string) (*domain.Device, error) {
	if k, err := key.ParseDevicePublic(text); err == nil {
		if d, err := b.device(k); err != nil || (d != nil && !d.Removed) {
			return d, err
		}
	}
	addr, addrErr := netip.ParseAddr(text)
	all, err := b.tx.Devices()
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		if !d.Removed && (d.Name == text || (addrErr == nil && slices.Contains(d.Addresses, addr))) {
			return &d.Device, nil
		}
	}
	return nil, fmt.Errorf("%w: no device has the name, address or key %.80q; \"device list\" shows them", store.ErrNotFound, text)
}

// lookUp gives a device for calls that change nothing.
func (s *Server) lookUp(ctx context.Context, text string) (d *domain.Device, err error) {
	err = s.store.View(ctx, func(tx store.Tx) error {
		d, err = newBatch(s, tx).find(text)
		return err
	})
	return d, err
}

// change finds a device, stores what f makes of it, and gives what that came to.
func (s *Server) change(ctx context.Context, which string, f func(*batch, *domain.Device) (*domain.Device, error)) (changed *domain.Device, err error) {
	err = s.commit(ctx, func(b *batch) error {
		d, err := b.find(which)
		if err != nil {
			return err
		}
		next, err := f(b, d)
		if err != nil {
			return err
		}
		if err := b.put(next); err != nil {
			return err
		}
		changed = &b.devices[0].Device
		return nil
	})
	return changed, err
}

// changeDevice is change for calls that answer with the device.
func (a *admin) changeDevice(ctx context.Context, which string, f func(*batch, *domain.Device) (*domain.Device, error)) (*pb.Device, error) {
	changed, err := a.change(ctx, which, f)
	if err != nil {
		return nil, a.deviceFailure("change of a device", err)
	}
	return a.deviceMessage(changed), nil
}

// deviceFailure is failure for calls that name a device, or a route of one.
func (a *admin) deviceFailure(what string, err error) *connect.Error {
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, domain.ErrRouteUnknown) {
		return connect.NewError(connect.CodeNotFound, err)
	}
	return a.failure(what, err)
}

// RenameDevice implements AdminService.
func (a *admin) RenameDevice(ctx context.Context, req *connect.Request[pb.RenameDeviceRequest]) (*connect.Response[pb.RenameDeviceResponse], error) {
	d, err := a.changeDevice(ctx, req.Msg.GetDevice(), func(b *batch, d *domain.Device) (*domain.Device, error) {
		var failed error
		next, err := domain.Rename(&a.network, d, req.Msg.GetName(), b.taken(&failed).Name)
		return next, errors.Join(failed, err)
	})
	if err != nil {
		return nil, err
	}
	a.log.Info("device renamed", "device", req.Msg.GetDevice(), "name", d.GetName())
	return connect.NewResponse(&pb.RenameDeviceResponse{Device: d}), nil
}

// RemoveDevice implements AdminService.
func (a *admin) RemoveDevice(ctx context.Context, req *connect.Request[pb.RemoveDeviceRequest]) (*connect.Response[pb.RemoveDeviceResponse], error) {
	d, err := a.changeDevice(ctx, req.Msg.GetDevice(), func(_ *batch, d *domain.Device) (*domain.Device, error) {
		return domain.Remove(&a.network, d, a.cfg.Now())
	})
	if err != nil {
		return nil, err
	}
	a.log.Info("device removed", "device", d.GetName())
	return connect.NewResponse(&pb.RemoveDeviceResponse{Device: d}), nil
}

// ExpireDevice implements AdminService.
func (a *admin) ExpireDevice(ctx context.Context, req *connect.Request[pb.ExpireDeviceRequest]) (*connect.Response[pb.ExpireDeviceResponse], error) {
	now := a.cfg.Now()
	at := now
	if req.Msg.GetAt() != nil {
		if err := req.Msg.GetAt().CheckValid(); err != nil {
			return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("time of expiry: %w", err))
		}
		at = req.Msg.GetAt().AsTime()
	}
	d, err := a.changeDevice(ctx, req.Msg.GetDevice(), func(_ *batch, d *domain.Device) (*domain.Device, error) {
		return domain.Expire(&a.network, d, at, now)
	})
	if err != nil {
		return nil, err
	}
	a.log.Info("expiry of a device set", "device", d.GetName(), "at", at)
	return connect.NewResponse(&pb.ExpireDeviceResponse{Device: d}), nil
}

func (s *Server) online(k key.DevicePublic) bool {
	online, _, _ := s.hub.sighting(k, s.cfg.Now())
	return online
}

// ListRelays implements AdminService.
func (a *admin) ListRelays(ctx context.Context, _ *connect.Request[pb.ListRelaysRequest]) (*connect.Response[pb.ListRelaysResponse], error) {
	var out pb.ListRelaysResponse
	if a.cfg.Relay != nil {
		out.Relays = append(out.Relays, &pb.RelayStatus{Relay: a.cfg.Relay, Online: true, BuiltIn: true})
	}
	err := a.store.View(ctx, func(tx store.Tx) error {
		all, err := tx.Relays()
		for _, r := range all {
			if !r.Removed {
				out.Relays = append(out.Relays, &pb.RelayStatus{Relay: r.Desc, Online: a.online(r.Key)})
			}
		}
		return err
	})
	if err != nil {
		return nil, a.internal("relay list", err)
	}
	return connect.NewResponse(&out), nil
}

// RemoveRelay implements AdminService.
func (a *admin) RemoveRelay(ctx context.Context, req *connect.Request[pb.RemoveRelayRequest]) (*connect.Response[pb.RemoveRelayResponse], error) {
	err := a.commit(ctx, func(b *batch) error {
		all, err := b.tx.Relays()
		if err != nil {
			return err
		}
		for _, r := range all {
			if !r.Removed && r.Desc.GetName() == req.Msg.GetName() {
				r.Removed = true
				return b.putRelay(r)
			}
		}
		return store.ErrNotFound
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("no separate relay is called %.80q; \"relays list\" shows them", req.Msg.GetName()))
	}
	if err != nil {
		return nil, a.internal("relay remove", err)
	}
	a.log.Info("relay removed", "relay", req.Msg.GetName())
	return connect.NewResponse(&pb.RemoveRelayResponse{}), nil
}

// ServerStatus implements AdminService.
func (a *admin) ServerStatus(context.Context, *connect.Request[pb.ServerStatusRequest]) (*connect.Response[pb.ServerStatusResponse], error) {
	devices, online, revision := a.hub.counts()
	return connect.NewResponse(&pb.ServerStatusResponse{
		Version: a.cfg.Version, NetworkId: a.network.ID[:], AuthorityKey: a.Authority().Bytes(), Endpoints: a.cfg.Endpoints,
		NetworkPrefixes: record.PrefixesToProto(a.network.Prefixes), Epoch: a.network.Epoch, Revision: revision,
		Devices: uint32(devices), DevicesOnline: uint32(online), StartedAt: timestamp(a.startedAt.Truncate(time.Second)),
	}), nil
}
