package backup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"warren/coord/inspect"
	"warren/coord/server"
	"warren/coord/statedir"
	"warren/internal/dirswap"
	"warren/internal/privatedir"
)

// Target is where to restore to.
type Target struct {
	StateDir string
	// Replace allows that a state is there already. It is kept beside the new one, in the directory dirswap.Replaced.
	Replace bool
	Now     func() time.Time
	// Scratch is where a copy of the database is put meanwhile; empty: where the system keeps such files.
	Scratch string
}

// Result is what Restore did.
type Result struct {
	server.Restored
	// Manifest is the backup's; of a database alone it says nothing but network and schema.
	Manifest Manifest
	// Replaced says that there was a state, which is kept. If it was one of the same network that could be read, Again are the devices that
	// had been removed since, and are members again, and Lost those that had come since, and are none any more.
	Replaced    bool
	Again, Lost []string
}

// ErrThere says that the directory holds a state already.
var ErrThere = errors.New("holds a coordinator's state already")

// Restore puts a backup into the state directory, or a database alone beside the keys that are there. Everything is checked first; a crash at
// any point leaves what was there, or the new state. No coordinator may be running.
func Restore(ctx context.Context, from io.Reader, to Target) (r Result, err error) {
	if there := to.occupied(); there != "" && !to.Replace {
		return r, fmt.Errorf("state directory %s %w (%s); restore into another one with --state, or replace this one with --replace", to.StateDir, ErrThere, there)
	}
	if err := privatedir.Make(to.StateDir); err != nil {
		return r, fmt.Errorf("state directory %s cannot be made: %w", to.StateDir, err)
	}
	unlock, err := statedir.Lock(to.StateDir)
	if err != nil {
		return r, err
	}
	defer unlock()
	r.Replaced = to.occupied() != "" // a restore that had been cut off is complete now
	stage, err := dirswap.Stage(to.StateDir)
	if err != nil {
		return r, fmt.Errorf("state directory %s: %w", to.StateDir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, dirswap.Abort(to.StateDir))
		}
	}()
	if r.Manifest, err = to.fill(ctx, from, stage); err != nil {
		return r, err
	}
	old := to.look(ctx)
	if err := to.raise(ctx, stage, &r, old); err != nil {
		return r, err
	}
	return r, dirswap.Commit(to.StateDir, statedir.Leftovers())
}

// occupied names a file of a state that is there.
func (t *Target) occupied() string {
	for _, name := range append(statedir.Files(), statedir.RelayFile) {
		if _, err := os.Lstat(filepath.Join(t.StateDir, name)); !errors.Is(err, fs.ErrNotExist) {
			return name
		}
	}
	if dirswap.Pending(t.StateDir) {
		return "a restore that was cut off"
	}
	return ""
}

// magic is how a file of SQLite begins.
const magic = "SQLite format 3\x00"

// fill puts the files of the backup into stage and checks them.
func (t *Target) fill(ctx context.Context, from io.Reader, stage string) (m Manifest, err error) {
	buffered := bufio.NewReader(from)
	if head, _ := buffered.Peek(len(magic)); string(head) == magic {
		err = t.besideKeys(buffered, stage)
	} else {
		var a *reader
		if a, m, err = openArchive(buffered); err == nil {
			err = a.unpack(m, stage)
		}
	}
	if err != nil {
		return m, err
	}
	if now := t.Now(); m.At.After(now.Add(time.Hour)) {
		return m, fmt.Errorf("the backup is of %s, and this machine's clock says %s; set the clock first", m.At.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if err := statedir.CheckLayout(stage); err != nil {
		return m, err
	}
	report := inspect.State(ctx, inspect.Options{Dir: stage, Scratch: t.Scratch})
	if err := report.Err(); err != nil {
		return m, fmt.Errorf("the backup cannot be used: %w", err)
	}
	if id := report.Network.ID.String(); m.Format > 0 && id != m.Network {
		return m, fmt.Errorf("the backup is damaged: its database is of network %s, its manifest says %.40q", id, m.Network)
	}
	m.Network, m.Schema = report.Network.ID.String(), report.Schema
	return m, nil
}

// besideKeys takes a database alone, such as one of before a migration, with the keys of the state that is there.
func (t *Target) besideKeys(from io.Reader, stage string) error {
	if err := statedir.CheckLayout(t.StateDir); err != nil {
		return fmt.Errorf("this is a database without keys, and goes only where those are: %w", err)
	}
	if _, err := extract(from, filepath.Join(stage, statedir.Database)); err != nil {
		return err
	}
	for _, name := range statedir.Files() {
		if name == statedir.Database {
			continue
		}
		b, err := os.ReadFile(filepath.Join(t.StateDir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(stage, name), b, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// raise has the staged state speak with a higher generation than any that devices may have seen, and leaves nothing but its files.
func (t *Target) raise(ctx context.Context, stage string, r *Result, old *state) error {
	s, err := server.Open(ctx, server.Config{StateDir: stage, Now: t.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	r.Restored, err = s.AfterRestore(ctx, old.generation())
	if err := errors.Join(err, s.Close()); err != nil {
		return err
	}
	now, err := read(ctx, filepath.Join(stage, statedir.Database), t.Scratch)
	if err != nil {
		return err
	}
	r.Again, r.Lost = old.compare(now)
	return clean(stage)
}

// clean drops what reading and writing a state leave beside its files.
func clean(stage string) error {
	entries, err := os.ReadDir(stage)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slices.Contains(statedir.Files(), e.Name()) {
			if err := os.RemoveAll(filepath.Join(stage, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// look reads the state that is to be replaced; nil if that cannot be done, for it may be why somebody restores a backup.
func (t *Target) look(ctx context.Context) *state {
	s, err := read(ctx, filepath.Join(t.StateDir, statedir.Database), t.Scratch)
	if err != nil {
		return nil
	}
	return s
}
