package diskspace

import (
	"io/fs"

	"golang.org/x/sys/unix"
)

// Of looks at the file system that a file or directory is on.
func Of(path string) (Space, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return Space{}, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	return Space{FreeBytes: s.Bavail * uint64(s.Bsize), FreeFiles: s.Ffree, Files: s.Files, ReadOnly: s.Flags&unix.ST_RDONLY != 0}, nil
}
