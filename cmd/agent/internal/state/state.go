// Package state keeps what the agent must not lose: its keys, the network it belongs to and what it was told to do. Open takes
// the directory for one daemon, Load reads it, Save replaces it in one atomic step.
//
// The directory holds state.json (this package), map (written by coord/client), host (by tunnel/router), addresses (by package names) and lock.
package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"

	"warren/internal/atomicfile"
	"warren/internal/filelock"
	"warren/internal/privatedir"
	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/token"
	pb "warren/proto/warrenv1"
)

// Version is the layout of the directory that this program writes. It reads it and older ones.
const Version = 2

const (
	fileName = "state.json"
	mapName  = "map"
	lockName = "lock"
	logName  = "daemon.log"
	bookName = "addresses"

	journalName = "host"

	killSwitchName = "killswitch.nft"
	vrrpName       = "vrrp"
	maxFile        = 1 << 20
)

// ErrNewer says that a newer warren wrote the directory.
var ErrNewer = errors.New("written by a newer warren")

// ErrLocked says that another daemon holds the directory.
var ErrLocked = errors.New("in use by another warren daemon")

// State is all that survives a restart besides the map.
type State struct {
	// Device and Node are made with the first enrolment and live as long as the membership.
	Device key.DevicePrivate
	Node   key.NodePrivate
	// Membership is nil on a device that has joined no network.
	Membership *Membership
	// Up is whether the tunnel is wanted; a daemon that starts brings it up again.
	Up bool
	// Name is the name asked for, or empty.
	Name string
	// Operator is a user, or a group written group:NAME, that may use the local API; empty: root only.
	Operator string
	// Port is the UDP port of the last run, kept so that NAT mappings and peers' candidates stay valid; 0: none yet.
	Port uint16
	// Routing is forgotten with the membership, but for the kill switch.
	Routing Routing
}

// Membership is the network that the device belongs to.
type Membership struct {
	Network   record.NetworkID
	Authority key.AuthorityPublic
	// Endpoints are those of the join token; the map may name more.
	Endpoints []token.Endpoint
	// Record is the device's own record as it was signed when it enrolled.
	Record *pb.Signed
}

// Dir is an open state directory.
type Dir struct {
	path   string
	unlock func() error
}

// Open makes the directory if need be and locks it. The error wraps ErrLocked if another daemon has it.
func Open(path string) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := privatedir.Make(path); err != nil {
		return nil, fmt.Errorf("state directory %s cannot be made: %w; choose another with --state or run as root", path, err)
	}
	unlock, err := filelock.Take(filepath.Join(path, lockName))
	switch {
	case errors.Is(err, filelock.ErrHeld):
		return nil, fmt.Errorf("state directory %s is %w; stop that one first, or give this one its own with --state, --socket and --tun", path, ErrLocked)
	case err != nil:
		return nil, fmt.Errorf("state directory %s is not writable: %w; choose another with --state or run as root", path, err)
	}
	return &Dir{path, unlock}, nil
}

// Close lets another daemon have the directory.
func (d *Dir) Close() error { return d.unlock() }

// MapFile is where the map is kept.
func (d *Dir) MapFile() string { return MapFile(d.path) }

// MapFile is where the map of a directory is kept.
func MapFile(dir string) string { return filepath.Join(dir, mapName) }

// JournalFile is where tunnel/router keeps what it has changed on the host, so that a crash leaves nothing behind for good.
func JournalFile(dir string) string { return filepath.Join(dir, journalName) }

// KillSwitchFile is what the host sets the kill switch from when it starts; it is there while the kill switch is wanted.
func KillSwitchFile(dir string) string { return filepath.Join(dir, killSwitchName) }

// AddressFile is where package names keeps addresses.
func (d *Dir) AddressFile() string { return filepath.Join(d.path, bookName) }

// VRRPFile is where keepalived sees whether the device can do a gateway's work.
func VRRPFile(dir string) string { return filepath.Join(dir, vrrpName) }

// LogFile is where a detached daemon logs.
func LogFile(dir string) string { return filepath.Join(dir, logName) }

// onDisk is state.json.
type onDisk struct {
	Version    int             `json:"version"`
	DeviceKey  []byte          `json:"device_key,omitempty"`
	NodeKey    []byte          `json:"node_key,omitempty"`
	Membership *membershipJSON `json:"membership,omitempty"`
	Up         bool            `json:"up"`
	Name       string          `json:"name,omitempty"`
	Operator   string          `json:"operator,omitempty"`
	Port       uint16          `json:"port,omitempty"`
	Routing    *Routing        `json:"routing,omitempty"`
}

type membershipJSON struct {
	Network   []byte         `json:"network"`
	Authority string         `json:"authority"`
	Endpoints []endpointJSON `json:"endpoints"`
	Record    []byte         `json:"record"`
	Signature []byte         `json:"record_signature"`
}

type endpointJSON struct {
	URL string `json:"url"`
	TLS string `json:"tls"`
}

// Read reads the state of a directory without taking it, for those who only look.
func Read(dir string) (*State, error) { return (&Dir{path: dir}).Load() }

// Load reads the state; a directory without one gives the zero State.
func (d *Dir) Load() (*State, error) {
	path := filepath.Join(d.path, fileName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &State{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("state file %s: %w", path, err)
	}
	s, err := parse(b)
	if errors.Is(err, ErrNewer) {
		return nil, fmt.Errorf("state file %s: %w", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("state file %s: %w; put back a good one, or move %s away and have this device join anew: warren up TOKEN", path, err, d.path)
	}
	return s, nil
}

// Check tells whether this program can read the state in a directory that another daemon may hold.
func Check(path string) error {
	_, err := (&Dir{path: path}).Load()
	return err
}

func parse(b []byte) (*State, error) {
	if len(b) > maxFile {
		return nil, fmt.Errorf("%d bytes, more than %d: damaged", len(b), maxFile)
	}
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return nil, fmt.Errorf("damaged: %w", err)
	}
	if version.Version > Version {
		return nil, fmt.Errorf("%w (layout %d, this one knows %d); install that version again", ErrNewer, version.Version, Version)
	}
	if version.Version < 1 {
		return nil, fmt.Errorf("damaged: layout %d", version.Version)
	}
	var f onDisk
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return nil, fmt.Errorf("damaged: %w", err)
	}
	return f.state()
}

func (f *onDisk) state() (*State, error) {
	s := &State{Up: f.Up, Name: f.Name, Operator: f.Operator, Port: f.Port}
	var err error
	if f.Routing != nil {
		if err := f.Routing.check(); err != nil {
			return nil, fmt.Errorf("damaged: %w", err)
		}
		s.Routing = *f.Routing
	}
	if len(f.DeviceKey) > 0 {
		if s.Device, err = key.DevicePrivateFromBytes(f.DeviceKey); err != nil {
			return nil, fmt.Errorf("damaged: device key: %w", err)
		}
		if s.Node, err = key.NodePrivateFromBytes(f.NodeKey); err != nil {
			return nil, fmt.Errorf("damaged: node key: %w", err)
		}
	}
	if f.Membership == nil {
		return s, nil
	}
	if s.Device.IsZero() {
		return nil, errors.New("damaged: a membership without a device key")
	}
	if s.Membership, err = f.Membership.membership(); err != nil {
		return nil, fmt.Errorf("damaged: %w", err)
	}
	return s, nil
}

func (f *membershipJSON) membership() (*Membership, error) {
	n, err := record.NetworkIDFromBytes(f.Network)
	if err != nil {
		return nil, err
	}
	a, err := key.ParseAuthorityPublic(f.Authority)
	if err != nil {
		return nil, err
	}
	m := &Membership{Network: n, Authority: a, Record: &pb.Signed{Payload: f.Record, Signature: f.Signature}}
	if len(f.Endpoints) == 0 {
		return nil, errors.New("no coordinator address")
	}
	for _, e := range f.Endpoints {
		mode := pb.TLSMode(pb.TLSMode_value[e.TLS])
		if err := token.CheckEndpoint(e.URL, mode); err != nil {
			return nil, err
		}
		m.Endpoints = append(m.Endpoints, token.Endpoint{URL: e.URL, Mode: mode})
	}
	return m, nil
}

// Save replaces the state: after a crash the old or the new one is found.
func (d *Dir) Save(s *State) error {
	f := onDisk{Version: Version, Up: s.Up, Name: s.Name, Operator: s.Operator, Port: s.Port}
	if !reflect.ValueOf(s.Routing).IsZero() {
		f.Routing = &s.Routing
	}
	if !s.Device.IsZero() {
		f.DeviceKey, f.NodeKey = s.Device.Bytes(), s.Node.Bytes()
	}
	if m := s.Membership; m != nil {
		f.Membership = &membershipJSON{
			Network: m.Network[:], Authority: m.Authority.String(),
			Record: m.Record.GetPayload(), Signature: m.Record.GetSignature(),
		}
		for _, e := range m.Endpoints {
			f.Membership.Endpoints = append(f.Membership.Endpoints, endpointJSON{e.URL, e.Mode.String()})
		}
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(d.path, fileName)
	if err := atomicfile.Write(path, append(b, '\n')); err != nil {
		return fmt.Errorf("state file %s: %w", path, err)
	}
	return nil
}

// Forget removes keys, membership, map, addresses and routing: what leave does. The operator stays, and the kill switch.
func (d *Dir) Forget(s *State) (*State, error) {
	for _, file := range []string{d.MapFile(), d.AddressFile()} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	kept := &State{Operator: s.Operator, Routing: Routing{KillSwitch: s.Routing.KillSwitch}}
	return kept, d.Save(kept)
}
