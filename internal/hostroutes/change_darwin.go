package hostroutes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/net/route"
	"golang.org/x/sys/unix"
)

// Errors of Add and Remove that callers tell apart.
var (
	ErrExists  error = unix.EEXIST
	ErrMissing error = unix.ESRCH
)

// Add adds a route; the error wraps ErrExists if there is one of that prefix.
func Add(r Route) error { return change(unix.RTM_ADD, r) }

// Remove removes a route; the error wraps ErrMissing if it is not there.
func Remove(r Route) error { return change(unix.RTM_DELETE, r) }

func change(kind int, r Route) error {
	m := &route.RouteMessage{
		Version: unix.RTM_VERSION, Type: kind, Flags: unix.RTF_UP | unix.RTF_STATIC, Index: r.Interface, ID: uintptr(os.Getpid()), Seq: 1,
		Addrs: []route.Addr{unix.RTAX_DST: addrFor(r.Prefix.Addr().AsSlice()), unix.RTAX_GATEWAY: &route.LinkAddr{Index: r.Interface}},
	}
	if r.Gateway.IsValid() {
		m.Flags |= unix.RTF_GATEWAY
		m.Addrs[unix.RTAX_GATEWAY] = addrFor(withZone(r.Gateway, r.Interface))
	}
	if r.Prefix.IsSingleIP() {
		m.Flags |= unix.RTF_HOST
	} else {
		m.Addrs = append(m.Addrs, addrFor(mask(r.Prefix)))
	}
	b, err := m.Marshal()
	if err != nil {
		return fmt.Errorf("route %s: %w", r.Prefix, err)
	}
	s, err := routeSocket()
	if err != nil {
		return fmt.Errorf("route %s: %w", r.Prefix, err)
	}
	defer unix.Close(s)
	// Nobody reads the answers; the errno of the write says all.
	if err := unix.Shutdown(s, unix.SHUT_RD); err != nil {
		return fmt.Errorf("route %s: %w", r.Prefix, err)
	}
	if _, err := unix.Write(s, b); err != nil {
		return fmt.Errorf("route %s: %w", r.Prefix, err)
	}
	return nil
}

func addrFor(b []byte) route.Addr {
	if len(b) == 4 {
		return &route.Inet4Addr{IP: [4]byte(b)}
	}
	return &route.Inet6Addr{IP: [16]byte(b)}
}

func routeSocket() (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	s, err := unix.Socket(unix.AF_ROUTE, unix.SOCK_RAW, unix.AF_UNSPEC)
	if err == nil {
		unix.CloseOnExec(s)
	}
	return s, err
}

// Watch calls changed for each change of routes, addresses and interfaces, and for what looks like one, until ctx ends.
func Watch(ctx context.Context, changed func()) error {
	s, err := routeSocket()
	if err == nil {
		err = unix.SetNonblock(s, true)
	}
	if err != nil {
		return fmt.Errorf("changes of routes: %w", err)
	}
	f := os.NewFile(uintptr(s), "route")
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })()
	for b := make([]byte, 64<<10); ; {
		n, err := f.Read(b)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // so much happened that some of it is not told
		case err != nil:
			return fmt.Errorf("changes of routes: %w", err)
		case n < 4 || !counts(b[3]):
			continue
		}
		changed()
	}
}

// counts leaves out what is no change: answers to questions, and routes that packets had no use of.
func counts(kind byte) bool {
	switch kind {
	case unix.RTM_ADD, unix.RTM_DELETE, unix.RTM_CHANGE, unix.RTM_NEWADDR, unix.RTM_DELADDR, unix.RTM_IFINFO:
		return true
	}
	return false
}
