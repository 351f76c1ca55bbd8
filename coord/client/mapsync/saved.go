package mapsync

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// layout is the layout of a saved map that this program writes; it reads no greater one.
const layout = 1

// Errors of Load that callers tell apart.
var (
	ErrNewer  = errors.New("the map was written by a newer warren")
	ErrTooOld = errors.New("the map is too old to be used")
)

// Save gives the map as bytes for the disk, or nil before the first statement.
func (c *Core) Save() ([]byte, error) {
	if c.statement == nil {
		return nil, nil
	}
	m := &pb.SavedMap{
		Layout: layout, SigningCertificate: c.certificate, Statement: c.signedMap, Ticket: c.ticket,
		Epoch: c.epoch, Revision: c.revision, CurrentAt: timestamppb.New(c.currentAt),
	}
	for _, e := range c.entries {
		m.Records = append(m.Records, e.signed)
	}
	slices.SortFunc(m.Records, func(a, b *pb.Signed) int { return bytes.Compare(a.GetPayload(), b.GetPayload()) })
	return proto.Marshal(m)
}

// Load fills an empty core from b, verifying everything again. The error wraps ErrTooOld when the map's time is over: then the core
// stays empty.
func (c *Core) Load(now time.Time, b []byte) error {
	var m pb.SavedMap
	if err := proto.Unmarshal(b, &m); err != nil {
		return fmt.Errorf("damaged: %w", err)
	}
	if m.GetLayout() > layout {
		return fmt.Errorf("%w (layout %d, this one knows %d)", ErrNewer, m.GetLayout(), layout)
	}
	next := New(c.cfg)
	if err := next.hello(&pb.Hello{SigningCertificate: m.GetSigningCertificate()}); err != nil {
		return err
	}
	st, err := record.OpenStatement(next.signing, c.cfg.Network, c.cfg.Device, m.GetStatement())
	if err != nil {
		return err
	}
	if until, ok := st.GoodAt(now); !ok {
		return fmt.Errorf("%w: it was good until %s", ErrTooOld, until.UTC().Format(time.RFC3339))
	}
	for _, s := range m.GetRecords() {
		d, err := record.OpenDevice(c.cfg.Authority, c.cfg.Network, s)
		if err != nil {
			return err
		}
		if err := next.put(next.entries, entry{d, s}); err != nil {
			return err
		}
	}
	if m.GetTicket() != nil {
		if _, err := next.newTicket(now, m.GetTicket()); err != nil {
			return err
		}
	}
	if digest(next.entries, c.cfg.Device) != record.Digest(st.GetDigest()) {
		return fmt.Errorf("damaged: %w", ErrDigest)
	}
	if err := next.spell(st, next.entries); err != nil {
		return fmt.Errorf("damaged: %w", err)
	}
	next.statement, next.signedMap = st, m.GetStatement()
	if m.GetEpoch() == st.GetEpoch() && m.GetRevision() == st.GetRevision() { // else a snapshot was to come
		next.epoch, next.revision = st.GetEpoch(), st.GetRevision()
	}
	if m.GetCurrentAt().IsValid() {
		next.currentAt = m.GetCurrentAt().AsTime()
	}
	*c = *next
	return nil
}
