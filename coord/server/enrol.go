package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"slices"

	"connectrpc.com/connect"

	"warren/coord/domain"
	"warren/coord/reason"
	"warren/coord/store"
	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/token"
	pb "warren/proto/warrenv1"
	"warren/proto/warrenv1/warrenv1connect"
)

// agents answers CoordinatorService.
type agents struct {
	warrenv1connect.UnimplementedCoordinatorServiceHandler
	*Server
}

// errMalformed is for requests that no program of ours makes.
func (s *Server) errMalformed(err error) *connect.Error {
	return s.refuse(connect.CodeInvalidArgument, whyMalformed, err)
}

// enrolment is an EnrolBody whose two signatures have been verified.
type enrolment struct {
	*pb.EnrolBody
	token  key.TokenPublic
	device key.DevicePublic
	node   key.NodePublic
	digest [sha256.Size]byte // of the payload
}

// Enrol implements CoordinatorService. The caller's clock does not matter.
func (a *agents) Enrol(ctx context.Context, req *connect.Request[pb.EnrolRequest]) (*connect.Response[pb.EnrolResponse], error) {
	if err := a.slow(req); err != nil {
		return nil, err
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
		refused := a.failure("enrolment", err)
		a.log.Info("enrolment refused", "remote", remoteOf(req), "reason", refused.Meta().Get(reason.Header), "err", err)
		return nil, refused
	}
	a.metrics.enrolments.Inc()
	return connect.NewResponse(r), nil
}

// openEnrolment verifies both signatures: of the key derived from the token's secret, and of the device. Neither can be moved to another
// device or network.
func (s *Server) openEnrolment(m *pb.EnrolRequest) (*enrolment, error) {
	e := &enrolment{EnrolBody: new(pb.EnrolBody), digest: sha256.Sum256(m.GetPayload())}
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

// useToken admits the device by its token inside the transaction that consumes it. member tells whether the device is one now. repeated
// says that this very request was granted before: somebody may be playing it again, so it must change nothing.
func (b *batch) useToken(e *enrolment, relay, member bool) (t *domain.Token, repeated bool, err error) {
	now := b.s.cfg.Now()
	t, err = b.tx.TokenByHash(token.Hash(e.token))
	if errors.Is(err, store.ErrNotFound) {
		return nil, false, fmt.Errorf("%w; ask for a new one: \"warren-coordinator token create\"", domain.ErrTokenUnknown)
	}
	if err != nil {
		return nil, false, err
	}
	use, err := b.tx.TokenUse(t.ID, e.device)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, false, err
	}
	if err := t.Admit(relay, use != nil && member, now); err != nil {
		return nil, false, err
	}
	switch {
	case use.Repeats(e.digest) && member:
		return t, true, nil
	case use.Repeats(e.digest):
		return nil, false, fmt.Errorf("%w: this request was granted before; run \"warren up\" again", domain.ErrTokenUsed)
	case use != nil && len(use.Requests) >= domain.MaxUses:
		return nil, false, fmt.Errorf("%w: this device renewed by it %d times; ask for a new one", domain.ErrTokenUsed, domain.MaxUses)
	}
	return t, false, b.tx.UseToken(t.ID, e.device, e.digest, now)
}

func (a *agents) enrolDevice(ctx context.Context, e *enrolment, r *pb.EnrolResponse) error {
	now := a.cfg.Now()
	return a.commit(ctx, func(b *batch) error {
		old, err := b.device(e.device)
		if err != nil {
			return err
		}
		t, repeated, err := b.useToken(e, false, old != nil && old.Member(now))
		if err != nil {
			return err
		}
		d := old
		if !repeated {
			if d, err = b.makeDevice(old, e, t); err != nil {
				return err
			}
		}
		if err := b.put(d); err != nil {
			return err
		}
		r.Record, r.Renewed = b.devices[0].Signed, old != nil
		a.log.Info("device enrolled", "device", d.Name, "key", d.Key.Short(), "addresses", d.Addresses, "token", t.ID, "owner", d.Owner, "renewed", r.Renewed)
		return nil
	})
}

// makeDevice asks the domain for the device that the token admitted.
func (b *batch) makeDevice(old *domain.Device, e *enrolment, t *domain.Token) (*domain.Device, error) {
	if other, err := b.isRelay(e.device); err != nil || other {
		return nil, errors.Join(err, fmt.Errorf("%w: the key belongs to a relay", errForm))
	}
	revision, err := b.tx.Revision()
	if err != nil {
		return nil, err
	}
	var lookUp error
	d, err := domain.Enrol(&b.s.network, old, domain.Request{
		Device: e.device, Node: e.node, Name: e.GetName(),
		Host:    domain.Host{Hostname: e.GetHostname(), OS: e.GetOs(), OSVersion: e.GetOsVersion(), AgentVersion: e.GetAgentVersion()},
		Counter: revision, // each version took a revision at least
	}, t, b.taken(&lookUp), rand.Reader, b.s.cfg.Now())
	if lookUp != nil {
		return nil, lookUp
	}
	return d, err
}

func (b *batch) isRelay(k key.DevicePublic) (bool, error) {
	relays, err := b.tx.Relays()
	return slices.ContainsFunc(relays, func(r *store.Relay) bool { return r.Key.Equal(k) }), err
}

func (a *agents) enrolRelay(ctx context.Context, e *enrolment, r *pb.EnrolResponse) error {
	desc := e.GetRelay()
	if err := checkRelay(desc); err != nil {
		return err
	}
	if sum := e.GetRelaySpkiSha256(); len(sum) == 32 {
		binding, err := record.BindTLSHash(a.id.Authority, a.network.ID, pb.TLSRole_TLS_ROLE_RELAY, [32]byte(sum))
		if err != nil {
			return err
		}
		r.TlsBinding = binding
	}
	return a.commit(ctx, func(b *batch) error {
		stored, renewed, err := b.relayFor(e)
		if err != nil {
			return err
		}
		r.Renewed = renewed
		_, repeated, err := b.useToken(e, true, renewed)
		if err != nil || repeated {
			return err
		}
		stored.LastSeen = a.cfg.Now()
		stored.Desc = &pb.Relay{RelayKey: e.device.Bytes(), Name: desc.GetName(), Urls: desc.GetUrls(), TlsMode: desc.GetTlsMode(), Stun: desc.GetStun(), Region: desc.GetRegion()}
		a.log.Info("relay enrolled", "relay", desc.GetName(), "urls", desc.GetUrls())
		return b.putRelay(stored)
	})
}

// relayFor gives the relay that enrols again, or a new one, whose name must be free.
func (b *batch) relayFor(e *enrolment) (stored *store.Relay, renewed bool, err error) {
	if d, err := b.device(e.device); err != nil || d != nil {
		return nil, false, errors.Join(err, fmt.Errorf("%w: the key belongs to a device", errForm))
	}
	relays, err := b.tx.Relays()
	if err != nil {
		return nil, false, err
	}
	name := e.GetRelay().GetName()
	taken := b.s.cfg.Relay != nil && b.s.cfg.Relay.GetName() == name
	stored = &store.Relay{Key: e.device, CreatedAt: b.s.cfg.Now()}
	members := 0
	for _, old := range relays {
		switch {
		case old.Key.Equal(e.device):
			stored, renewed = old, true
		case !old.Removed:
			members++
			taken = taken || old.Desc.GetName() == name
		}
	}
	switch {
	case stored.Removed:
		return nil, false, fmt.Errorf("%w: relay %q; start it with a fresh state directory", domain.ErrRemoved, name)
	case taken:
		return nil, false, fmt.Errorf("%w: another relay is called %q already; choose another with --name", domain.ErrNameTaken, name)
	case members+2 > record.MaxRelays: // this one and the built-in one
		return nil, false, fmt.Errorf("%w: a network has at most %d relays", errForm, record.MaxRelays)
	}
	return stored, renewed, nil
}

func checkRelay(r *pb.Relay) error {
	if err := record.CheckLabel(r.GetName()); err != nil {
		return fmt.Errorf("%w: %w", domain.ErrName, err)
	}
	if len(r.GetUrls()) == 0 || len(r.GetUrls()) > record.MaxURLs || len(r.GetStun()) > record.MaxURLs {
		return fmt.Errorf("%w: a relay has 1 to %d URLs and at most as many STUN addresses", errForm, record.MaxURLs)
	}
	if err := record.CheckRegion(r.GetRegion()); err != nil {
		return fmt.Errorf("%w: %w", errForm, err)
	}
	for _, u := range r.GetUrls() {
		if err := token.CheckEndpoint(u, r.GetTlsMode()); err != nil {
			return fmt.Errorf("%w: %w", errForm, err)
		}
	}
	for _, s := range r.GetStun() {
		if _, _, err := net.SplitHostPort(s); err != nil || len(s) > 300 {
			return fmt.Errorf("%w: STUN address %.80q is not host:port", errForm, s)
		}
	}
	return nil
}
