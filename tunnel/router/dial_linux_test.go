package router

import (
	"net"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dialer has control done to its sockets.
func dialer(timeout time.Duration, control ...func(fd uintptr)) *net.Dialer {
	return &net.Dialer{Timeout: timeout, Control: func(_, _ string, c syscall.RawConn) error {
		for _, f := range control {
			if err := c.Control(f); err != nil {
				return err
			}
		}
		return nil
	}}
}

// asAgent marks a socket as the agent does.
func asAgent(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, Mark) }

func runQuietly(args ...string) error { return exec.Command(args[0], args[1:]...).Run() }
