package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"warren/cmd/agent/internal/clients"
	"warren/cmd/agent/internal/splice"
)

// Bounds of what is carried at once, and for how long without a byte.
const (
	maxStreams  = 512 // of each rule, and of each address that uses exposed ports; others wait, or are refused
	maxSessions = 256 // of datagrams, of each rule or address; more are dropped
	idleStream  = 2 * time.Hour
	idleSession = 2 * time.Minute
	dialTimeout = 30 * time.Second
)

// Network is the way to peers.
type Network interface {
	// Dial connects to a port of a host of the network.
	Dial(ctx context.Context, protocol Protocol, host string, port uint16) (net.Conn, error)
}

// Stats counts since the beginning.
type Stats struct {
	// Open are pairs that are joined at present, Opened all, Failed those whose other end could not be reached, and Dropped those for which there was no room.
	Open           int64
	Opened, Failed uint64
	Dropped        uint64
}

type counters struct {
	open                    atomic.Int64
	opened, failed, dropped atomic.Uint64
}

func (c *counters) stats() Stats {
	return Stats{Open: c.open.Load(), Opened: c.opened.Load(), Failed: c.failed.Load(), Dropped: c.dropped.Load()}
}

func (c *counters) begin() (end func()) {
	c.opened.Add(1)
	c.open.Add(1)
	return func() { c.open.Add(-1) }
}

// Forwarder serves Rules.
type Forwarder struct {
	counters
	network   Network
	log       *slog.Logger
	rules     []Rule
	listeners []net.Listener   // of each rule; nil for UDP
	packets   []net.PacketConn // likewise; nil for TCP
}

// Listen opens the ports of all rules, or none.
func Listen(ctx context.Context, rules []Rule, network Network, log *slog.Logger) (*Forwarder, error) {
	f := &Forwarder{network: network, log: log, rules: rules, listeners: make([]net.Listener, len(rules)), packets: make([]net.PacketConn, len(rules))}
	for i, r := range rules {
		var err error
		if r.Protocol == TCP {
			f.listeners[i], err = new(net.ListenConfig).Listen(ctx, "tcp", r.Listen.String())
		} else {
			f.packets[i], err = new(net.ListenConfig).ListenPacket(ctx, "udp", r.Listen.String())
		}
		if err != nil {
			f.close()
			return nil, fmt.Errorf("forward %s: %w", r, err)
		}
	}
	return f, nil
}

func (f *Forwarder) close() {
	for i := range f.rules {
		if l := f.listeners[i]; l != nil {
			l.Close()
		}
		if p := f.packets[i]; p != nil {
			p.Close()
		}
	}
}

// Stats tells what was carried.
func (f *Forwarder) Stats() Stats { return f.stats() }

// Run serves until ctx ends, and closes everything.
func (f *Forwarder) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, f.close)
	defer stop()
	for i, r := range f.rules {
		if r.Protocol == TCP {
			group.Go(func() error { return f.serveTCP(ctx, r, f.listeners[i]) })
		} else {
			group.Go(func() error { return f.serveUDP(ctx, r, f.packets[i]) })
		}
	}
	group.Go(func() error {
		<-ctx.Done()
		return nil
	})
	return group.Wait()
}

func (f *Forwarder) serveTCP(ctx context.Context, r Rule, l net.Listener) error {
	failed := func(err error) { f.log.Warn("forwarded port does not accept", "rule", r.String(), "err", err) }
	clients.Serve(ctx, l, maxStreams, failed, func(c net.Conn) { f.stream(ctx, r, c) })
	return nil
}

func (f *Forwarder) stream(ctx context.Context, r Rule, c net.Conn) {
	defer c.Close()
	dial, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	peer, err := f.network.Dial(dial, TCP, r.Host, r.Port)
	if err != nil {
		f.failed.Add(1)
		f.log.Info("connection not forwarded", "rule", r.String(), "from", c.RemoteAddr(), "err", err)
		reset(c)
		return
	}
	defer f.begin()()
	stop := context.AfterFunc(ctx, func() {
		c.Close()
		peer.Close()
	})
	defer stop()
	res := splice.Streams(c, peer, idleStream)
	f.log.Debug("forwarded connection ended", "rule", r.String(), "from", c.RemoteAddr(), "out", res.Out, "in", res.In, "err", res.Err)
}

// reset has the other side see that nothing was reached, and not an empty answer.
func reset(c net.Conn) {
	if t, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = t.SetLinger(0) // else it is an ordinary end
	}
}

// session is what one program of this host sends to a forwarded port.
type session struct {
	from    netip.AddrPort
	to      net.PacketConn
	packets chan []byte
	closed  chan struct{}
	once    sync.Once
}

// sessionQueue is how many datagrams of a session may wait for its peer to be found.
const sessionQueue = 16

// Read and what follows make a session the near side of splice.Packets.
func (s *session) Read(b []byte) (int, error) {
	select {
	case p := <-s.packets:
		return copy(b, p), nil
	case <-s.closed:
		return 0, net.ErrClosed
	}
}

func (s *session) Write(b []byte) (int, error) {
	return s.to.WriteTo(b, net.UDPAddrFromAddrPort(s.from))
}

func (s *session) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *session) LocalAddr() net.Addr              { return s.to.LocalAddr() }
func (s *session) RemoteAddr() net.Addr             { return net.UDPAddrFromAddrPort(s.from) }
func (s *session) SetDeadline(time.Time) error      { return errors.ErrUnsupported }
func (s *session) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (s *session) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// serveUDP gives each program that sends a session of its own.
func (f *Forwarder) serveUDP(ctx context.Context, r Rule, p net.PacketConn) error {
	var mu sync.Mutex
	sessions := map[netip.AddrPort]*session{}
	var group sync.WaitGroup
	defer group.Wait()
	buf := make([]byte, 1<<16)
	for {
		n, addr, err := p.ReadFrom(buf)
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		from, ok := addr.(*net.UDPAddr)
		if err != nil || !ok {
			continue // of an answer that was not wanted
		}
		key := from.AddrPort()
		mu.Lock()
		s := sessions[key]
		if s == nil && len(sessions) < maxSessions {
			s = &session{from: key, to: p, packets: make(chan []byte, sessionQueue), closed: make(chan struct{})}
			sessions[key] = s
			group.Go(func() {
				f.datagrams(ctx, r, s)
				mu.Lock()
				delete(sessions, key)
				mu.Unlock()
			})
		}
		mu.Unlock()
		if s == nil {
			f.dropped.Add(1)
			continue
		}
		select {
		case s.packets <- append([]byte(nil), buf[:n]...):
		default: // lost, as datagrams may be
		}
	}
}

func (f *Forwarder) datagrams(ctx context.Context, r Rule, s *session) {
	defer s.Close()
	dial, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	peer, err := f.network.Dial(dial, UDP, r.Host, r.Port)
	if err != nil {
		f.failed.Add(1)
		f.log.Info("datagrams not forwarded", "rule", r.String(), "from", s.from, "err", err)
		return
	}
	defer f.begin()()
	stop := context.AfterFunc(ctx, func() {
		s.Close()
		peer.Close()
	})
	defer stop()
	splice.Packets(s, peer, idleSession)
}
