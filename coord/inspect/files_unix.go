//go:build unix

package inspect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"warren/coord/statedir"
)

// permissions checks that nobody but the owner of the directory has access, and that the files are the owner's.
func permissions(dir string) error {
	owner, err := closed(dir)
	if err != nil {
		return err
	}
	for _, name := range statedir.Files() {
		path := filepath.Join(dir, name)
		of, err := closed(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // which other checks complain of
		}
		if err != nil {
			return err
		}
		if of != owner {
			return fmt.Errorf("%s belongs to user %d, and its directory to %d; run \"chown %d %s\"", path, of, owner, owner, path)
		}
	}
	return nil
}

// closed gives the owner of a file that only that one may use.
func closed(path string) (owner uint32, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	if m := info.Mode().Perm(); m&0o077 != 0 {
		return 0, fmt.Errorf("%s has mode %04o, so that others have access; run \"chmod go= %s\"", path, m, path)
	}
	return info.Sys().(*syscall.Stat_t).Uid, nil
}

func freeSpace(dir string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return s.Bavail * uint64(s.Bsize), nil
}
