// Package backup writes a coordinator's state into one file, and puts it back.
//
// Create and CreateFile make a backup, also while a coordinator runs; Restore puts one into a state directory, and raises the generation of all
// records, so that devices that have seen newer ones follow. A backup is a tar archive, compressed by gzip: a manifest, then the
// files of the state directory, the database first. It holds the authority's key.
package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"warren/coord/inspect"
	"warren/coord/statedir"
	"warren/coord/store/sqlite"
	"warren/internal/dirswap"
)

// Source is what to back up.
type Source struct {
	StateDir string
	// Version is that of this program.
	Version string
	Now     time.Time
	// Scratch is where a copy of the database is put meanwhile; empty: where the system keeps such files.
	Scratch string
}

// CreateFile writes a backup to path, readable by its owner only, in one step: after a crash nothing is there, or all of it. It takes the place of a
// backup that is there already; another file is an error.
func CreateFile(ctx context.Context, from Source, path string) (m Manifest, err error) {
	if _, err := os.Lstat(path); err == nil && !isBackup(path) {
		return m, fmt.Errorf("file %s is there, and is no backup that could be replaced; choose another name", path)
	}
	dir, base := filepath.Split(filepath.Clean(path))
	if dir == "" {
		dir = "."
	}
	work := filepath.Join(dir, "."+base+".tmp")
	if err := os.RemoveAll(work); err != nil { // left over from a crash
		return m, err
	}
	if err := os.Mkdir(work, 0o700); err != nil {
		return m, fmt.Errorf("backup to %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	from.Scratch = work
	f, err := os.OpenFile(filepath.Join(work, base), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return m, err
	}
	m, err = Create(ctx, from, f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return m, fmt.Errorf("backup to %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return m, err
	}
	return m, dirswap.Sync(dir)
}

// Create writes a backup to w. What is damaged is not backed up: the error says what is wrong.
func Create(ctx context.Context, from Source, w io.Writer) (Manifest, error) {
	var none Manifest
	if err := statedir.CheckLayout(from.StateDir); err != nil {
		return none, err
	}
	// Another one's lock is that of a running coordinator, which leaves keys alone, or of a restore, which is noticed below.
	if unlock, err := statedir.Lock(from.StateDir); err == nil {
		defer unlock()
	} else if !errors.Is(err, statedir.ErrLocked) && !errors.Is(err, fs.ErrPermission) && !readOnly(err) {
		return none, err
	}
	scratch, err := os.MkdirTemp(from.Scratch, "warren-backup-")
	if err != nil {
		return none, fmt.Errorf("no room for a copy of the database: %w", err)
	}
	defer os.RemoveAll(scratch)
	m, paths, err := collect(ctx, from, scratch)
	if err != nil {
		return none, err
	}
	return m, pack(w, m, paths)
}

// collect puts consistent copies of everything into scratch, and checks them.
func collect(ctx context.Context, from Source, scratch string) (m Manifest, paths map[string]string, err error) {
	restored := func() bool { return dirswap.Pending(from.StateDir) }
	before := restored()
	if _, err := sqlite.Copy(ctx, filepath.Join(from.StateDir, statedir.Database), filepath.Join(scratch, statedir.Database)); err != nil {
		return m, nil, err
	}
	for _, name := range statedir.Files() {
		if name == statedir.Database {
			continue
		}
		b, err := os.ReadFile(filepath.Join(from.StateDir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(scratch, name), b, 0o600)
		}
		if err != nil {
			return m, nil, fmt.Errorf("state directory %s: %w", from.StateDir, err)
		}
	}
	if before || restored() {
		return m, nil, fmt.Errorf("state directory %s is being restored; try again afterwards", from.StateDir)
	}
	report := inspect.State(ctx, inspect.Options{Dir: scratch, Scratch: scratch})
	if err := report.Err(); err != nil {
		return m, nil, fmt.Errorf("state directory %s cannot be backed up as it is: %w", from.StateDir, err)
	}
	keys, err := statedir.Read(scratch)
	if err != nil {
		return m, nil, err
	}
	m = Manifest{
		Format: Format, Network: report.Network.ID.String(), Authority: keys.Authority.Public().String(), Generation: report.Network.Generation,
		Layout: statedir.Layout, Schema: report.Schema, Version: from.Version, At: from.Now.UTC().Truncate(time.Second),
	}
	paths = map[string]string{}
	for _, name := range statedir.Files() {
		paths[name] = filepath.Join(scratch, name)
		f, err := describe(name, paths[name])
		if err != nil {
			return m, nil, err
		}
		m.Files = append(m.Files, f)
	}
	return m, paths, nil
}
