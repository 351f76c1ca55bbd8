package filelock_test

import (
	"errors"
	"path/filepath"
	"testing"

	"warren/internal/filelock"
)

func TestTake(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	release, err := filelock.Take(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := filelock.Take(path); !errors.Is(err, filelock.ErrHeld) {
		t.Errorf("a second holder: err %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	again, err := filelock.Take(path)
	if err != nil {
		t.Fatalf("after its release: %v", err)
	}
	again()
	if _, err := filelock.Take(filepath.Join(path, "below a file")); err == nil || errors.Is(err, filelock.ErrHeld) {
		t.Errorf("a path that cannot be: err %v", err)
	}
}
