// Package inspect looks whether a coordinator's state directory is sound, and changes nothing in it; a coordinator may be running on it.
// Directory does all of it, State what a backup can be asked for.
package inspect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"warren/coord/domain"
	"warren/coord/statedir"
	"warren/coord/store/sqlite"
	"warren/internal/dirswap"
)

// Finding is what came of one check.
type Finding struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// Report is what came of all checks, in order.
type Report struct {
	Findings []Finding
	// Network is what the database says; nil if it does not.
	Network *domain.Network
	// Schema is that of the database.
	Schema int

	newest   string // the device that was here last
	newestAt time.Time
}

// OK reports whether nothing is wrong.
func (r *Report) OK() bool { return r.Err() == nil }

// Err joins what is wrong; nil if nothing is.
func (r *Report) Err() error {
	var errs []error
	for _, f := range r.Findings {
		if !f.OK {
			errs = append(errs, fmt.Errorf("%s: %s", f.Check, f.Detail))
		}
	}
	return errors.Join(errs...)
}

// add notes the outcome of a check; err is what is wrong.
func (r *Report) add(check string, err error, format string, args ...any) {
	f := Finding{check, err == nil, fmt.Sprintf(format, args...)}
	if err != nil {
		f.Detail = err.Error()
	}
	r.Findings = append(r.Findings, f)
}

// Options say where to look.
type Options struct {
	Dir string
	// Scratch is where a copy of the database may be put meanwhile; empty: where the system keeps such files.
	Scratch string
	Now     time.Time
}

// Directory checks everything. The error is of a directory in which no coordinator has run, or that cannot be looked at.
func Directory(ctx context.Context, o Options) (*Report, error) {
	if _, err := os.Stat(o.Dir); err != nil {
		return nil, fmt.Errorf("state directory: %w; name it with --state", err)
	}
	layout := statedir.CheckLayout(o.Dir)
	if errors.Is(layout, statedir.ErrNone) {
		return nil, fmt.Errorf("%w; name another with --state", layout)
	}
	r := new(Report)
	r.add("layout", layout, "%d", statedir.Layout)
	r.add("restore", pending(o.Dir), "none is half done")
	r.add("permissions", permissions(o.Dir), "only the owner of %s has access", o.Dir)
	r.state(ctx, o)
	r.add("clock", clock(r.newest, r.newestAt, o.Now), "%s", o.Now.UTC().Format(time.RFC3339))
	free, need, err := space(o.Dir)
	r.add("free space", err, "%d MiB free, at least %d wanted", free>>20, need>>20)
	return r, nil
}

// State checks keys and database.
func State(ctx context.Context, o Options) *Report {
	r := new(Report)
	r.state(ctx, o)
	return r
}

func (r *Report) state(ctx context.Context, o Options) {
	keys, err := statedir.Read(o.Dir)
	r.add("keys", err, "%d are there and whole", len(statedir.KeyFiles()))
	path := filepath.Join(o.Dir, statedir.Database)
	wrong, err := sqlite.Examine(ctx, path)
	switch {
	case err != nil:
		err = fmt.Errorf("%w; restore a backup if it is damaged", err)
	case len(wrong) > 0:
		err = fmt.Errorf("%s is damaged: %q; restore a backup", path, wrong)
	}
	r.add("database", err, "no damage")
	scratch, err := os.MkdirTemp(o.Scratch, "warren-check-")
	if err != nil {
		r.add("contents", fmt.Errorf("no room for a copy of the database: %w", err), "")
		return
	}
	defer os.RemoveAll(scratch)
	copied := filepath.Join(scratch, statedir.Database)
	if r.Schema, err = sqlite.Copy(ctx, path, copied); err != nil {
		r.add("contents", err, "")
		return
	}
	r.add("schema", nil, "%d", r.Schema)
	r.contents(ctx, copied, keys)
}

func pending(dir string) error {
	if dirswap.Pending(dir) {
		return errors.New("a restore was cut off; the next start of the coordinator completes it")
	}
	return nil
}

// minFree is how much room a small database wants, in bytes; a larger one wants twice its size, for a migration with its backup.
const minFree = 64 << 20

func space(dir string) (free, need uint64, err error) {
	info, err := os.Stat(filepath.Join(dir, statedir.Database))
	if err != nil {
		return 0, 0, err
	}
	need = max(minFree, 2*uint64(info.Size()))
	free, err = freeSpace(dir)
	if err == nil && free < need {
		err = fmt.Errorf("%d MiB free in %s, at least %d wanted; make room", free>>20, dir, need>>20)
	}
	return free, need, err
}
