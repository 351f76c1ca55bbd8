package sdnotify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Keep gives the manager files, such as *os.File, *net.TCPListener or *net.UDPConn, which it holds open while the program is restarted and passes to the
// next one by that name (Inherited). Files of one name may be given one after the other; one that is kept already is not kept twice. They are kept even when they
// are in error, as the TUN device is while it is down.
func (n Notifier) Keep(name string, files ...syscall.Conn) error {
	if err := checkName(name); err != nil {
		return err
	}
	for _, f := range files {
		if err := withFD(f, func(fd int) error { return n.sendFile("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, fd) }); err != nil {
			return fmt.Errorf("file %s to be kept: %w", name, err)
		}
	}
	return nil
}

// Barrier returns once the manager has dealt with all that it was sent before, such as files that it is to keep from a process that is about to end.
func (n Notifier) Barrier(ctx context.Context) error {
	if n.socket == "" {
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("pipe for the service manager: %w", err)
	}
	defer r.Close()
	err = withFD(w, func(fd int) error { return n.sendFile("BARRIER=1", fd) })
	w.Close()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { r.Close() })()
	r.Read(make([]byte, 1)) // ends when the manager closes its copy, the last one
	if ctx.Err() != nil {
		return fmt.Errorf("service manager did not deal with what it was sent: %w", ctx.Err())
	}
	return nil
}

func (n Notifier) sendFile(state string, fd int) error {
	if n.socket == "" {
		return nil
	}
	conn, err := net.Dial("unixgram", n.socket)
	if err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	defer conn.Close()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	var failed error
	if err := raw.Write(func(to uintptr) bool { // net.UnixConn passes files on unconnected sockets only
		failed = syscall.Sendmsg(int(to), []byte(state), syscall.UnixRights(fd), nil, syscall.MSG_NOSIGNAL)
		return failed != syscall.EAGAIN
	}); err != nil || failed != nil {
		return fmt.Errorf("service manager at %s: %w", n.socket, errors.Join(err, os.NewSyscallError("sendmsg", failed)))
	}
	return nil
}

func withFD(f syscall.Conn, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	if err := raw.Control(func(fd uintptr) { done = do(int(fd)) }); err != nil {
		return err
	}
	return done
}

func inherit(fd int, name string) (*os.File, error) {
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_SETFD, syscall.FD_CLOEXEC); errno != 0 {
		return nil, os.NewSyscallError("fcntl", errno)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// monotonic is the time of the clock that systemd compares words by.
func monotonic() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0, os.NewSyscallError("clock_gettime", err)
	}
	return time.Duration(t.Nano()), nil
}
