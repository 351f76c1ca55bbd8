// Package store says what the coordinator needs of a database. Engines implement Store (see store/sqlite) and pass the conformance
// suite in store/storetest.
package store

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"warren/coord/domain"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("not found")
	// ErrNewer says that a newer program wrote the database.
	ErrNewer = errors.New("the database was written by a newer warren-coordinator")
)

// Store is a transactional database. Update transactions come one after the other; what their function returns decides between commit
// and nothing at all. View sees one consistent state.
type Store interface {
	View(ctx context.Context, f func(Tx) error) error
	Update(ctx context.Context, f func(Tx) error) error
	Close() error
}

// Device is a device with the exact bytes that the authority signed.
type Device struct {
	domain.Device
	Signed *pb.Signed
}

// Relay is a separate relay.
type Relay struct {
	Key       key.DevicePublic
	Desc      *pb.Relay
	Removed   bool
	LastSeen  time.Time
	CreatedAt time.Time
}

// Change is a row of the change log. Watchers read rows after the revision they have.
type Change struct {
	// Revision is given by Append; it only grows.
	Revision uint64
	Kind     pb.Kind
	// Audience is one device, or everybody if it is the zero key.
	Audience key.DevicePublic
	ID       []byte
	// Body is the signed record, or nil when the object is out of sight.
	Body *pb.Signed
}

// Tx is one transaction. Lookups give ErrNotFound.
type Tx interface {
	// Meta keeps small values under a name.
	Meta(name string) ([]byte, error)
	SetMeta(name string, value []byte) error

	Token(id string) (*domain.Token, error)
	TokenByHash(hash [32]byte) (*domain.Token, error)
	Tokens() ([]*domain.Token, error)
	PutToken(t *domain.Token) error
	// TokenUsedBy reports whether the device enrolled by the token, UseToken remembers it.
	TokenUsedBy(id string, device key.DevicePublic) (bool, error)
	UseToken(id string, device key.DevicePublic, at time.Time) error

	Device(k key.DevicePublic) (*Device, error)
	// Devices gives all devices in order of their keys, tombstones too.
	Devices() ([]*Device, error)
	// PutDevice stores d and claims its name and addresses; a tombstone frees them.
	PutDevice(d *Device) error
	// Seen updates what changes without a new version.
	Seen(k key.DevicePublic, at time.Time, hostname, os, version string) error
	NameTaken(name string) (bool, error)
	AddressTaken(a netip.Addr) (bool, error)

	Relays() ([]*Relay, error)
	PutRelay(r *Relay) error

	// Append writes a row to the change log and gives its revision. Older rows of the same audience, kind and id are dropped, since
	// this one replaces them.
	Append(c Change) (uint64, error)
	// Changes gives at most limit rows after revision, oldest first.
	Changes(after uint64, limit int) ([]Change, error)
	// Revision is the newest revision; Floor the oldest after which Changes is complete.
	Revision() (uint64, error)
	Floor() (uint64, error)
	// Compact drops rows up to revision which say that something is gone; Floor becomes revision.
	Compact(revision uint64) error
}
