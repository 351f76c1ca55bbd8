//go:build unix

package tundev

import (
	"os"

	"golang.org/x/sys/unix"
)

// readable reports whether a read of a file would end at once.
func readable(f *os.File) bool {
	c, err := f.SyscallConn()
	if err != nil {
		return true
	}
	yes := false
	err = c.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		yes = n > 0 || err != nil
		return true
	})
	return yes || err != nil // after an interruption, or on a closed file, a read ends at once, too
}
