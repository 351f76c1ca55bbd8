package netstack

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// MaxPending and MaxPendingFrom bound the connections in that are not decided about or not established yet: of all, and from one address.
const (
	MaxPending     = 512
	MaxPendingFrom = 64
)

// Request is a connection that a peer wants.
type Request struct {
	// To is an address of this host's, From the peer's.
	To, From netip.AddrPort
	r        *tcp.ForwarderRequest
	accepted *atomic.Uint64
}

// Accept makes the connection, which takes a round trip. It can be closed for writing only.
func (r *Request) Accept() (*gonet.TCPConn, error) {
	wq := new(waiter.Queue)
	ep, failed := r.r.CreateEndpoint(wq)
	r.r.Complete(failed != nil)
	if failed != nil {
		return nil, fmt.Errorf("connection from %s to port %d: %w", r.From, r.To.Port(), errorOf(failed))
	}
	r.accepted.Add(1)
	return gonet.NewTCPConn(wq, ep), nil
}

// Refuse answers as a port on which nobody listens.
func (r *Request) Refuse() { r.r.Complete(true) }

// pending counts requests by address.
type pending struct {
	mu      sync.Mutex
	from    map[netip.Addr]int
	dropped atomic.Uint64
}

func (p *pending) init() { p.from = map[netip.Addr]int{} }

func (p *pending) enter(a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.from[a] >= MaxPendingFrom {
		p.dropped.Add(1)
		return false
	}
	p.from[a]++
	return true
}

func (p *pending) leave(a netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.from[a]--; p.from[a] <= 0 {
		delete(p.from, a)
	}
}

// onTCP runs in a goroutine of its own.
func (s *Stack) onTCP(r *tcp.ForwarderRequest) {
	q := &Request{To: localOf(r.ID()), From: remoteOf(r.ID()), r: r, accepted: &s.accepted}
	if s.cfg.OnTCP == nil {
		q.Refuse()
		return
	}
	if !s.pending.enter(q.From.Addr()) {
		r.Complete(false) // TCP asks again
		return
	}
	defer s.pending.leave(q.From.Addr())
	s.cfg.OnTCP(q)
}

func (s *Stack) onUDP(r *udp.ForwarderRequest) bool {
	if s.cfg.OnUDP == nil {
		return false
	}
	serve := s.cfg.OnUDP(localOf(r.ID()), remoteOf(r.ID()))
	if serve == nil {
		return false
	}
	wq := new(waiter.Queue)
	ep, failed := r.CreateEndpoint(wq)
	if failed != nil {
		if _, twice := failed.(*tcpip.ErrPortInUse); !twice {
			s.log.Debug("datagram not taken", "from", remoteOf(r.ID()), "err", failed.String())
		}
		return true
	}
	go serve(gonet.NewUDPConn(wq, ep))
	return true
}

func localOf(id stack.TransportEndpointID) netip.AddrPort {
	return netip.AddrPortFrom(addrOf(id.LocalAddress), id.LocalPort)
}

func remoteOf(id stack.TransportEndpointID) netip.AddrPort {
	return netip.AddrPortFrom(addrOf(id.RemoteAddress), id.RemotePort)
}

func addrOf(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr
}
