// Package atomicfile replaces files so that a crash at any point leaves the old content or the new, never half of either. Write is
// the only call.
package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write makes data the content of the file at path, readable by its owner only (0600). When it returns without error, the content is on
// the disk and survives a loss of power. A file left over by a crash is called .NAME.tmp and is used again by the next Write.
func Write(path string, data []byte) error {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	temporary := filepath.Join(dir, "."+base+".tmp")
	if err := writeSynced(temporary, data); err != nil {
		return errors.Join(err, removeIfThere(temporary))
	}
	if err := replace(temporary, path); err != nil {
		return errors.Join(err, removeIfThere(temporary))
	}
	return syncDir(dir)
}

func writeSynced(path string, data []byte) error {
	if err := removeIfThere(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("left over from a crash: %w", err)
	}
	return nil
}
