package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/coord/domain"
	"warren/coord/reason"
	"warren/coord/store"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

const reasonHeader = reason.Header

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// batch is one change on its way: what is put is signed, stored and appended to the change log, and published once it is committed.
type batch struct {
	s       *Server
	tx      store.Tx
	devices []*store.Device
	changes []store.Change
	relays  []*store.Relay
}

// commit runs f in a transaction and publishes what it put. Changes are published in the order of their revisions.
func (s *Server) commit(ctx context.Context, f func(*batch) error) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	b := &batch{s: s}
	err := s.store.Update(ctx, func(tx store.Tx) error {
		b.tx, b.devices, b.changes, b.relays = tx, nil, nil, nil
		return f(b)
	})
	if err != nil {
		return err
	}
	s.hub.publish(b)
	return nil
}

// put stores a device's next state and tells everybody whom it concerns.
func (b *batch) put(d *domain.Device) error {
	signed, err := record.SignDevice(b.s.id.authority, &d.Device)
	if err != nil {
		return err
	}
	stored := &store.Device{Device: *d, Signed: signed}
	if err := b.tx.PutDevice(stored); err != nil {
		return err
	}
	c := store.Change{Kind: pb.Kind_KIND_DEVICE, ID: d.Key.Bytes(), Body: signed}
	if d.Gone && !d.Removed {
		c.Body = nil // an expired device is out of sight, not removed
	}
	if c.Revision, err = b.tx.Append(c); err != nil {
		return err
	}
	b.devices, b.changes = append(b.devices, stored), append(b.changes, c)
	return nil
}

// putRelay stores a separate relay; the change makes every device get a new statement.
func (b *batch) putRelay(r *store.Relay) error {
	if err := b.tx.PutRelay(r); err != nil {
		return err
	}
	c := store.Change{Kind: pb.Kind_KIND_STATEMENT}
	var err error
	if c.Revision, err = b.tx.Append(c); err != nil {
		return err
	}
	b.relays, b.changes = append(b.relays, r), append(b.changes, c)
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
