// Package handover lets a coordinator go on with the sockets of the process that it replaces, so that a restart refuses no connection: the service
// manager holds them in between, and what comes then waits in them. Service.Begin takes what was passed on and fits, Sockets.Listen and ListenUDP use
// it or open anew, and Keep gives the manager all of it for the next process.
package handover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"warren/internal/freebind"
	"warren/internal/sdnotify"
	"warren/internal/udpbatch"
)

// Manager is who holds the sockets; sdnotify.Notifier is one.
type Manager interface {
	Keep(name string, files ...syscall.Conn) error
	Forget(name string) error
	Barrier(context.Context) error
}

// Service is what a process has of its manager. The zero Service has none: everything is opened anew, and nothing kept.
type Service struct {
	Manager Manager
	// Kept is what was passed on. Begin takes it.
	Kept []sdnotify.Kept
}

// barrierTimeout bounds how long the manager may take to close what is of no more use.
const barrierTimeout = 5 * time.Second

// Place is where a socket is wanted.
type Place struct {
	// Name is what the socket is for. No two places have the same.
	Name string
	// Network is tcp or udp.
	Network string
	// Address is [HOST]:PORT. What has port 0 is opened anew each time.
	Address string
}

// Sockets are those of one process.
type Sockets struct {
	manager Manager
	log     *slog.Logger
	taken   map[string]*os.File
	opened  []opened
}

type opened struct {
	name   string
	socket syscall.Conn
}

// Begin sorts what was passed on: what fits none of the places is closed, here and with the manager, before a place is asked for. So a changed
// setting is free to take an address that an old socket had.
func (v Service) Begin(ctx context.Context, places []Place, log *slog.Logger) (*Sockets, error) {
	s := &Sockets{manager: v.Manager, log: log, taken: map[string]*os.File{}}
	var stale []string
	for _, k := range v.Kept {
		i := slices.IndexFunc(places, func(p Place) bool { return p.Name == k.Name && p.fits(ctx, k.File) })
		if i >= 0 && s.taken[k.Name] == nil {
			s.taken[k.Name] = k.File
			continue
		}
		log.Info("a socket of the process before is not used any more", "name", k.Name, "address", address(k.File))
		stale = append(stale, k.Name)
		k.File.Close()
	}
	return s, s.forget(ctx, stale)
}

// forget has the manager close what it keeps by these names, and returns when it has.
func (s *Sockets) forget(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	var failed error
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		failed = errors.Join(failed, s.manager.Forget(name))
	}
	ctx, cancel := context.WithTimeout(ctx, barrierTimeout)
	defer cancel()
	return errors.Join(failed, s.manager.Barrier(ctx))
}

// fits tells whether a socket is what would be opened at a place.
func (p Place) fits(ctx context.Context, f *os.File) bool {
	have := address(f)
	if have == nil || have.Network() != p.Network {
		return false
	}
	at, err := netip.ParseAddrPort(have.String())
	if err != nil {
		return false
	}
	host, service, err := net.SplitHostPort(p.Address)
	if err != nil {
		return false
	}
	port, err := net.DefaultResolver.LookupPort(ctx, p.Network, service)
	if err != nil || port == 0 || port != int(at.Port()) {
		return false
	}
	want, err := netip.ParseAddr(host)
	switch {
	case host == "" || err == nil && want.IsUnspecified():
		return at.Addr().IsUnspecified() // net.Listen takes both families for either, where there are both
	case err == nil:
		return want.Unmap() == at.Addr().Unmap()
	}
	return false // a name may have another address now
}

// address tells where a socket listens; nil for what is none.
func address(f *os.File) net.Addr {
	if l, err := net.FileListener(f); err == nil {
		defer l.Close()
		return l.Addr()
	}
	if c, err := net.FilePacketConn(f); err == nil {
		defer c.Close()
		return c.LocalAddr()
	}
	return nil
}

// Listen gives the TCP socket for a place.
func (s *Sockets) Listen(ctx context.Context, name, at string) (net.Listener, error) {
	return s.listen(name, func() (net.Listener, error) { return new(net.ListenConfig).Listen(ctx, "tcp", at) })
}

// ListenEarly is Listen for an address that this host may not have yet.
func (s *Sockets) ListenEarly(ctx context.Context, name, at string) (net.Listener, error) {
	return s.listen(name, func() (net.Listener, error) { return freebind.Listen(ctx, at) })
}

func (s *Sockets) listen(name string, anew func() (net.Listener, error)) (net.Listener, error) {
	if f := s.take(name); f != nil {
		defer f.Close()
		l, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("socket %s of the process before: %w", name, err)
		}
		s.note(name, l)
		return l, nil
	}
	l, err := anew()
	if err == nil {
		s.note(name, l)
	}
	return l, err
}

// ListenUDP gives the UDP socket for a place.
func (s *Sockets) ListenUDP(name, at string, o udpbatch.Options) (*udpbatch.Conn, error) {
	listen := func() (*udpbatch.Conn, error) { return udpbatch.Listen("udp", at, o) }
	if f := s.take(name); f != nil {
		defer f.Close()
		listen = func() (*udpbatch.Conn, error) { return udpbatch.Adopt("udp", f, o) }
	}
	c, err := listen()
	if err == nil {
		s.note(name, c.UDPConn())
	}
	return c, err
}

func (s *Sockets) take(name string) *os.File {
	f := s.taken[name]
	delete(s.taken, name)
	return f
}

func (s *Sockets) note(name string, socket any) {
	if c, ok := socket.(syscall.Conn); ok {
		s.opened = append(s.opened, opened{name, c})
	}
}

// Keep has the manager hold the sockets from now on.
func (s *Sockets) Keep() (failed error) {
	if s.manager == nil {
		return nil
	}
	for _, o := range s.opened {
		failed = errors.Join(failed, s.manager.Keep(o.name, o.socket))
	}
	return failed
}

// Close closes what was passed on and asked for by nobody. Those that were asked for are whose they are.
func (s *Sockets) Close() {
	for _, f := range s.taken {
		f.Close()
	}
	clear(s.taken)
}
