package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"warren/coord/domain"
	"warren/coord/store"
	"warren/internal/atomicfile"
	"warren/internal/filelock"
	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/tlsbind"
	pb "warren/proto/warrenv1"
)

// Names in the state directory.
const (
	databaseName  = "warren.db"
	lockName      = "lock"
	authorityName = "authority.key"
	versionName   = "version"
)

// stateVersion is of the layout of the state directory. The database has its own.
const stateVersion = 1

// Errors of Open that callers tell apart.
var (
	ErrLocked = errors.New("in use by another warren-coordinator")
	ErrNewer  = errors.New("written by a newer warren-coordinator")
)

// identity is the keys of a coordinator, each in a file of its own.
type identity struct {
	authority key.AuthorityPrivate
	signing   key.SigningPrivate
	relay     key.DevicePrivate
	tls       *ecdsa.PrivateKey
	unlock    func() error
}

func (i *identity) close() error { return i.unlock() }

// openIdentity locks the directory and reads the keys, making those that are not there yet.
func openIdentity(dir string) (_ *identity, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory %s cannot be made: %w; choose another with --state or run as root", dir, err)
	}
	unlock, err := filelock.Take(filepath.Join(dir, lockName))
	if errors.Is(err, filelock.ErrHeld) {
		return nil, fmt.Errorf("state directory %s is %w; stop that one first", dir, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("state directory %s is not writable: %w; choose another with --state or run as root", dir, err)
	}
	i := &identity{unlock: unlock}
	defer func() {
		if err != nil {
			unlock()
		}
	}()
	if err := checkVersion(dir); err != nil {
		return nil, err
	}
	if i.authority, err = keyFile(dir, authorityName, key.AuthorityPrivateFromBytes, key.NewAuthority); err != nil {
		return nil, err
	}
	if i.signing, err = keyFile(dir, "signing.key", key.SigningPrivateFromBytes, key.NewSigning); err != nil {
		return nil, err
	}
	if i.relay, err = keyFile(dir, "relay.key", key.DevicePrivateFromBytes, key.NewDevice); err != nil {
		return nil, err
	}
	i.tls, err = tlsKeyFile(filepath.Join(dir, "tls.key"))
	return i, err
}

// checkVersion looks whether this program understands the directory, and whether it is whole: once a coordinator ran in it, its
// authority key and database must be there, or devices would be told of another network than the one that they are in.
func checkVersion(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, versionName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("state directory %s: %w", dir, err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	switch {
	case err != nil || n < 1:
		return fmt.Errorf("state directory %s: file %s holds %.20q, not a number", dir, versionName, b)
	case n > stateVersion:
		return fmt.Errorf("state directory %s was %w (layout %d, this one knows %d); install that version again", dir, ErrNewer, n, stateVersion)
	}
	for _, name := range []string{authorityName, databaseName} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			return fmt.Errorf("state directory %s has lost its file %s; restore it from a backup, or begin a new network in an empty directory", dir, name)
		}
	}
	return nil
}

// writeVersion says that the directory is whole. It comes last at the first start, so that a crash before it leaves nothing to repair.
func writeVersion(dir string) error {
	path := filepath.Join(dir, versionName)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := atomicfile.Write(path, fmt.Appendln(nil, stateVersion)); err != nil {
		return fmt.Errorf("state directory %s: %w", dir, err)
	}
	return nil
}

// keyFile reads 32 bytes, or draws and stores a new key.
func keyFile[K interface{ Bytes() []byte }](dir, name string, parse func([]byte) (K, error), draw func() K) (K, error) {
	path := filepath.Join(dir, name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		k := draw()
		if err := atomicfile.Write(path, k.Bytes()); err != nil {
			return k, fmt.Errorf("key file %s: %w", path, err)
		}
		return k, nil
	}
	if err != nil {
		var none K
		return none, fmt.Errorf("key file %s: %w", path, err)
	}
	k, err := parse(b)
	if err != nil {
		return k, fmt.Errorf("key file %s is damaged: %w; restore it from a backup", path, err)
	}
	return k, nil
}

func tlsKeyFile(path string) (*ecdsa.PrivateKey, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		k, err := tlsbind.NewKey()
		if err != nil {
			return nil, err
		}
		if b, err = x509.MarshalECPrivateKey(k); err != nil {
			return nil, err
		}
		return k, atomicfile.Write(path, b)
	}
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	k, err := x509.ParseECPrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("key file %s is damaged: %w; delete it to have a new one made", path, err)
	}
	return k, nil
}

// TLSKey is the key for self-made TLS, with the authority's word for it as coordinator.
func (s *Server) TLSKey() (*ecdsa.PrivateKey, *pb.Signed, error) {
	spki, err := tlsbind.SPKI(s.id.tls.Public())
	if err != nil {
		return nil, nil, err
	}
	binding, err := record.BindTLS(s.id.authority, s.network.ID, pb.TLSRole_TLS_ROLE_COORDINATOR, spki)
	return s.id.tls, binding, err
}

// Names of meta values.
const (
	metaNetwork    = "network"
	metaPrefixes   = "prefixes"
	metaEpoch      = "epoch"
	metaGeneration = "generation"
	metaPolicyAt   = "policy at" // up to when time windows were opened and closed
	metaAuthority  = "authority" // the public key, so that a database and another network's key are not mixed
)

// loadNetwork reads what was drawn at the first start, or draws it.
func (s *Server) loadNetwork(ctx context.Context) error {
	return s.store.Update(ctx, func(tx store.Tx) error {
		b, err := tx.Meta(metaNetwork)
		if errors.Is(err, store.ErrNotFound) {
			s.firstStart = true
			return errors.Join(s.makeNetwork(tx), s.writeFirstPolicy(tx))
		}
		if err != nil {
			return err
		}
		if s.network.ID, err = record.NetworkIDFromBytes(b); err != nil {
			return err
		}
		authority, err := tx.Meta(metaAuthority)
		if err != nil {
			return fmt.Errorf("database: %s: %w", metaAuthority, err)
		}
		if !bytes.Equal(authority, s.Authority().Bytes()) {
			return fmt.Errorf("state directory %s: %s is not the key that the devices in %s were enrolled with; restore both from one backup",
				s.cfg.StateDir, authorityName, databaseName)
		}
		if s.network.Epoch, err = metaNumber(tx, metaEpoch); err != nil {
			return err
		}
		if s.network.Generation, err = metaNumber(tx, metaGeneration); err != nil {
			return err
		}
		return errors.Join(s.readPrefixes(tx), s.writeFirstPolicy(tx))
	})
}

func (s *Server) makeNetwork(tx store.Tx) error {
	rand.Read(s.network.ID[:])
	s.network.Epoch, s.network.Generation = newEpoch(), 1
	prefixes, err := domain.RandomPrefixes(rand.Reader)
	if err != nil {
		return err
	}
	for i, p := range []netip.Prefix{s.cfg.Prefix4, s.cfg.Prefix6} {
		if !p.IsValid() {
			continue
		}
		if err := domain.CheckPrefix(p, i == 1); err != nil {
			return err
		}
		prefixes[i] = p
	}
	s.network.Prefixes = prefixes
	text := prefixes[0].String() + " " + prefixes[1].String()
	return errors.Join(
		tx.SetMeta(metaNetwork, s.network.ID[:]),
		tx.SetMeta(metaAuthority, s.Authority().Bytes()),
		tx.SetMeta(metaEpoch, binary.BigEndian.AppendUint64(nil, s.network.Epoch)),
		tx.SetMeta(metaGeneration, binary.BigEndian.AppendUint64(nil, s.network.Generation)),
		tx.SetMeta(metaPrefixes, []byte(text)),
	)
}

func metaNumber(tx store.Tx, name string) (uint64, error) {
	b, err := tx.Meta(name)
	if err == nil && len(b) != 8 {
		err = errors.New("has not 8 bytes")
	}
	if err != nil {
		return 0, fmt.Errorf("database: %s: %w", name, err)
	}
	return binary.BigEndian.Uint64(b), nil
}

func (s *Server) readPrefixes(tx store.Tx) error {
	b, err := tx.Meta(metaPrefixes)
	if err != nil {
		return err
	}
	var four, six string
	if _, err := fmt.Sscan(string(b), &four, &six); err != nil {
		return fmt.Errorf("database: prefixes %q: %w", b, err)
	}
	for _, text := range []string{four, six} {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("database: %w", err)
		}
		s.network.Prefixes = append(s.network.Prefixes, p)
	}
	for i, want := range []netip.Prefix{s.cfg.Prefix4, s.cfg.Prefix6} {
		if want.IsValid() && want != s.network.Prefixes[i] {
			return fmt.Errorf("prefix %s: this network was made with %s, and devices have addresses from it; use that one or none", want, s.network.Prefixes[i])
		}
	}
	return nil
}
