package freebind

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// allow lets a socket be bound to any address. Where the kernel refuses, it is bound as any other.
func allow(network, _ string, c syscall.RawConn) error {
	level, option := unix.IPPROTO_IP, unix.IP_FREEBIND
	if network == "tcp6" {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_FREEBIND
	}
	var refused error
	err := c.Control(func(fd uintptr) { refused = unix.SetsockoptInt(int(fd), level, option, 1) })
	if errors.Is(refused, unix.ENOPROTOOPT) {
		refused = nil
	}
	return errors.Join(err, refused)
}
