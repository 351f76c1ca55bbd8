// Package dirswap replaces several files of a directory at once: a crash at any point leaves all the old ones or, after Finish, all the new
// ones. Stage gives an empty directory to put the new ones in, Commit makes them those of the directory, and Finish, which every program calls that
// opens the directory, completes what a crash had cut off. All of it stays within the directory, which may be a mount point, and whose parent
// may not be writable. The caller holds a lock on the directory.
package dirswap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	stageName = ".swap.new" // being filled: without meaning
	readyName = ".swap"     // complete: takes the place of the old files
	filesName = "files"
	goneName  = "gone"
	// Replaced is the directory that keeps the old files of the last Commit.
	Replaced = "replaced"
)

// Stage makes the directory for the new files, empty. An earlier one that was not committed is dropped.
func Stage(dir string) (string, error) {
	if err := Abort(dir); err != nil {
		return "", err
	}
	files := filepath.Join(dir, stageName, filesName)
	return files, os.MkdirAll(files, 0o700)
}

// Abort drops what was staged and not committed.
func Abort(dir string) error { return os.RemoveAll(filepath.Join(dir, stageName)) }

// Pending reports whether new files wait to take the place of the old ones, which those who only read must not mix.
func Pending(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, readyName))
	return err == nil
}

// Commit puts the staged files in the place of those of the same names, and removes those called gone. What was there before is kept in
// Replaced. Done by root, it makes them the directory's owner's. When it returns without error, all of that is on the disk.
func Commit(dir string, gone []string) error { return disk{goOn, Sync}.commit(dir, gone) }

// Finish completes a Commit that a crash cut off, if there was one.
func Finish(dir string) error { return disk{goOn, Sync}.finish(dir) }

// disk is what tests put in the place of the real one.
type disk struct {
	// step is asked before each step that changes something, and may crash there.
	step func() error
	sync func(path string) error
}

func goOn() error { return nil }

func (d disk) commit(dir string, gone []string) error {
	stage := filepath.Join(dir, stageName)
	if err := os.WriteFile(filepath.Join(stage, goneName), []byte(strings.Join(gone, "\n")), 0o600); err != nil {
		return err
	}
	names, err := staged(stage)
	if err != nil {
		return err
	}
	if err := d.keep(dir, slices.Concat(names, gone)); err != nil {
		return fmt.Errorf("keeping what is replaced: %w", err)
	}
	if err := Own(dir, stage); err != nil {
		return err
	}
	paths := []string{filepath.Join(stage, goneName), filepath.Join(stage, filesName), stage, dir}
	for _, name := range names {
		paths = append(paths, filepath.Join(stage, filesName, name))
	}
	for _, path := range paths {
		if err := errors.Join(d.step(), d.sync(path)); err != nil {
			return err
		}
	}
	ready := filepath.Join(dir, readyName)
	if err := d.do(func() error { return os.Rename(stage, ready) }); err != nil { // from here on the new files count
		return err
	}
	if err := d.sync(dir); err != nil {
		return err
	}
	return d.finish(dir)
}

func (d disk) do(change func() error) error {
	if err := d.step(); err != nil {
		return err
	}
	return change()
}

func (d disk) finish(dir string) error {
	if !Pending(dir) {
		return nil
	}
	ready := filepath.Join(dir, readyName)
	names, err := staged(ready)
	if err != nil {
		return err
	}
	gone, err := os.ReadFile(filepath.Join(ready, goneName))
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(gone)) {
		err := d.do(func() error { return os.Remove(filepath.Join(dir, filepath.Base(name))) })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, name := range names { // those that were moved already are not among them
		err := d.do(func() error { return os.Rename(filepath.Join(ready, filesName, name), filepath.Join(dir, name)) })
		if err != nil {
			return err
		}
	}
	if err := d.sync(dir); err != nil {
		return err
	}
	// First its name is taken away, so that no half of it is ever taken for a whole.
	if err := d.do(func() error { return os.Rename(ready, filepath.Join(dir, stageName)) }); err != nil {
		return err
	}
	if err := d.do(func() error { return Abort(dir) }); err != nil {
		return err
	}
	return d.sync(dir)
}

// staged lists the new files.
func staged(in string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(in, filesName))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, nil
}

// keep links the files that are about to be replaced into a directory of their own.
func (d disk) keep(dir string, names []string) error {
	into := filepath.Join(dir, Replaced)
	if err := d.do(func() error { return os.RemoveAll(into) }); err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		from := filepath.Join(dir, name)
		if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.MkdirAll(into, 0o700); err != nil {
			return err
		}
		if err := d.do(func() error { return os.Link(from, filepath.Join(into, name)) }); err != nil {
			return err
		}
	}
	if _, err := os.Lstat(into); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(Own(dir, into), d.sync(into))
}
