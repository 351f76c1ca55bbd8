// Package bind is the UDP side of the tunnel: a conn.Bind for WireGuard that alone decides by which path a peer's packets travel.
//
// Make one with New, give it to the WireGuard device, run Run, and publish paths with SetPath. WireGuard knows peers by virtual
// endpoints (ParseEndpoint takes a peer's public key), one stable object per peer, so a packet that comes from a new address never
// changes where answers go. A peer without a path, or with a relayed one, is reached through Config.SendRelay; packets that a relay
// brought go in with InjectRelay.
//
// What the sockets receive is told apart by WireGuard's message shape first, since a WireGuard index can look like STUN's magic
// cookie; the rest goes to Config.OnPacket. Messages are attributed to peers by the receiver index, which Send has learnt from
// handshake messages on their way out. An initiation carries no such index: it is opened (see initiation.go), and one of an allowed peer
// that the device does not know yet is held until that peer is configured and Release is called.
//
//	bind.go        the conn.Bind: opening, closing, sockets
//	endpoint.go    virtual endpoints and their paths
//	shape.go       telling WireGuard messages from others
//	index.go       receiver index -> endpoint
//	initiation.go  admission of handshake initiations; noise.go opens them, limit.go limits their rate
//	glare.go       two peers that call each other at once
//	extra.go       sockets beside the tunnel's own
//	succeed.go     what a process takes over from the one before it
//	inject.go      packets that come not from a socket
//	receive.go     from sockets to WireGuard; send.go the other way
package bind

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"warren/internal/udpbatch"
	"warren/proto/key"
)

// Config is what a Bind is made of.
type Config struct {
	// Port is the UDP port of both address families; 0 lets the kernel choose at the first Open.
	Port uint16
	// Mark is the firewall mark of the sockets (SO_MARK); 0 sets none. Where the kernel refuses it, there is a warning.
	Mark uint32
	Log  *slog.Logger
	// DisableGSO and DisableGRO turn off the UDP offloads where a kernel gets them wrong.
	DisableGSO, DisableGRO bool
	// Private is our node key: it opens handshake initiations.
	Private key.NodePrivate

	// Inherited are sockets of a process before this one, by udp4 and udp6. The first Open takes over those that are what they should be and have the
	// right port, and opens others in place of the rest. The Bind closes the files.
	Inherited map[string]*os.File
	// OnSocket, if set, is told of the socket of udp4 or udp6 that is open from now on, and by nil that one was closed in whose place another will be
	// opened on the same port. It must not call the Bind.
	OnSocket func(network string, c syscall.Conn)

	// OnPacket takes every datagram that is not WireGuard by its shape. It is called from the receiving goroutines, one per address
	// family; b is valid during the call only. local is the zero Addr where the system does not tell it.
	OnPacket func(local netip.Addr, remote netip.AddrPort, b []byte)
	// OnExtra is OnPacket for what comes to an extra socket; it is called from a goroutine of that socket.
	OnExtra func(id uint16, local netip.Addr, remote netip.AddrPort, b []byte)
	// SendRelay carries packets of one peer through a relay. It must not keep bufs.
	SendRelay func(peer key.NodePublic, bufs [][]byte) error
	// OnInitiation tells that an allowed peer calls which is not configured: configure it, then call Release. So does a peer that goes on
	// sending, through a relay, in a session which we have forgotten. It is called from Run, never from inside a receive function.
	OnInitiation func(peer key.NodePublic)
	// OnCrossed tells that a peer and we called each other some seconds ago, so that both calls may be lost: if packets for it still wait for a session, have
	// the device make another call. It is called from a goroutine of its own.
	OnCrossed func(peer key.NodePublic)
	// Allowed reports whether a key is of a peer in the map. It is called on the packet path and must not block.
	Allowed func(peer key.NodePublic) bool
}

// Bind implements conn.Bind.
type Bind struct {
	cfg   Config
	log   *slog.Logger
	start time.Time // what monotonic times count from

	v4, v6 atomic.Pointer[udpbatch.Conn]
	port   atomic.Uint32
	mark   atomic.Uint32
	// uplinks is an immutable snapshot: interfaces by their addresses.
	uplinks atomic.Pointer[map[netip.Addr]int]

	endpoints endpoints
	index     indexTable
	admission admission
	inject    injectQueue
	extras    extras
	counters  counters

	mu     sync.Mutex    // guards what follows, and opening and closing
	closed chan struct{} // closed by Close; nil while not open

	warnMark sync.Once
	tune     func(*udpbatch.Conn) // for tests: changes a socket before it is used
}

var _ conn.Bind = (*Bind)(nil)

// New makes a Bind that is not open yet: the WireGuard device opens it.
func New(cfg Config) *Bind {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	b := &Bind{cfg: cfg, log: cfg.Log, start: time.Now()}
	b.mark.Store(cfg.Mark)
	b.endpoints.init()
	b.index.init()
	b.admission.init(cfg.Private)
	b.inject.init()
	return b
}

// Run opens handshake initiations until ctx ends.
func (b *Bind) Run(ctx context.Context) error { return b.runAdmission(ctx) }

// now is the monotonic time since New, in nanoseconds; never 0.
func (b *Bind) now() int64 { return int64(time.Since(b.start)) + 1 }

// portTries is how often Open looks for a port that is free in both address families.
const portTries = 100

// Open opens both sockets on one port. WireGuard calls it; port 0 means Config.Port, or the port of the last time.
func (b *Bind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	if port == 0 {
		port = b.cfg.Port
	}
	if port == 0 {
		port = b.LocalPort()
	}
	v4, v6, err := b.listenBoth(port)
	b.dropInherited()
	if err != nil {
		return nil, 0, err
	}
	b.closed = make(chan struct{})
	fns := []conn.ReceiveFunc{b.receiveInjected(b.closed)}
	for _, f := range []struct {
		slot *atomic.Pointer[udpbatch.Conn]
		s    *udpbatch.Conn
	}{{&b.v4, v4}, {&b.v6, v6}} {
		if f.s != nil {
			f.slot.Store(f.s)
			b.port.Store(uint32(f.s.Port()))
			b.tellSocket(f.s.Network(), f.s.UDPConn())
			fns = append(fns, newReceiver(b, f.slot, f.s, b.closed).receive)
		}
	}
	return fns, b.LocalPort(), nil
}

// listenBoth opens a socket of each family on one port. A host without one of the families is served by the other.
func (b *Bind) listenBoth(port uint16) (v4, v6 *udpbatch.Conn, err error) {
	for try := 0; ; try++ {
		var err4, err6 error
		both := port
		if v4, err4 = b.listen("udp4", both); err4 == nil {
			both = v4.Port()
		} else if !errors.Is(err4, syscall.EAFNOSUPPORT) {
			return nil, nil, portError(both, err4)
		}
		if v6, err6 = b.listen("udp6", both); err6 == nil {
			return v4, v6, nil
		}
		inUse := errors.Is(err6, syscall.EADDRINUSE)
		if v4 != nil && !inUse {
			b.log.Info("no IPv6 socket; going on with IPv4", "err", err6)
			return v4, nil, nil
		}
		if v4 != nil {
			v4.Close()
		}
		if port != 0 || v4 == nil || try == portTries {
			return nil, nil, portError(both, errors.Join(err4, err6))
		}
	}
}

func portError(port uint16, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("UDP port %d is used by another program: %w; choose another, or 0 for any", port, err)
	}
	return fmt.Errorf("UDP sockets on port %d: %w", port, err)
}

func (b *Bind) listen(network string, port uint16) (s *udpbatch.Conn, err error) {
	o := udpbatch.Options{Mark: b.mark.Load(), GSO: !b.cfg.DisableGSO, GRO: !b.cfg.DisableGRO, Whole: true, Log: b.log}
	if s = b.inherit(network, port, o); s == nil {
		if s, err = udpbatch.Listen(network, ":"+strconv.Itoa(int(port)), o); err != nil {
			return nil, err
		}
	}
	b.warnAboutMark(s.MarkErr())
	if b.tune != nil {
		b.tune(s)
	}
	return s, nil
}

func (b *Bind) warnAboutMark(err error) {
	if err != nil {
		b.warnMark.Do(func() {
			b.log.Warn("no firewall mark on the tunnel's sockets, so no exit node can be used", "err", err)
		})
	}
}

// reopen replaces a socket that no longer works by a new one on the same port. It reports whether slot holds a new socket.
func (b *Bind) reopen(slot *atomic.Pointer[udpbatch.Conn], old *udpbatch.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed == nil {
		return false
	}
	old.Close()
	b.tellSocket(old.Network(), nil) // somebody may hold a copy of it, which has the port
	s, err := b.listen(old.Network(), old.Port())
	if err != nil {
		b.log.Warn("socket not reopened", "network", old.Network(), "port", old.Port(), "err", err)
		return false
	}
	b.log.Warn("socket reopened after errors", "network", old.Network(), "port", old.Port())
	slot.Store(s)
	b.tellSocket(s.Network(), s.UDPConn())
	return true
}

// Close closes the sockets; every receive function then returns net.ErrClosed. Open may follow.
func (b *Bind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed == nil {
		return nil
	}
	close(b.closed)
	b.closed = nil
	b.closeExtras()
	var errs []error
	for _, slot := range []*atomic.Pointer[udpbatch.Conn]{&b.v4, &b.v6} {
		if s := slot.Swap(nil); s != nil {
			if err := s.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// SetMark changes the firewall mark of the sockets. WireGuard calls it; where the kernel refuses, there is only a warning.
func (b *Bind) SetMark(mark uint32) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mark.Store(mark)
	for _, s := range []*udpbatch.Conn{b.v4.Load(), b.v6.Load()} {
		if s != nil {
			b.warnAboutMark(s.SetMark(mark))
		}
	}
	return nil
}

// BatchSize is how many packets one send or receive may carry.
func (b *Bind) BatchSize() int { return udpbatch.BatchSize }

// LocalPort is the port of the sockets, also of the last time that they were open; 0 before the first.
func (b *Bind) LocalPort() uint16 { return uint16(b.port.Load()) }

// socketFor gives the socket of an address family; nil if there is none now.
func (b *Bind) socketFor(is6 bool) *udpbatch.Conn {
	if is6 {
		return b.v6.Load()
	}
	return b.v4.Load()
}
