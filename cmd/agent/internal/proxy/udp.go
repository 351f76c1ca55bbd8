package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of one association.
const (
	maxTargets      = 256             // hosts that were named, and addresses that may answer
	idleAssociation = 2 * time.Minute // without a datagram
	maxDatagram     = 65507
	resolveAgain    = time.Minute // how long what was resolved, or not, counts
	sendWithin      = 5 * time.Second
)

// association carries the datagrams of one client (RFC 1928, section 7).
type association struct {
	s      *Server
	ctx    context.Context
	local  *net.UDPConn
	client netip.Addr
	last   atomic.Int64 // Unix nanoseconds: when a datagram passed
	end    func()

	mu      sync.Mutex
	from    netip.AddrPort            // the client's socket, once it is known
	sockets [2]net.PacketConn         // in the network, of IPv4 and IPv6
	targets map[target]resolved       // what the client has sent to
	answers map[netip.AddrPort]target // who may answer
}

type resolved struct {
	at    netip.AddrPort // not valid: refused
	until time.Time
}

// associate serves UDP ASSOCIATE until the client closes its connection, or sends nothing for long.
func (s *Server) associate(ctx context.Context, c *peeked, hint target) {
	own, peer := addrPortOf(c.LocalAddr()), addrPortOf(c.RemoteAddr())
	local, err := net.ListenUDP("udp", &net.UDPAddr{IP: own.Addr().AsSlice()})
	if err != nil {
		s.failed.Add(1)
		s.log.Warn("no socket for a client's datagrams", "err", err)
		s.answer(c, replyFailed, netip.AddrPort{})
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &association{
		s: s, ctx: ctx, local: local, client: peer.Addr(), targets: map[target]resolved{}, answers: map[netip.AddrPort]target{},
		end: func() { c.Close() },
	}
	if at, err := netip.ParseAddr(hint.host); err == nil && at == peer.Addr() && hint.port != 0 {
		a.from = netip.AddrPortFrom(at, hint.port)
	}
	s.opened.Add(1)
	s.open.Add(1)
	defer s.open.Add(-1)
	if !s.answer(c, replyDone, addrPortOf(local.LocalAddr())) {
		local.Close()
		return
	}
	_ = c.SetDeadline(time.Time{})
	a.last.Store(time.Now().UnixNano())
	var group sync.WaitGroup
	group.Go(a.outgoing)
	group.Go(a.watch)
	_, _ = io.Copy(io.Discard, c) // its end is the association's
	cancel()
	a.close()
	group.Wait()
}

// watch ends the association when it is idle.
func (a *association) watch() {
	tick := time.NewTicker(idleAssociation / 4)
	defer tick.Stop()
	for {
		select {
		case <-a.ctx.Done():
			return
		case now := <-tick.C:
			if now.UnixNano()-a.last.Load() >= int64(idleAssociation) {
				a.end()
			}
		}
	}
}

func (a *association) close() {
	a.local.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.sockets {
		if p != nil {
			p.Close()
		}
	}
}

// outgoing passes on what the client sends.
func (a *association) outgoing() {
	buf := make([]byte, maxDatagram)
	var answers sync.WaitGroup
	defer answers.Wait()
	for {
		n, from, err := a.local.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) || a.ctx.Err() != nil {
			return
		}
		if err != nil || !a.isClient(netip.AddrPortFrom(from.Addr().Unmap(), from.Port())) {
			continue
		}
		to, payload, err := parseDatagram(buf[:n])
		if err != nil {
			a.s.malformed.Add(1)
			continue
		}
		a.last.Store(time.Now().UnixNano())
		at, ok := a.resolve(to)
		if !ok {
			continue
		}
		p, made, err := a.socket(at.Addr().Is6())
		if err != nil {
			a.s.log.Debug("datagram not proxied", "to", at, "err", err)
			continue
		}
		if made {
			answers.Go(func() { a.incoming(p) })
		}
		_, _ = p.WriteTo(payload, net.UDPAddrFromAddrPort(at)) // lost, as datagrams may be
	}
}

// isClient takes datagrams from the host of the connection only, and from one of its sockets.
func (a *association) isClient(from netip.AddrPort) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.from.IsValid() && from.Addr() == a.client {
		a.from = from
	}
	return a.from == from
}

// resolve finds where a datagram goes, and remembers it.
func (a *association) resolve(t target) (netip.AddrPort, bool) {
	now := time.Now()
	a.mu.Lock()
	r, known := a.targets[t]
	a.mu.Unlock()
	if known && now.Before(r.until) {
		return r.at, r.at.IsValid()
	}
	ctx, cancel := context.WithTimeout(a.ctx, sendWithin)
	defer cancel()
	list, err := a.s.network.Resolve(ctx, "udp", t.host, t.port)
	if r = (resolved{until: now.Add(resolveAgain)}); err == nil && len(list) > 0 {
		r.at = list[0]
	} else {
		a.s.refused.Add(1)
		a.s.log.Info("datagrams not proxied", "to", t.host, "port", t.port, "err", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.targets) >= maxTargets { // whoever it is, it does not mean to get answers from all of them
		clear(a.targets)
		clear(a.answers)
	}
	a.targets[t] = r
	if r.at.IsValid() {
		a.answers[r.at] = t
	}
	return r.at, r.at.IsValid()
}

// socket gives the one in the network for a family; made says that it is new.
func (a *association) socket(v6 bool) (p net.PacketConn, made bool, err error) {
	i := 0
	if v6 {
		i = 1
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sockets[i] == nil && a.ctx.Err() == nil {
		if a.sockets[i], err = a.s.network.ListenUDP(v6); err != nil {
			a.sockets[i] = nil
			return nil, false, err
		}
		return a.sockets[i], true, nil
	}
	return a.sockets[i], false, a.ctx.Err()
}

// incoming passes on answers to the client.
func (a *association) incoming(p net.PacketConn) {
	defer a.end() // where the tunnel went down, the client has to begin anew
	buf := make([]byte, maxDatagram)
	for {
		n, addr, err := p.ReadFrom(buf)
		if err != nil {
			return
		}
		from := addrPortOf(addr)
		a.mu.Lock()
		_, asked := a.answers[from]
		client := a.from
		a.mu.Unlock()
		if !asked {
			continue
		}
		a.last.Store(time.Now().UnixNano())
		out := append(appendAddress([]byte{0, 0, 0}, from), buf[:n]...)
		_, _ = a.local.WriteToUDPAddrPort(out, client)
	}
}

var errFragment = errors.New("fragments are not put together")

// parseDatagram reads the header before a client's datagram.
func parseDatagram(b []byte) (t target, payload []byte, err error) {
	if len(b) < 4 {
		return t, nil, io.ErrUnexpectedEOF
	}
	if b[2] != 0 {
		return t, nil, errFragment
	}
	r := bytes.NewReader(b[3:])
	if t, err = readTarget(r); err != nil {
		return t, nil, err
	}
	return t, b[len(b)-r.Len():], nil
}
