//go:build unix

package privatedir_test

import (
	"os"
	"path/filepath"
	"testing"

	"warren/internal/privatedir"
)

func TestMake(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	for range 2 {
		if err := privatedir.Make(path); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != os.ModeDir|0o700 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	}
	// One that is there stays as it is: a service manager may have made it, with other rights.
	if err := os.Chmod(path, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := privatedir.Make(path); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	file := filepath.Join(path, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := privatedir.Make(file); err == nil {
		t.Error("a file is taken for a directory")
	}
}
