package server

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/coord/domain"
	"warren/coord/policy"
	"warren/coord/policy/compile"
	"warren/coord/reason"
	"warren/coord/store"
	"warren/proto/key"
	"warren/proto/record"
)

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// batch is one transaction on its way: what is put is signed and stored; what that means for the views of devices is appended to the change
// log before it is committed, and published afterwards.
type batch struct {
	s       *Server
	tx      store.Tx
	devices []*store.Device
	relays  []*store.Relay
	// policy is to be in force, nil if it stays, and to be confirmed by confirmBy; confirmed says that it was. advance says that time windows are
	// to be opened and closed.
	policy             *policy.Policy
	confirmBy          time.Time
	confirmed, advance bool
	asked              *compile.Compiler // by approvers
	rulings            []ruled

	// plan.go fills these.
	planned    bool
	latest     map[rawKey]*store.Device
	undo       []func() // if the batch is not committed, last first
	own        map[rawKey][]store.Change
	ownOrder   []rawKey
	ownRows    int
	deliveries []delivery
	pairs      []pair
}

func newBatch(s *Server, tx store.Tx) *batch {
	return &batch{s: s, tx: tx, latest: map[rawKey]*store.Device{}, own: map[rawKey][]store.Change{}}
}

// commit runs f in a transaction and publishes what it put. Changes are published in the order of their revisions.
func (s *Server) commit(ctx context.Context, f func(*batch) error) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	var b *batch
	err := s.store.Update(ctx, func(tx store.Tx) error {
		b = newBatch(s, tx)
		if err := f(b); err != nil {
			return err
		}
		if err := b.settleAll(); err != nil {
			return err
		}
		return s.hub.plan(b)
	})
	switch {
	case err == nil:
		s.hub.publish(b)
		b.logRulings()
	case b != nil && b.planned:
		s.hub.undo(b)
	}
	return err
}

// put stores a device's next state, with the routes that it then carries. If its version is new, the state is signed and everybody whom it concerns
// is told.
func (b *batch) put(d *domain.Device) error {
	old, err := b.tx.Device(d.Key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	d = b.settle(old, d)
	b.noteRulings(old, d)
	next := &store.Device{Device: *d}
	if old != nil && old.Version == d.Version {
		next.Signed = old.Signed
	} else if next.Signed, err = record.SignDevice(b.s.id.Authority, &d.Device); err != nil {
		return err
	}
	if err := b.tx.PutDevice(next); err != nil {
		return err
	}
	b.devices = append(b.devices, next)
	return nil
}

// putRelay stores a separate relay; every device gets a new statement.
func (b *batch) putRelay(r *store.Relay) error {
	if err := b.tx.PutRelay(r); err != nil {
		return err
	}
	b.relays = append(b.relays, r)
	return nil
}

// device gives the stored state of k, or nil.
func (b *batch) device(k key.DevicePublic) (*domain.Device, error) {
	d, err := b.tx.Device(k)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &d.Device, nil
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
		Node:    func(k key.NodePublic) bool { return note(b.tx.NodeKeyTaken(k)) },
	}
}

// refusal is the error of a call that was refused, made from the domain's error; nil if err is none of those.
func (s *Server) refusal(err error) *connect.Error {
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
		{domain.ErrNameTaken, reason.Name, connect.CodeAlreadyExists},
		{domain.ErrName, reason.Name, connect.CodeInvalidArgument},
		{domain.ErrNodeKey, reason.NodeKey, connect.CodeFailedPrecondition},
		{domain.ErrRemoved, reason.Removed, connect.CodePermissionDenied},
		{domain.ErrExpired, reason.Expired, connect.CodePermissionDenied},
		{domain.ErrSequence, reason.Sequence, connect.CodeAborted},
		{domain.ErrFull, whyFull, connect.CodeResourceExhausted},
		{domain.ErrRoute, whyRoute, connect.CodeInvalidArgument},
		{errForm, whyMalformed, connect.CodeInvalidArgument},
	} {
		if errors.Is(err, c.is) {
			return s.refuse(c.code, c.why, err)
		}
	}
	return nil
}

// Reasons of refusals that no agent acts on by itself.
const (
	whyMalformed = "malformed"
	whyRate      = "rate"
	whyFull      = "full"
	whyRoute     = "route"
	whyChallenge = "challenge"
	whySession   = "session"
	whyQuestion  = "question"
)

// errForm is wrapped by what no program of ours asks for.
var errForm = errors.New("malformed request")

// failure is the error for a call that failed, for whatever cause.
func (s *Server) failure(what string, err error) *connect.Error {
	var made *connect.Error
	if errors.As(err, &made) {
		return made
	}
	if refused := s.refusal(err); refused != nil {
		return refused
	}
	return s.internal(what, err)
}
