//go:build unix

package backup

import (
	"errors"
	"syscall"
)

// readOnly reports whether a file could not be written because of its file system.
func readOnly(err error) bool { return errors.Is(err, syscall.EROFS) }
