// Package unixsock serves HTTP on a Unix socket whose callers the kernel vouches for. Listen and Serve are for servers; handlers learn who
// calls by CallerFrom; Explain tells a client's user why nobody answers.
package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// ErrInUse says that another process listens on the socket.
var ErrInUse = errors.New("another process listens on it")

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

// Administrator reports whether c is root or the user that this process runs as.
func (c Caller) Administrator() bool { return c.UID == 0 || int(c.UID) == os.Geteuid() }

// Listen takes the socket, replacing one that a dead daemon left. The file is its owner's alone (0600; on
// Windows, administrators' and the system's too).
func Listen(path string) (*net.UnixListener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("socket %s: its path has %d characters, more than %d", path, len(path), maxPath)
	}
	if err := makeDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("socket %s: %w", path, ErrInUse)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	l, err := listenPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
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
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if s.Shutdown(grace) != nil {
		s.Close()
	}
	return nil
}
