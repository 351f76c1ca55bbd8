package forward

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"warren/cmd/agent/internal/splice"
)

// serviceTimeout is how long a service of this host may take to answer a connection.
const serviceTimeout = 10 * time.Second

// Incoming is a connection that a peer wants; one of its methods has to be called.
type Incoming struct {
	From   netip.AddrPort
	Port   uint16
	Accept func() (net.Conn, error)
	Refuse func()
}

// Exposer carries what peers send to exposed ports. What it is asked about has passed the packet filter, so that the policy allows it.
type Exposer struct {
	counters
	log  *slog.Logger
	ctx  context.Context
	list []Exposed
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu   sync.Mutex
	from map[netip.Addr]int // streams and sessions of each peer
	done sync.WaitGroup
}

// NewExposer serves until ctx ends. It is not for longer than that: Wait returns when everything is closed.
func NewExposer(ctx context.Context, list []Exposed, log *slog.Logger) *Exposer {
	return &Exposer{log: log, ctx: ctx, list: list, dial: new(net.Dialer).DialContext, from: map[netip.Addr]int{}}
}

// Stats tells what was carried.
func (x *Exposer) Stats() Stats { return x.stats() }

// Wait returns when nothing is carried any more, which is after the context has ended.
func (x *Exposer) Wait() { x.done.Wait() }

func (x *Exposer) find(p Protocol, port uint16) (Exposed, bool) {
	for _, e := range x.list {
		if e.Protocol == p && e.Port == port {
			return e, true
		}
	}
	return Exposed{}, false
}

// enter makes room for one more of a peer's, which leave gives back.
func (x *Exposer) enter(a netip.Addr, most int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.from[a] >= most || x.ctx.Err() != nil {
		x.dropped.Add(1)
		return false
	}
	x.from[a]++
	x.done.Add(1)
	return true
}

func (x *Exposer) leave(a netip.Addr) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.from[a]--; x.from[a] == 0 {
		delete(x.from, a)
	}
	x.done.Done()
}

// Stream carries a TCP connection. The peer sees it established only when the service has answered, and refused if that refuses. It returns when the
// connection has ended.
func (x *Exposer) Stream(in Incoming) {
	e, ok := x.find(TCP, in.Port)
	if !ok || !x.enter(in.From.Addr(), maxStreams) {
		in.Refuse()
		return
	}
	defer x.leave(in.From.Addr())
	ctx, cancel := context.WithTimeout(x.ctx, serviceTimeout)
	defer cancel()
	service, err := x.dial(ctx, string(TCP), e.To.String())
	if err != nil {
		x.failed.Add(1)
		x.log.Warn("exposed service does not answer", "port", e.String(), "from", in.From, "err", err)
		in.Refuse()
		return
	}
	defer service.Close()
	peer, err := in.Accept()
	if err != nil {
		x.failed.Add(1)
		return
	}
	defer x.begin()()
	stop := context.AfterFunc(x.ctx, func() {
		peer.Close()
		service.Close()
	})
	defer stop()
	res := splice.Streams(service, peer, idleStream)
	x.log.Debug("connection to an exposed port ended", "port", e.String(), "from", in.From, "out", res.Out, "in", res.In, "err", res.Err)
}

// Datagrams gives what carries the datagrams of a peer's port to an exposed one; nil if it is not exposed or there is no room. What it gives returns when
// nothing has come for a while.
func (x *Exposer) Datagrams(from netip.AddrPort, port uint16) func(net.Conn) {
	e, ok := x.find(UDP, port)
	if !ok || !x.enter(from.Addr(), maxSessions) {
		return nil
	}
	return func(peer net.Conn) {
		defer x.leave(from.Addr())
		defer peer.Close()
		service, err := x.dial(x.ctx, string(UDP), e.To.String())
		if err != nil {
			x.failed.Add(1)
			x.log.Warn("exposed service cannot be sent to", "port", e.String(), "from", from, "err", err)
			return
		}
		defer x.begin()()
		stop := context.AfterFunc(x.ctx, func() {
			peer.Close()
			service.Close()
		})
		defer stop()
		splice.Packets(service, peer, idleSession)
	}
}
