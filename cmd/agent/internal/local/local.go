// Package local carries the agent's local API over a Unix socket whose callers the kernel vouches for. The daemon calls Listen and
// Serve, the command line Dial.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"warren/proto/warrenv1/warrenv1connect"
)

// ErrNoDaemon says that no daemon listens on the socket.
var ErrNoDaemon = errors.New("no warren daemon is running")

// ErrInUse says that another daemon listens on the socket.
var ErrInUse = errors.New("another warren daemon listens on it")

// maxPath is the longest path that fits in a sockaddr_un on every system we build for.
const maxPath = 103

// Caller is the process on the other side of a connection.
type Caller struct {
	UID, GID uint32
	PID      int32
}

type callerKey struct{}

// CallerFrom gives the caller of a request that Serve delivers.
func CallerFrom(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}

// Listen takes the socket, replacing one that a dead daemon left. The file is root's alone until Grant opens it to an operator.
func Listen(path string) (*net.UnixListener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("socket %s: its path has %d characters, more than %d; choose a shorter one with --socket", path, len(path), maxPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("socket %s: %w; choose another with --socket or run as root", path, err)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("socket %s: %w; stop it or choose another with --socket", path, ErrInUse)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	l, err := listenPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w; choose another with --socket or run as root", path, err)
	}
	return l, nil
}

// Serve answers requests on l until ctx ends; calls in progress get a second to finish.
func Serve(ctx context.Context, l *net.UnixListener, h http.Handler) error {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if caller, err := callerOf(c); err == nil {
				return context.WithValue(ctx, callerKey{}, caller)
			}
			return ctx
		},
	}
	// Shutdown closes only listeners that Serve has seen already.
	defer l.Close()
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("local API: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if s.Shutdown(grace) != nil {
		s.Close()
	}
	return nil
}

// Dial gives a client for the daemon at path. The error of its calls is explained by Explain.
func Dial(path string) warrenv1connect.LocalServiceClient {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}
	return warrenv1connect.NewLocalServiceClient(&http.Client{Transport: t}, "http://warren.local")
}

// Explain turns a failure to reach the socket into what a person can do about it, and leaves other errors alone.
func Explain(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w (socket %s); start it with \"warren up\", or name another with --socket", ErrNoDaemon, path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("socket %s: you may not use it; run with sudo, or let an administrator run \"warren set --operator USER\"", path)
	}
	return err
}
