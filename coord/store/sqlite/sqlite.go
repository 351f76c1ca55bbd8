// Package sqlite is the Store in a file, by modernc.org/sqlite: no server and no cgo. Open gives the Store; Copy and Examine look at a file that another
// program may have open.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"modernc.org/sqlite" // registers the driver "sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"warren/coord/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Store is an open database file.
type Store struct {
	write *sql.DB // one connection: SQLite has one writer
	read  *sql.DB
}

// Open opens the database at path, or makes it, and brings its schema up to date after a backup to path.before-N; the newest of those are kept.
func Open(ctx context.Context, path string) (*Store, error) {
	all, err := steps(migrations)
	if err != nil {
		return nil, err
	}
	return open(ctx, path, all)
}

func open(ctx context.Context, path string, all []step) (*Store, error) {
	if err := touch(path); err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	writer, err := sql.Open("sqlite", dsn(path, write))
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	writer.SetMaxOpenConns(1)
	if err := migrate(ctx, writer, path, all); err != nil {
		writer.Close()
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	reader, err := sql.Open("sqlite", dsn(path, read))
	if err != nil {
		writer.Close()
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	reader.SetMaxOpenConns(4)
	return &Store{writer, reader}, nil
}

// touch makes the file readable by its owner only before SQLite creates it otherwise.
func touch(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// access is what a connection may do.
type access int

const (
	write access = iota
	read
	look     // and change nothing, not even how the file is kept
	lookOnly // where nobody writes, and no file can be made beside it
)

// dsn asks for a write-ahead log that is synced at every commit: what was answered is on the disk.
func dsn(path string, a access) string {
	q := url.Values{"_pragma": {"busy_timeout(10000)", "foreign_keys(1)"}, "_txlock": {"deferred"}}
	switch a {
	case write:
		q.Set("_txlock", "immediate")
		q["_pragma"] = append(q["_pragma"], "journal_mode(WAL)", "synchronous(FULL)")
	case read:
		q["_pragma"] = append(q["_pragma"], "journal_mode(WAL)", "synchronous(FULL)", "query_only(1)")
	case look:
		q.Set("mode", "ro")
	case lookOnly:
		q.Set("mode", "ro")
		q.Set("immutable", "1")
	}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}).String()
}

// Close implements store.Store.
func (s *Store) Close() error { return errors.Join(s.read.Close(), s.write.Close()) }

// View implements store.Store.
func (s *Store) View(ctx context.Context, f func(store.Tx) error) error {
	t, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer t.Rollback()
	return f(&tx{ctx, t})
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, f func(store.Tx) error) error {
	t, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return explain(err)
	}
	defer t.Rollback() // without effect after Commit
	if err := f(&tx{ctx, t}); err != nil {
		return explain(err)
	}
	return explain(t.Commit())
}

// explain tells errors of the disk from others.
func explain(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff { // what is above says more of it
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN:
		return fmt.Errorf("%w: %w", store.ErrDisk, err)
	}
	return err
}

// step is one migration: a file called NNNN_what.sql.
type step struct {
	number int
	sql    string
}

// steps reads the migrations in order.
func steps(from fs.FS) ([]step, error) {
	names, err := fs.Glob(from, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	var out []step
	for _, name := range names {
		number, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
		n, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("migration %s has no number", name)
		}
		b, err := fs.ReadFile(from, name)
		if err != nil {
			return nil, err
		}
		out = append(out, step{n, string(b)})
	}
	slices.SortFunc(out, func(a, b step) int { return a.number - b.number })
	return out, nil
}

// migrate applies the steps that the database has not seen, all in one transaction, so that a crash leaves the old schema.
func migrate(ctx context.Context, db *sql.DB, path string, all []step) error {
	var have int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return err
	}
	if err := tooNew(have, all); err != nil {
		return err
	}
	newest := all[len(all)-1].number
	if have == newest {
		return nil
	}
	if have > 0 {
		to := fmt.Sprint(path, beforeInfix, newest)
		if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) { // left by an attempt that failed
			return fmt.Errorf("backup before migration: %w", err)
		}
		if err := backup(ctx, db, to); err != nil {
			return fmt.Errorf("backup before migration: %w", err)
		}
	}
	if err := apply(ctx, db, all, have); err != nil {
		return err
	}
	return dropBefore(path)
}

// apply takes the schema from number have to the newest.
func apply(ctx context.Context, db *sql.DB, all []step, have int) error {
	t, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer t.Rollback()
	for _, s := range all {
		if s.number <= have {
			continue
		}
		if _, err := t.ExecContext(ctx, s.sql); err != nil {
			return fmt.Errorf("migration %d: %w", s.number, err)
		}
	}
	if _, err := t.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", all[len(all)-1].number)); err != nil {
		return err
	}
	return t.Commit()
}

// Backup implements store.Store.
func (s *Store) Backup(ctx context.Context, path string) error {
	if err := backup(ctx, s.write, path); err != nil {
		return fmt.Errorf("backup to %s: %w", path, err)
	}
	return nil
}

// backup copies the database as it is now into a new file and syncs it.
func backup(ctx context.Context, db *sql.DB, to string) error {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", to); err != nil { // into an empty file it may
		return errors.Join(err, os.Remove(to))
	}
	return f.Sync()
}

func toNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNano(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
