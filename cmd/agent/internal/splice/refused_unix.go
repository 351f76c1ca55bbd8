//go:build !windows

package splice

import (
	"errors"
	"syscall"
)

// refused reports whether an error of a datagram socket tells of an earlier datagram that was not wanted.
func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
