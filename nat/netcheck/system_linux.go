package netcheck

import (
	"errors"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const canWhole = true

// whole has datagrams leave with DF set, whatever the kernel believes of the path's MTU.
func whole(network string, c syscall.RawConn) error {
	var setErr error
	err := c.Control(func(fd uintptr) {
		if strings.HasSuffix(network, "6") {
			setErr = os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE))
		} else {
			setErr = os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE))
		}
	})
	return errors.Join(err, setErr)
}

// tooLong reports that a datagram does not fit the interface.
func tooLong(err error) bool { return errors.Is(err, unix.EMSGSIZE) }

// temporary reports errors of a read that say something of an earlier datagram.
func temporary(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EMSGSIZE)
}
