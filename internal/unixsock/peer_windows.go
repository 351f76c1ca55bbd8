package unixsock

import (
	"errors"
	"net"

	"warren/internal/privatedir"
)

// callerOf gives root's numbers: the system does not tell who calls, and only administrators, the system and the user that this process runs as can
// connect to the socket at all.
func callerOf(net.Conn) (Caller, error) { return Caller{}, nil }

// makeDir makes the socket's directory, which none but those who may connect can enter.
func makeDir(path string) error { return privatedir.Make(path) }

// listenPrivate restricts the socket before anything is accepted from it.
func listenPrivate(path string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := privatedir.Restrict(path); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
