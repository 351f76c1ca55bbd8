package dirswap

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// files reads the plain files of a directory.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(b)
	}
	return out
}

func stage(t *testing.T, dir string, new map[string]string) {
	t.Helper()
	in, err := Stage(dir)
	if err != nil {
		t.Fatal(err)
	}
	write(t, in, new)
}

var (
	before = map[string]string{"db": "old", "db-wal": "old log", "key": "old key", "other": "left alone"}
	fresh  = map[string]string{"db": "new", "key": "new key", "more": "one more"}
	after  = map[string]string{"db": "new", "key": "new key", "more": "one more", "other": "left alone"}
	gone   = []string{"db-wal", "db-shm"}
)

func TestCommit(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, before)
	stage(t, dir, fresh)
	if diff := cmp.Diff(before, files(t, dir)); diff != "" {
		t.Errorf("staging changed something:\n%s", diff)
	}
	if err := Commit(dir, gone); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(after, files(t, dir)); diff != "" {
		t.Errorf("after Commit:\n%s", diff)
	}
	kept := maps.Clone(before)
	delete(kept, "other")
	if diff := cmp.Diff(kept, files(t, filepath.Join(dir, Replaced))); diff != "" {
		t.Errorf("kept:\n%s", diff)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != len(after)+1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	stage(t, dir, map[string]string{"db": "newest"})
	if err := Commit(dir, gone); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"db": "new"}, files(t, filepath.Join(dir, Replaced))); diff != "" {
		t.Errorf("kept of the second time:\n%s", diff)
	}
}

// A crash before any step that changes something, and another one while it is completed, leave all the old files or all the new ones.
func TestCrash(t *testing.T) {
	errCrash := errors.New("crash")
	crashing := func(at int) disk {
		return disk{step: func() error {
			if at--; at < 0 {
				return errCrash
			}
			return nil
		}, sync: func(string) error { return nil }}
	}
	wasNew := false
	for first := 0; ; first++ {
		crashed := false
		for _, second := range []int{0, 2, 5, 100} {
			dir := t.TempDir()
			write(t, dir, before)
			stage(t, dir, fresh)
			err := crashing(first).commit(dir, gone)
			if crashed = errors.Is(err, errCrash); err != nil && !crashed {
				t.Fatal(err)
			}
			if err := crashing(second).finish(dir); err != nil && !errors.Is(err, errCrash) {
				t.Fatal(err)
			}
			if err := crashing(1000).finish(dir); err != nil {
				t.Fatal(err)
			}
			got := files(t, dir)
			isNew := cmp.Equal(after, got)
			if !isNew && !cmp.Equal(before, got) {
				t.Errorf("crashes before steps %d and %d leave %v", first, second, got)
			}
			if wasNew && !isNew {
				t.Errorf("a crash before step %d undoes what one before an earlier step did not", first)
			}
			wasNew = isNew
			if Pending(dir) {
				t.Errorf("crashes before steps %d and %d: still pending after Finish", first, second)
			}
		}
		if !crashed {
			if first < 12 || !wasNew {
				t.Errorf("only %d steps, new: %v", first, wasNew)
			}
			return
		}
	}
}

func TestAbort(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, before)
	stage(t, dir, fresh)
	if err := Abort(dir); err != nil {
		t.Fatal(err)
	}
	stage(t, dir, map[string]string{"db": "newer"}) // nothing of the first attempt gets in
	if err := Commit(dir, nil); err != nil {
		t.Fatal(err)
	}
	want := maps.Clone(before)
	want["db"] = "newer"
	if diff := cmp.Diff(want, files(t, dir)); diff != "" {
		t.Error(diff)
	}
}

// What gone names is always within the directory.
func TestGoneStaysInside(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	inside := filepath.Join(dir, "in")
	write(t, dir, map[string]string{"outside": "x"})
	if err := os.Mkdir(inside, 0o700); err != nil {
		t.Fatal(err)
	}
	stage(t, inside, fresh)
	if err := Commit(inside, []string{"../outside"}); err == nil {
		if _, err := os.Stat(outside); err != nil {
			t.Error(err)
		}
	}
}
