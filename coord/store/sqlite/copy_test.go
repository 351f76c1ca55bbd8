package sqlite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"warren/coord/store"
)

// A copy is taken while the store is in use, holds what was committed, and is of the schema that it was.
func TestCopy(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a b?c#%.db")
	all := withNext(t)
	st, err := open(t.Context(), path, all[:2])
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	copied := filepath.Join(dir, "copy.db")
	err = st.Update(t.Context(), func(tx store.Tx) error { return tx.SetMeta("n", []byte("kept")) })
	if err != nil {
		t.Fatal(err)
	}
	err = st.Update(t.Context(), func(tx store.Tx) error {
		if err := tx.SetMeta("n", []byte("uncommitted")); err != nil {
			return err
		}
		schema, err := Copy(t.Context(), path, copied)
		if schema != 2 {
			t.Errorf("schema %d", schema)
		}
		return errors.Join(err, errors.New("roll back"))
	})
	if err == nil || err.Error() != "roll back" {
		t.Fatal(err)
	}
	again, err := open(t.Context(), copied, all[:2])
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	err = again.View(t.Context(), func(tx store.Tx) error {
		got, err := tx.Meta("n")
		if string(got) != "kept" {
			t.Errorf("copy holds %q", got)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := Copy(t.Context(), path, copied); !errors.Is(err, os.ErrExist) {
		t.Errorf("a copy over another one: %v", err)
	}
	if _, err := Copy(t.Context(), filepath.Join(dir, "none.db"), copied); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a copy of nothing: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "none.db")); !errors.Is(err, os.ErrNotExist) {
		t.Error("looking made a file")
	}
}

func TestExamine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	st := openFile(t, path)
	defer st.Close()
	if wrong, err := Examine(t.Context(), path); err != nil || len(wrong) > 0 {
		t.Errorf("a sound one: %q, %v", wrong, err)
	}
	_, err := st.write.ExecContext(t.Context(), "PRAGMA foreign_keys(0)")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.write.ExecContext(t.Context(), "INSERT INTO addresses VALUES (x'01', x'02')"); err != nil {
		t.Fatal(err)
	}
	if wrong, err := Examine(t.Context(), path); err != nil || len(wrong) != 1 || !strings.Contains(wrong[0], "1 rows") {
		t.Errorf("an address of nobody: %q, %v", wrong, err)
	}
}

// Databases of before migrations do not pile up, and files of other names stay.
func TestBeforeMigrationsKept(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a[b]*.db")
	openFile(t, path).Close()
	for _, name := range []string{path + ".before-x", filepath.Join(dir, "ab.db.before-1")} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all := withNext(t)
	last := all[len(all)-1].number
	for i := range 12 {
		all = append(all, step{last + 1 + i, fmt.Sprintf("CREATE TABLE t%d (x INTEGER) STRICT;", i)})
		st, err := open(t.Context(), path, all)
		if err != nil {
			t.Fatal(err)
		}
		st.Close()
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	want := []string{"a[b]*.db", "a[b]*.db.before-x", "ab.db.before-1"}
	for i := last + 10; i <= last+12; i++ {
		want = append(want, fmt.Sprint("a[b]*.db.before-", i))
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("there are %q, want %q", got, want)
	}
	if _, err := Open(t.Context(), path); !errors.Is(err, store.ErrNewer) || !strings.Contains(err.Error(), "install that version again") ||
		!strings.Contains(err.Error(), "restore --replace") {
		t.Errorf("the old program afterwards: %v", err)
	}
}

// When there is no room an update fails as a whole, and says so; with room again it succeeds.
func TestFull(t *testing.T) {
	st := openFile(t, filepath.Join(t.TempDir(), "x.db"))
	defer st.Close()
	set := func(value string) error {
		return st.Update(t.Context(), func(tx store.Tx) error {
			return errors.Join(tx.SetMeta("n", []byte("new")), tx.SetMeta("large", []byte(value)))
		})
	}
	limit := func(pages int) {
		t.Helper()
		if _, err := st.write.ExecContext(t.Context(), fmt.Sprint("PRAGMA max_page_count = ", pages)); err != nil {
			t.Fatal(err)
		}
	}
	limit(1) // no more than there are
	if err := set(strings.Repeat("x", 1<<20)); !errors.Is(err, store.ErrDisk) {
		t.Errorf("without room: %v", err)
	}
	err := st.View(t.Context(), func(tx store.Tx) error {
		if _, err := tx.Meta("n"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("half of an update: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	limit(1 << 20)
	if err := set(strings.Repeat("x", 1<<20)); err != nil {
		t.Errorf("with room: %v", err)
	}
}
