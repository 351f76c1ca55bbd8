// Package mapsync is the pure core of map synchronisation: it turns what arrives on a Watch into a network map. It verifies every
// record, lets versions only grow, and takes absence for removal only between the two marks of a snapshot, so that neither a slow nor a
// hostile carrier can do more than delay a change.
//
// A Core takes events by Handle. What Handle returns says whether a new map is to be published and stored; Map gives it. Save and Load
// turn the state into bytes and back. Changes wait for the statement that sums them up, so Map and Save always give a set of records that
// the coordinator vouched for.
package mapsync

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

const (
	// MaxDevices bounds how many records a map holds.
	MaxDevices = 1 << 16
	// maxTombstones bounds how many removals are remembered against replays; the oldest versions go first.
	maxTombstones = 4096
)

// ErrDigest says that the records held are not those that the coordinator summed up.
var ErrDigest = errors.New("the map does not match the coordinator's digest")

// Config says whose map it is.
type Config struct {
	Network   record.NetworkID
	Authority key.AuthorityPublic
	Device    key.DevicePublic
}

// Map is an immutable network map.
type Map struct {
	// Self is the device's own record, nil if none came yet.
	Self *record.Device
	// Peers are in order of their names; neither removed nor expired when the map was made.
	Peers       []*record.Device
	Statement   *record.Statement
	Ticket      *pb.Signed
	SigningCert *pb.Signed
	Epoch       uint64
	Revision    uint64
	// CurrentAt is when the coordinator last said that the map was current.
	CurrentAt time.Time
	// NextExpiry is when a peer expires next; zero: none will.
	NextExpiry time.Time
}

// Result says what an event means.
type Result struct {
	// Publish says that Map changed and is to be published and stored.
	Publish bool
	// Store says that what is to be stored changed, though the map did not.
	Store bool
	// Resnapshot says that the map is wrong and the Watch must be begun anew from nothing.
	Resnapshot bool
}

type rawKey = [key.Size]byte

// entry is a record; without device, in changes that wait, the device is out of sight.
type entry struct {
	device *record.Device
	signed *pb.Signed
}

// Core holds the state. It is not safe for concurrent use.
type Core struct {
	cfg         Config
	certificate *pb.Signed
	signing     key.SigningPublic
	entries     map[rawKey]entry // tombstones too
	waiting     map[rawKey]entry // changes that no statement has summed up yet
	statement   *record.Statement
	signedMap   *pb.Signed // the statement as it came
	ticket      *pb.Signed
	epoch       uint64
	revision    uint64
	currentAt   time.Time
	snapshot    *snapshot // between the marks
}

// snapshot collects what comes between the marks.
type snapshot struct {
	epoch, revision uint64
	entries         map[rawKey]entry
	statement       *record.Statement
	signed          *pb.Signed
}

// New makes an empty core.
func New(cfg Config) *Core {
	return &Core{cfg: cfg, entries: map[rawKey]entry{}, waiting: map[rawKey]entry{}}
}

// Position is where the next Watch resumes; 0, 0 asks for a snapshot.
func (c *Core) Position() (epoch, revision uint64) {
	if c.statement == nil {
		return 0, 0
	}
	return c.epoch, c.revision
}

// Begin forgets a snapshot, and changes without a statement, that were cut off with their stream.
func (c *Core) Begin() {
	c.snapshot = nil
	clear(c.waiting)
}

// Restart makes the next Watch begin with a snapshot. The map stays in use until then.
func (c *Core) Restart() {
	c.Begin()
	c.revision, c.epoch = 0, 0
}

// Handle takes one message of a Watch. An error means that the stream is not to be trusted further; the map is as it was.
func (c *Core) Handle(now time.Time, m *pb.WatchResponse) (Result, error) {
	switch e := m.GetEvent().(type) {
	case *pb.WatchResponse_Hello:
		return Result{}, c.hello(e.Hello)
	case *pb.WatchResponse_SnapshotBegin:
		clear(c.waiting)
		c.snapshot = &snapshot{
			epoch: e.SnapshotBegin.GetEpoch(), revision: e.SnapshotBegin.GetRevision(), entries: map[rawKey]entry{},
		}
		return Result{}, nil
	case *pb.WatchResponse_Change:
		return c.change(now, e.Change)
	case *pb.WatchResponse_SnapshotEnd:
		return c.snapshotEnd(now, e.SnapshotEnd)
	case *pb.WatchResponse_Ticket:
		return c.newTicket(now, e.Ticket)
	case *pb.WatchResponse_KeepAlive:
		c.currentAt = now
	}
	return Result{}, nil
}

func (c *Core) hello(h *pb.Hello) error {
	k, err := record.OpenCertificate(c.cfg.Authority, c.cfg.Network, h.GetSigningCertificate())
	if err != nil {
		return err
	}
	c.certificate, c.signing = h.GetSigningCertificate(), k
	return nil
}

func (c *Core) newTicket(now time.Time, s *pb.Signed) (Result, error) {
	device, err := record.OpenTicket(c.signing, c.cfg.Network, time.Time{}, s)
	if err != nil {
		return Result{}, err
	}
	if !device.Equal(c.cfg.Device) {
		return Result{}, errors.New("the relay ticket is another device's")
	}
	c.ticket = s
	return Result{Publish: c.statement != nil && c.snapshot == nil, Store: true}, nil
}

func (c *Core) change(now time.Time, m *pb.Change) (Result, error) {
	if c.snapshot != nil && m.GetEpoch() != c.snapshot.epoch {
		return Result{}, fmt.Errorf("change of epoch %d within a snapshot of %d", m.GetEpoch(), c.snapshot.epoch)
	}
	if c.snapshot == nil && m.GetEpoch() != c.epoch {
		return Result{Resnapshot: true}, nil
	}
	switch m.GetKind() {
	case pb.Kind_KIND_DEVICE:
		return Result{}, c.deviceChange(m)
	case pb.Kind_KIND_STATEMENT:
		return c.statementChange(now, m)
	}
	return Result{}, nil // a kind of a newer coordinator
}

func (c *Core) deviceChange(m *pb.Change) error {
	id, err := key.DevicePublicFromBytes(m.GetId())
	if err != nil {
		return fmt.Errorf("change of a device: %w", err)
	}
	into := c.waiting
	if c.snapshot != nil {
		into = c.snapshot.entries
	}
	switch content := m.GetContent().(type) {
	case *pb.Change_Body:
		d, err := record.OpenDevice(c.cfg.Authority, c.cfg.Network, content.Body)
		if err != nil {
			return err
		}
		if !d.Key.Equal(id) {
			return fmt.Errorf("change of device %s holds the record of %s", id.Short(), d.Key.Short())
		}
		return c.put(into, entry{d, content.Body})
	case *pb.Change_Unseen:
		return c.hide(into, id.Raw())
	}
	return fmt.Errorf("change of device %s has no content", id.Short())
}

// hide takes a device out of sight. A tombstone stays, and so does the device's own record, which the digest does not cover.
func (c *Core) hide(into map[rawKey]entry, k rawKey) error {
	if k == c.cfg.Device.Raw() {
		return nil
	}
	if c.snapshot != nil {
		if !into[k].removed() {
			delete(into, k)
		}
		return nil
	}
	if into[k].removed() || c.entries[k].removed() {
		return nil
	}
	return set(into, k, entry{})
}

func (e entry) removed() bool { return e.device != nil && e.device.Removed }

// put stores e unless what is known of the device is as new. During a snapshot the map in use counts too: a replayed old record does
// not get in that way.
func (c *Core) put(into map[rawKey]entry, e entry) error {
	k := e.device.Key.Raw()
	for _, known := range []map[rawKey]entry{c.entries, into} {
		if old := known[k]; old.device != nil && old.device.Version.Compare(e.device.Version) > 0 {
			if old.device.Removed {
				return nil
			}
			e = old // an older record: keep what we have
		}
	}
	return set(into, k, e)
}

func set(into map[rawKey]entry, k rawKey, e entry) error {
	if _, ok := into[k]; !ok && len(into) >= MaxDevices {
		return fmt.Errorf("more than %d devices", MaxDevices)
	}
	into[k] = e
	return nil
}

func (c *Core) statementChange(now time.Time, m *pb.Change) (Result, error) {
	st, err := record.OpenStatement(c.signing, c.cfg.Network, c.cfg.Device, m.GetBody())
	if err != nil {
		return Result{}, err
	}
	if st.GetEpoch() != m.GetEpoch() || st.GetRevision() != m.GetRevision() {
		return Result{}, fmt.Errorf("map statement of revision %d came as %d", st.GetRevision(), m.GetRevision())
	}
	if err := c.newer(st); err != nil {
		return Result{}, err
	}
	if c.snapshot != nil {
		c.snapshot.statement, c.snapshot.signed = st, m.GetBody()
		return Result{}, nil
	}
	next := c.changed()
	if digest(next, c.cfg.Device) != record.Digest(st.GetDigest()) {
		return Result{Resnapshot: true}, nil
	}
	if len(next) > MaxDevices {
		return Result{}, fmt.Errorf("more than %d devices", MaxDevices)
	}
	if err := c.spell(st, next); err != nil {
		return Result{}, err
	}
	c.entries, c.statement, c.signedMap, c.currentAt = next, st, m.GetBody(), now
	c.revision = st.GetRevision()
	clear(c.waiting)
	return Result{Publish: true, Store: true}, nil
}

// changed gives the records with the changes that wait for a statement.
func (c *Core) changed() map[rawKey]entry {
	if len(c.waiting) == 0 {
		return c.entries
	}
	next := maps.Clone(c.entries)
	for k, e := range c.waiting {
		if e.device == nil {
			delete(next, k)
		} else {
			next[k] = e
		}
	}
	dropTombstones(next)
	return next
}

// newer refuses a statement that was superseded already: a carrier may replay what it saw.
func (c *Core) newer(st *record.Statement) error {
	if c.statement == nil {
		return nil
	}
	// Within an epoch the revision decides, so that a coordinator whose clock was set back is still believed.
	older := st.GetRevision() < c.statement.GetRevision()
	if st.GetEpoch() != c.statement.GetEpoch() {
		older = st.GetIssuedAt().AsTime().Before(c.statement.GetIssuedAt().AsTime())
	}
	if older {
		return fmt.Errorf("map statement of revision %d is older than the one of revision %d", st.GetRevision(), c.statement.GetRevision())
	}
	return nil
}

func (c *Core) snapshotEnd(now time.Time, m *pb.SnapshotEnd) (Result, error) {
	s := c.snapshot
	c.snapshot = nil
	switch {
	case s == nil:
		return Result{}, errors.New("the end of a snapshot without its beginning")
	case s.epoch != m.GetEpoch() || s.revision != m.GetRevision():
		return Result{}, errors.New("the end of another snapshot")
	case s.statement == nil:
		return Result{}, errors.New("a snapshot without a map statement")
	case digest(s.entries, c.cfg.Device) != record.Digest(s.statement.GetDigest()):
		return Result{}, ErrDigest
	}
	if err := c.spell(s.statement, s.entries); err != nil {
		return Result{}, err
	}
	for k, e := range c.entries {
		if _, ok := s.entries[k]; !ok && (e.device.Removed || k == c.cfg.Device.Raw()) {
			s.entries[k] = e
		}
	}
	c.entries, c.statement, c.signedMap = s.entries, s.statement, s.signed
	c.epoch, c.revision, c.currentAt = s.statement.GetEpoch(), s.statement.GetRevision(), now
	dropTombstones(c.entries)
	return Result{Publish: true, Store: true}, nil
}

func dropTombstones(entries map[rawKey]entry) {
	var gone []entry
	for _, e := range entries {
		if e.device.Removed {
			gone = append(gone, e)
		}
	}
	if len(gone) <= maxTombstones {
		return
	}
	slices.SortFunc(gone, func(a, b entry) int { return a.device.Version.Compare(b.device.Version) })
	for _, e := range gone[:len(gone)-maxTombstones] {
		delete(entries, e.device.Key.Raw())
	}
}

// digest sums up the peers; tombstones and the device itself do not count.
func digest(entries map[rawKey]entry, self key.DevicePublic) record.Digest {
	var d record.Digest
	for _, e := range entries {
		if !e.device.Removed && !e.device.Key.Equal(self) {
			d.Toggle(e.device.Key, e.device.Version)
		}
	}
	return d
}

// spell puts the addresses of peers in the place of bits in the statement that sums up entries.
func (c *Core) spell(st *record.Statement, entries map[rawKey]entry) error {
	if record.NamedPeers(st.GetGrants()) == 0 {
		return nil
	}
	keys := slices.SortedFunc(maps.Keys(entries), func(a, b rawKey) int { return bytes.Compare(a[:], b[:]) })
	var peers [][]netip.Addr
	for _, k := range keys {
		if e := entries[k]; !e.device.Removed && k != c.cfg.Device.Raw() {
			peers = append(peers, e.device.Addresses)
		}
	}
	return st.SpellPeers(peers)
}

// Map gives the map as it is at now, or nil before the first statement.
func (c *Core) Map(now time.Time) *Map {
	if c.statement == nil {
		return nil
	}
	m := &Map{
		Statement: c.statement, Ticket: c.ticket, SigningCert: c.certificate,
		Epoch: c.epoch, Revision: c.statement.GetRevision(), CurrentAt: c.currentAt,
	}
	for _, e := range c.entries {
		d := e.device
		switch {
		case d.Removed:
			continue
		case d.Key.Equal(c.cfg.Device):
			m.Self = d
			continue
		case d.Expired(now):
			continue
		case !d.ExpiresAt.IsZero() && (m.NextExpiry.IsZero() || d.ExpiresAt.Before(m.NextExpiry)):
			m.NextExpiry = d.ExpiresAt
		}
		m.Peers = append(m.Peers, d)
	}
	slices.SortFunc(m.Peers, func(a, b *record.Device) int {
		x, y := a.Key.Raw(), b.Key.Raw()
		return cmp.Or(strings.Compare(a.Name, b.Name), bytes.Compare(x[:], y[:]))
	})
	return m
}
