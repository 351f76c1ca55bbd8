// Package stunserver answers STUN Binding requests (RFC 8489), so that devices learn their address as seen from outside. Server.Run
// serves one socket; it answers nothing but well-formed requests and keeps no state but a bounded table of how often each source asked.
package stunserver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"warren/nat/stunmsg"
)

const (
	// A device asks for each of its sockets now and then; an office of hundreds may share one address.
	perSecond = 100
	atOnce    = 400
	// maxSources bounds the table.
	maxSources = 8192
	maxRequest = 1500
)

// Server answers on any number of sockets.
type Server struct {
	now     func() time.Time
	answers prometheus.Counter
	ignored *prometheus.CounterVec

	// other is the socket of another port, from which answers go where that is asked.
	other atomic.Pointer[net.UDPConn]

	mu      sync.Mutex
	sources map[netip.Addr]*rate.Limiter
}

// New makes a server. now may be nil.
func New(r prometheus.Registerer, now func() time.Time) *Server {
	if now == nil {
		now = time.Now
	}
	s := &Server{
		now:     now,
		answers: prometheus.NewCounter(prometheus.CounterOpts{Name: "warren_stun_answers_total", Help: "STUN requests that were answered."}),
		ignored: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "warren_stun_ignored_total", Help: "Datagrams that were not answered."}, []string{"reason"}),
		sources: map[netip.Addr]*rate.Limiter{},
	}
	if r != nil {
		r.MustRegister(s.answers, s.ignored)
	}
	return s
}

// Run answers on c until ctx ends, and closes c.
func (s *Server) Run(ctx context.Context, c *net.UDPConn) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	defer c.Close()
	b := make([]byte, maxRequest)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			continue // such as an ICMP error of an earlier answer
		}
		if answer := s.Answer(b[:n], from); answer != nil {
			c.WriteToUDPAddrPort(answer, from) // or the request is repeated
		}
	}
}

// SetOther names the socket, which Run serves too, from which requests to the others have their answers sent if they ask for another port: by
// such an answer a device tells how what is in front of it filters (RFC 5780 section 4.4). Without one such requests are ignored.
func (s *Server) SetOther(c *net.UDPConn) { s.other.Store(c) }

// Answer gives what to send back for a datagram, or nil. It is for whoever shares a socket with others; Run calls it for its own.
func (s *Server) Answer(b []byte, from netip.AddrPort) []byte {
	answer := s.answer(b, from)
	if answer != nil {
		s.answers.Inc()
	}
	return answer
}

func (s *Server) answer(b []byte, from netip.AddrPort) []byte {
	if !stunmsg.Looks(b) {
		s.ignored.WithLabelValues("not STUN").Inc()
		return nil
	}
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	if !s.allow(from.Addr()) {
		s.ignored.WithLabelValues("rate").Inc()
		return nil
	}
	m, err := stunmsg.Parse(b)
	if err != nil || m.Class != stunmsg.Request || m.Username != nil {
		s.ignored.WithLabelValues("malformed").Inc()
		return nil
	}
	answer := stunmsg.NewSuccess(m.Tx, from, nil)
	if !m.OtherPort {
		return answer
	}
	other := s.other.Load()
	if other == nil {
		s.ignored.WithLabelValues("no other port").Inc()
	} else if _, err := other.WriteToUDPAddrPort(answer, from); err == nil {
		s.answers.Inc()
	}
	return nil
}

func (s *Server) allow(a netip.Addr) bool {
	if a.Is6() { // a site has a whole /64
		p, _ := a.Prefix(64)
		a = p.Addr()
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.sources[a]
	if l == nil {
		if len(s.sources) >= maxSources {
			s.forget()
		}
		l = rate.NewLimiter(perSecond, atOnce)
		s.sources[a] = l
	}
	return l.AllowN(now, 1)
}

// forget makes room by dropping any eighth: sources are easily forged, so the work for one must stay small.
func (s *Server) forget() {
	for a := range s.sources {
		if len(s.sources) < maxSources-maxSources/8 {
			return
		}
		delete(s.sources, a)
	}
}
