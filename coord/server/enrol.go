package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"

	"connectrpc.com/connect"

	"warren/coord/domain"
	"warren/coord/reason"
	"warren/coord/store"
	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/token"
	pb "warren/proto/warrenv1"
)

// agents answers CoordinatorService.
type agents struct{ *Server }

// errMalformed is for requests that no program of ours makes.
func (s *Server) errMalformed(err error) *connect.Error {
	return s.refuse(connect.CodeInvalidArgument, "malformed", err)
}

// enrolment is an EnrolBody whose two signatures have been verified.
type enrolment struct {
	*pb.EnrolBody
	token  key.TokenPublic
	device key.DevicePublic
	node   key.NodePublic
}

// Enrol implements CoordinatorService. The caller's clock does not matter.
func (a *agents) Enrol(ctx context.Context, req *connect.Request[pb.EnrolRequest]) (*connect.Response[pb.EnrolResponse], error) {
	if err := a.limits.allow(remoteOf(req)); err != nil {
		return nil, a.refuse(connect.CodeResourceExhausted, "rate", err)
	}
	e, err := a.openEnrolment(req.Msg)
	if err != nil {
		return nil, a.errMalformed(err)
	}
	r := &pb.EnrolResponse{SigningCertificate: a.certificate, ServerTime: timestamp(a.cfg.Now())}
	if e.GetRole() == pb.Role_ROLE_RELAY {
		err = a.enrolRelay(ctx, e, r)
	} else {
		err = a.enrolDevice(ctx, e, r)
	}
	if err != nil {
		return nil, a.enrolError(err)
	}
	a.metrics.enrolments.Inc()
	return connect.NewResponse(r), nil
}

// openEnrolment verifies both signatures: of the key derived from the token's secret, and of the device. Neither can be moved to another
// device or network.
func (s *Server) openEnrolment(m *pb.EnrolRequest) (*enrolment, error) {
	e := &enrolment{EnrolBody: new(pb.EnrolBody)}
	err := record.Parse(record.ContextEnrolToken, m.GetPayload(), e.EnrolBody)
	if err != nil {
		return nil, err
	}
	if e.token, err = key.TokenPublicFromBytes(e.GetTokenKey()); err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	if e.device, err = key.DevicePublicFromBytes(e.GetDeviceKey()); err != nil {
		return nil, fmt.Errorf("device key: %w", err)
	}
	if err := record.Verify(e.token, record.ContextEnrolToken, m.GetPayload(), m.GetTokenSignature()); err != nil {
		return nil, err
	}
	if err := record.Verify(e.device, record.ContextEnrolDevice, m.GetPayload(), m.GetDeviceSignature()); err != nil {
		return nil, err
	}
	if n, err := record.NetworkIDFromBytes(e.GetNetworkId()); err != nil || n != s.network.ID {
		return nil, fmt.Errorf("the token is for network %x, and this is the coordinator of %s", e.GetNetworkId(), s.network.ID)
	}
	if e.GetRole() == pb.Role_ROLE_DEVICE {
		if e.node, err = key.NodePublicFromBytes(e.GetNodeKey()); err != nil {
			return nil, fmt.Errorf("node key: %w", err)
		}
	} else if e.GetRole() != pb.Role_ROLE_RELAY {
		return nil, fmt.Errorf("unknown role %d", e.GetRole())
	}
	return e, nil
}

// useToken admits the device by its token inside the transaction that consumes it.
func (b *batch) useToken(e *enrolment, relay bool) (*domain.Token, error) {
	now := b.s.cfg.Now()
	t, err := b.tx.TokenByHash(token.Hash(e.token))
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%w; ask for a new one: \"warren-coordinator token create\"", domain.ErrTokenUnknown)
	}
	if err != nil {
		return nil, err
	}
	again, err := b.tx.TokenUsedBy(t.ID, e.device)
	if err != nil {
		return nil, err
	}
	if err := t.Admit(relay, again, now); err != nil {
		return nil, err
	}
	return t, b.tx.UseToken(t.ID, e.device, now)
}

func (a *agents) enrolDevice(ctx context.Context, e *enrolment, r *pb.EnrolResponse) error {
	return a.commit(ctx, func(b *batch) error {
		t, err := b.useToken(e, false)
		if err != nil {
			return err
		}
		old, err := b.device(e.device)
		if err != nil {
			return err
		}
		var lookUp error
		d, err := domain.Enrol(&a.network, old, domain.Request{
			Device: e.device, Node: e.node, Name: e.GetName(),
			Hostname: e.GetHostname(), OS: e.GetOs(), AgentVersion: e.GetAgentVersion(),
		}, t, b.taken(&lookUp), rand.Reader, a.cfg.Now())
		if lookUp != nil {
			return lookUp
		}
		if err != nil {
			return err
		}
		if err := b.put(d); err != nil {
			return err
		}
		r.Record, r.Renewed = b.devices[0].Signed, old != nil
		a.log.Info("device enrolled", "device", d.Name, "key", d.Key.Short(), "addresses", d.Addresses, "token", t.ID, "owner", d.Owner, "renewed", r.Renewed)
		return nil
	})
}

// taken asks the transaction what is taken; an error of the database is kept in *failed.
func (b *batch) taken(failed *error) domain.Taken {
	note := func(yes bool, err error) bool {
		*failed = errors.Join(*failed, err)
		return yes
	}
	return domain.Taken{
		Name:    func(n string) bool { return note(b.tx.NameTaken(n)) },
		Address: func(a netip.Addr) bool { return note(b.tx.AddressTaken(a)) },
	}
}

func (a *agents) enrolRelay(ctx context.Context, e *enrolment, r *pb.EnrolResponse) error {
	desc := e.GetRelay()
	if err := checkRelay(desc); err != nil {
		return err
	}
	if sum := e.GetRelaySpkiSha256(); len(sum) == 32 {
		binding, err := record.BindTLSHash(a.id.authority, a.network.ID, pb.TLSRole_TLS_ROLE_RELAY, [32]byte(sum))
		if err != nil {
			return err
		}
		r.TlsBinding = binding
	}
	return a.commit(ctx, func(b *batch) error {
		if _, err := b.useToken(e, true); err != nil {
			return err
		}
		relays, err := b.tx.Relays()
		if err != nil {
			return err
		}
		stored := &store.Relay{Key: e.device, CreatedAt: a.cfg.Now()}
		for _, old := range relays {
			switch {
			case old.Key.Equal(e.device):
				stored, r.Renewed = old, true
			case !old.Removed && old.Desc.GetName() == desc.GetName():
				return fmt.Errorf("%w: another relay is called %q already; choose another with --name", domain.ErrName, desc.GetName())
			}
		}
		if stored.Removed {
			return fmt.Errorf("%w: relay %q; start it with a fresh state directory", domain.ErrRemoved, desc.GetName())
		}
		stored.LastSeen = a.cfg.Now()
		stored.Desc = &pb.Relay{RelayKey: e.device.Bytes(), Name: desc.GetName(), Urls: desc.GetUrls(), TlsMode: desc.GetTlsMode(), Stun: desc.GetStun()}
		a.log.Info("relay enrolled", "relay", desc.GetName(), "urls", desc.GetUrls())
		return b.putRelay(stored)
	})
}

func checkRelay(r *pb.Relay) error {
	if err := record.CheckLabel(r.GetName()); err != nil {
		return fmt.Errorf("%w: %w", domain.ErrName, err)
	}
	if len(r.GetUrls()) == 0 || len(r.GetUrls()) > record.MaxURLs || len(r.GetStun()) > record.MaxURLs {
		return fmt.Errorf("a relay has 1 to %d URLs and at most as many STUN addresses", record.MaxURLs)
	}
	for _, u := range r.GetUrls() {
		if err := token.CheckEndpoint(u, r.GetTlsMode()); err != nil {
			return err
		}
	}
	return nil
}

// enrolError gives each refusal its reason.
func (s *Server) enrolError(err error) *connect.Error {
	for _, c := range []struct {
		is   error
		why  string
		code connect.Code
	}{
		{domain.ErrTokenUnknown, reason.TokenUnknown, connect.CodePermissionDenied},
		{domain.ErrTokenExpired, reason.TokenExpired, connect.CodePermissionDenied},
		{domain.ErrTokenUsed, reason.TokenUsed, connect.CodePermissionDenied},
		{domain.ErrTokenRevoked, reason.TokenRevoked, connect.CodePermissionDenied},
		{domain.ErrTokenRole, reason.TokenRole, connect.CodePermissionDenied},
		{domain.ErrName, reason.Name, connect.CodeAlreadyExists},
		{domain.ErrRemoved, reason.Removed, connect.CodePermissionDenied},
		{domain.ErrFull, "full", connect.CodeResourceExhausted},
	} {
		if errors.Is(err, c.is) {
			s.log.Info("enrolment refused", "reason", c.why, "err", err)
			return s.refuse(c.code, c.why, err)
		}
	}
	return s.internal("enrolment", err)
}
