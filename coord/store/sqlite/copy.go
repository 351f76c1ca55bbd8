package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"warren/coord/store"
)

// keepBefore is how many databases of before a migration are kept.
const keepBefore = 3

// Copy writes a consistent copy of the database at path, which another program may be using, to a new file, as it is: the schema stays. It
// gives the number of the schema. The error wraps store.ErrNewer if this program does not know that.
func Copy(ctx context.Context, path, to string) (schema int, err error) {
	db, err := openToLook(ctx, path)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	if schema, err = schemaOf(ctx, db); err != nil {
		return 0, fmt.Errorf("database %s: %w", path, err)
	}
	if err := backup(ctx, db, to); err != nil {
		return 0, fmt.Errorf("copy of database %s to %s: %w", path, to, err)
	}
	return schema, nil
}

// Examine looks for damage in the file at path, which another program may be using. It gives what is wrong in SQLite's words, at most 20 of them; an error
// if the file cannot be looked at.
func Examine(ctx context.Context, path string) (wrong []string, err error) {
	db, err := openToLook(ctx, path)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	rows, err := db.QueryContext(ctx, "PRAGMA integrity_check(20)")
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, fmt.Errorf("database %s: %w", path, err)
		}
		if text != "ok" {
			wrong = append(wrong, text)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	var orphans int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM pragma_foreign_key_check").Scan(&orphans); err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	if orphans > 0 {
		wrong = append(wrong, fmt.Sprintf("%d rows belong to others that are not there", orphans))
	}
	return wrong, nil
}

// openToLook opens a file that is there, and writes nothing into it.
func openToLook(ctx context.Context, path string) (*sql.DB, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	db, err := openAs(ctx, path, look)
	if errors.Is(err, store.ErrDisk) && !hasLog(path) {
		db, err = openAs(ctx, path, lookOnly) // in a directory where SQLite may not put what readers share
	}
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	return db, nil
}

func openAs(ctx context.Context, path string, a access) (*sql.DB, error) {
	db, err := sql.Open("sqlite", dsn(path, a))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, "SELECT 1 FROM sqlite_schema"); err != nil {
		db.Close()
		return nil, explain(err)
	}
	return db, nil
}

// hasLog reports whether there is a write-ahead log, which somebody may be writing, and without which the file is not whole.
func hasLog(path string) bool {
	info, err := os.Stat(path + "-wal")
	return err == nil && info.Size() > 0
}

// schemaOf gives the number of the database's schema, if this program knows it.
func schemaOf(ctx context.Context, db *sql.DB) (int, error) {
	all, err := steps(migrations)
	if err != nil {
		return 0, err
	}
	var have int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return 0, err
	}
	return have, tooNew(have, all)
}

// tooNew refuses a schema of a newer program, and says what can be done about it.
func tooNew(have int, all []step) error {
	newest := all[len(all)-1].number
	if have <= newest {
		return nil
	}
	return fmt.Errorf("%w (schema %d, this one knows %d); install that version again, or go back by \"warren-coordinator restore --replace\" to a backup "+
		"made before, or to the database that was kept beside this one as *%sN", store.ErrNewer, have, newest, beforeInfix)
}

// beforeInfix stands between the name of a database and the number of the schema that came after it.
const beforeInfix = ".before-"

// dropBefore removes the databases of before migrations, but the newest of them.
func dropBefore(path string) error {
	all, err := filepath.Glob(filepath.Join(globQuote(filepath.Dir(path)), globQuote(filepath.Base(path))+beforeInfix+"*"))
	if err != nil {
		return err
	}
	number := func(name string) int {
		n, err := strconv.Atoi(name[strings.LastIndex(name, beforeInfix)+len(beforeInfix):])
		if err != nil {
			return -1
		}
		return n
	}
	all = slices.DeleteFunc(all, func(name string) bool { return number(name) < 0 })
	slices.SortFunc(all, func(a, b string) int { return number(b) - number(a) })
	var errs []error
	for _, name := range all[min(len(all), keepBefore):] {
		errs = append(errs, os.Remove(name))
	}
	return errors.Join(errs...)
}

// globQuote makes a pattern of a name that stands for itself.
func globQuote(name string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(name)
}
