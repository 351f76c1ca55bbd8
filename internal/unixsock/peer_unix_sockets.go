//go:build linux || darwin

package unixsock

import (
	"errors"
	"fmt"
	"net"
	"os"
)

func callerOf(c net.Conn) (caller Caller, err error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return Caller{}, fmt.Errorf("%T is no Unix socket", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return Caller{}, err
	}
	var credErr error
	err = raw.Control(func(fd uintptr) { caller, credErr = credentials(int(fd)) })
	return caller, errors.Join(err, credErr)
}

// makeDir makes the socket's directory. Others may enter it: the socket itself is its owner's alone.
func makeDir(path string) error { return os.MkdirAll(path, 0o755) }

// listenPrivate makes the socket 0600 before anyone can connect: it is bound under a name nobody knows, and renamed.
func listenPrivate(path string) (*net.UnixListener, error) {
	hidden := path + ".new"
	if err := os.Remove(hidden); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(hidden, 0o600); err == nil {
		err = os.Rename(hidden, path)
	}
	if err != nil {
		l.Close()
		os.Remove(hidden)
		return nil, err
	}
	return l, nil
}
