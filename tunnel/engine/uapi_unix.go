//go:build unix

package engine

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// uapiListener is the socket and the name under which it is found.
type uapiListener struct {
	net.Listener
	path string
	info os.FileInfo
}

// listenUAPI makes the socket of an interface. One that a crash left behind is replaced, one that is answered is not.
func listenUAPI(dir, name string) (*uapiListener, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name+".sock")
	if err := checkStale(path); err != nil {
		return nil, err
	}
	// Made in a directory that nobody else can enter, so that it is never there with more than its final rights.
	private, err := os.MkdirTemp(dir, "."+name+"-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	temporary := filepath.Join(private, "s")
	l, err := net.Listen("unix", temporary)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	u := &uapiListener{Listener: l, path: path}
	if err = os.Chmod(temporary, 0o600); err == nil {
		if err = os.Rename(temporary, path); err == nil {
			u.info, err = os.Lstat(path)
		}
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return u, nil
}

// checkStale fails if something that must not be replaced has the socket's name.
func checkStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s exists and is not a socket; remove it", path)
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
		return fmt.Errorf("%s is answered by another program; stop that or choose another interface name", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return nil
}

// remove takes the socket's name away, unless it is somebody else's by now.
func (u *uapiListener) remove() {
	u.Close()
	if info, err := os.Lstat(u.path); err == nil && os.SameFile(info, u.info) {
		os.Remove(u.path)
	}
}
