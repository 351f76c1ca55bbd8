//go:build unix

package atomicfile

import (
	"errors"
	"os"
)

func replace(from, to string) error { return os.Rename(from, to) }

// syncDir makes the rename itself durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
