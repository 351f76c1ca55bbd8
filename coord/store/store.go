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
	// ErrDisk says that nothing can be written, since the disk is full or read-only. What was there stays as it was.
	ErrDisk = errors.New("the disk is full or cannot be written")
)

// Store is a transactional database. Update transactions come one after the other; what their function returns decides between commit
// and nothing at all. View sees one consistent state.
type Store interface {
	// View's transaction cannot write.
	View(ctx context.Context, f func(Tx) error) error
	Update(ctx context.Context, f func(Tx) error) error
	// Backup writes a consistent copy to a new file, also while the store is in use.
	Backup(ctx context.Context, path string) error
	Close() error
}

// Device is a device with the exact bytes that the authority signed.
type Device struct {
	domain.Device
	Signed *pb.Signed
}

// Sighting is what a device said of itself when it was last here.
type Sighting struct {
	At time.Time
	domain.Host
}

// Relay is a separate relay.
type Relay struct {
	Key       key.DevicePublic
	Desc      *pb.Relay
	Removed   bool
	LastSeen  time.Time
	CreatedAt time.Time
}

// PolicyState is what became of a policy document.
type PolicyState string

// At most one document is pending and at most one active. The pending one is in force if there is one, else the active one.
const (
	PolicyActive PolicyState = "active"
	// PolicyPending is in force, and will be rolled back at ConfirmBy unless somebody confirms it.
	PolicyPending    PolicyState = "pending"
	PolicyReplaced   PolicyState = "replaced"
	PolicyRolledBack PolicyState = "rolled back"
)

// Policy is a document that was set as the network's policy.
type Policy struct {
	// Number is given by AddPolicy: 1, 2, 3 …
	Number         uint64
	Text           []byte
	Author, Reason string
	At             time.Time
	State          PolicyState
	// ConfirmBy is set while it is pending.
	ConfirmBy time.Time
}

// KindResnapshot is of rows that are never sent: the view of their audience changed so much that a snapshot takes less.
const KindResnapshot pb.Kind = 100

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
	// TokenUse tells how the device used the token before.
	TokenUse(id string, device key.DevicePublic) (*domain.Use, error)
	// UseToken remembers that the request was granted. The first use by a device counts in Token.Uses.
	UseToken(id string, device key.DevicePublic, request [32]byte, at time.Time) error

	Device(k key.DevicePublic) (*Device, error)
	// Devices gives all devices in order of their keys, tombstones too.
	Devices() ([]*Device, error)
	// PutDevice stores d and claims its name, addresses and node keys; a tombstone frees them, and drops the rows of the change log whose
	// audience it was. What another device has claimed is an error: no two devices ever share one.
	PutDevice(d *Device) error
	// Seen updates what changes without a new version. It is no error if there is no such device.
	Seen(k key.DevicePublic, s Sighting) error
	NameTaken(name string) (bool, error)
	AddressTaken(a netip.Addr) (bool, error)
	NodeKeyTaken(k key.NodePublic) (bool, error)

	Relays() ([]*Relay, error)
	PutRelay(r *Relay) error

	// Policies gives the documents in order of their numbers, without their texts.
	Policies() ([]*Policy, error)
	Policy(number uint64) (*Policy, error)
	// AddPolicy stores p under the next number, which it sets. A second one that is active, or pending, is an error.
	AddPolicy(p *Policy) error
	// MarkPolicy changes the state of a document; confirmBy is zero unless that is PolicyPending.
	MarkPolicy(number uint64, to PolicyState, confirmBy time.Time) error

	// Append writes a row to the change log and gives its revision. An older row of the same audience, kind and id is dropped, since
	// this one replaces it; one of KindResnapshot replaces all rows of its audience.
	Append(c Change) (uint64, error)
	// Changes gives at most limit rows after revision, oldest first: those for everybody, and those for the audience unless it is zero.
	Changes(after uint64, audience key.DevicePublic, limit int) ([]Change, error)
	// OwnChanges counts the rows that are for this audience alone.
	OwnChanges(audience key.DevicePublic) (int, error)
	// Revision is the newest revision; Floor the oldest after which Changes is complete.
	Revision() (uint64, error)
	Floor() (uint64, error)
	// Prune forgets tombstones of devices removed before then, with their rows of the change log, and tokens that expired before then.
	// Floor rises to the newest row that was dropped. It gives the keys of the devices.
	Prune(before time.Time) ([]key.DevicePublic, error)
}
