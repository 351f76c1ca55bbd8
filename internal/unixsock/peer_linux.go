package unixsock

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

func callerOf(c net.Conn) (Caller, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return Caller{}, fmt.Errorf("%T is no Unix socket", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return Caller{}, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil {
		return Caller{}, err
	}
	if credErr != nil {
		return Caller{}, credErr
	}
	return Caller{cred.Uid, cred.Gid, cred.Pid}, nil
}

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
