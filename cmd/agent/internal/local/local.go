// Package local is how the command line reaches the daemon: Dial gives a client for its socket, Operator says who besides root may use it.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"syscall"

	"warren/proto/warrenv1/warrenv1connect"
)

// ErrNoDaemon says that no daemon listens on the socket.
var ErrNoDaemon = errors.New("no warren daemon is running")

// errSocket marks a failure to reach the socket: other files may be missing or forbidden, too.
var errSocket = errors.New("socket of the daemon")

// Dial gives a client for the daemon at path. The error of its calls is explained by Explain.
func Dial(path string) warrenv1connect.LocalServiceClient {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, "unix", path)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errSocket, err)
			}
			return c, nil
		},
	}
	return warrenv1connect.NewLocalServiceClient(&http.Client{Transport: t}, "http://warren.local")
}

// Explain turns a failure to reach the socket into what a person can do about it, and leaves other errors alone.
func Explain(path string, err error) error {
	switch {
	case !errors.Is(err, errSocket):
		return err
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w (socket %s); start it with \"warren up\", or name another with --socket", ErrNoDaemon, path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("socket %s: you may not use it; run with sudo, or let an administrator run \"warren set --operator USER\"", path)
	}
	return err
}
