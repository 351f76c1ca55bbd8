// Package statedir is the coordinator's state directory: its lock, its layout and its keys. Open takes it, and makes what is missing at the
// first start; Read looks at the keys of one that another program may have.
package statedir

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"warren/internal/atomicfile"
	"warren/internal/dirswap"
	"warren/internal/filelock"
	"warren/internal/privatedir"
	"warren/proto/key"
	"warren/proto/tlsbind"
)

// Names in the state directory.
const (
	Database      = "warren.db"
	lockName      = "lock"
	authorityName = "authority.key"
	signingName   = "signing.key"
	relayName     = "relay.key"
	tlsName       = "tls.key"
	versionName   = "version"
	// RelayFile is that of a separate relay, which needs no backup.
	RelayFile = "relay.json"
)

// Layout is the newest layout of the directory that this program knows. The database has a number of its own.
const Layout = 1

// Errors that callers tell apart.
var (
	ErrLocked = errors.New("in use by another warren-coordinator")
	ErrNewer  = errors.New("written by a newer warren-coordinator")
	// ErrNone says that no coordinator has run in the directory.
	ErrNone = errors.New("no coordinator has run in it")
)

// KeyFiles are the names of the files that hold keys.
func KeyFiles() []string { return []string{authorityName, signingName, relayName, tlsName} }

// Files are the names of all files that make a coordinator what it is, the database first.
func Files() []string { return append([]string{Database, versionName}, KeyFiles()...) }

// Leftovers are the names of files that belong to the database of a moment, and to no other.
func Leftovers() []string { return []string{Database + "-wal", Database + "-shm"} }

// Keys are those of a coordinator, each in a file of its own.
type Keys struct {
	Authority key.AuthorityPrivate
	Signing   key.SigningPrivate
	Relay     key.DevicePrivate
	TLS       *ecdsa.PrivateKey
}

// Dir is a state directory that this process has.
type Dir struct {
	Keys
	path   string
	unlock func() error
}

// Close lets others have the directory.
func (d *Dir) Close() error { return d.unlock() }

// Lock takes the directory, which is there, and completes a restore that was cut off. The error wraps ErrLocked if another process has it.
func Lock(path string) (unlock func() error, err error) {
	unlock, err = filelock.Take(filepath.Join(path, lockName))
	if errors.Is(err, filelock.ErrHeld) {
		return nil, fmt.Errorf("state directory %s is %w; stop that one first", path, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("state directory %s is not writable: %w; choose another with --state or run as root", path, err)
	}
	err = dirswap.Own(path, filepath.Join(path, lockName)) // which root may just have made
	if err == nil {
		err = dirswap.Finish(path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("state directory %s: completing a restore: %w", path, err), unlock())
	}
	return unlock, nil
}

// Open locks the directory and reads the keys, making those that are not there yet.
func Open(path string) (_ *Dir, err error) {
	if err := privatedir.Make(path); err != nil {
		return nil, fmt.Errorf("state directory %s cannot be made: %w; choose another with --state or run as root", path, err)
	}
	unlock, err := Lock(path)
	if err != nil {
		return nil, err
	}
	d := &Dir{path: path, unlock: unlock}
	defer func() {
		if err != nil {
			unlock()
		}
	}()
	if err := CheckLayout(path); err != nil && !errors.Is(err, ErrNone) {
		return nil, err
	}
	d.Keys, err = keys(path, true)
	return d, err
}

// Read reads the keys. One that is not there is an error.
func Read(path string) (Keys, error) { return keys(path, false) }

// keys reads the files. With draw, those that are not there are made.
func keys(path string, draw bool) (k Keys, err error) {
	if k.Authority, err = keyFile(path, authorityName, key.AuthorityPrivateFromBytes, key.NewAuthority, draw); err != nil {
		return k, err
	}
	if k.Signing, err = keyFile(path, signingName, key.SigningPrivateFromBytes, key.NewSigning, draw); err != nil {
		return k, err
	}
	if k.Relay, err = keyFile(path, relayName, key.DevicePrivateFromBytes, key.NewDevice, draw); err != nil {
		return k, err
	}
	k.TLS, err = tlsKeyFile(filepath.Join(path, tlsName), draw)
	return k, err
}

// CheckLayout looks whether this program understands the directory, and whether it is whole: once a coordinator ran in it, its
// authority key and database must be there, or devices would be told of another network than the one that they are in. The error wraps ErrNone if
// none ran.
func CheckLayout(path string) error {
	b, err := os.ReadFile(filepath.Join(path, versionName))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("state directory %s: %w", path, ErrNone)
	}
	if err != nil {
		return fmt.Errorf("state directory %s: %w", path, err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	switch {
	case err != nil || n < 1:
		return fmt.Errorf("state directory %s: file %s holds %.20q, not a number; restore a backup", path, versionName, b)
	case n > Layout:
		return fmt.Errorf("state directory %s was %w (layout %d, this one knows %d); install that version again, or restore a backup made before",
			path, ErrNewer, n, Layout)
	}
	for _, name := range []string{authorityName, Database} {
		if info, err := os.Stat(filepath.Join(path, name)); err != nil || info.Size() == 0 {
			return fmt.Errorf("state directory %s has lost its file %s; restore it from a backup, or begin a new network in an empty directory", path, name)
		}
	}
	return nil
}

// WriteLayout says that the directory is whole. It comes last at the first start, so that a crash before it leaves nothing to repair.
func WriteLayout(path string) error {
	file := filepath.Join(path, versionName)
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	if err := atomicfile.Write(file, fmt.Appendln(nil, Layout)); err != nil {
		return fmt.Errorf("state directory %s: %w", path, err)
	}
	return nil
}

// keyFile reads 32 bytes, or draws and stores a new key.
func keyFile[K interface{ Bytes() []byte }](dir, name string, parse func([]byte) (K, error), newKey func() K, draw bool) (K, error) {
	path := filepath.Join(dir, name)
	b, err := os.ReadFile(path)
	if draw && errors.Is(err, fs.ErrNotExist) {
		k := newKey()
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

func tlsKeyFile(path string, draw bool) (*ecdsa.PrivateKey, error) {
	b, err := os.ReadFile(path)
	if draw && errors.Is(err, fs.ErrNotExist) {
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
