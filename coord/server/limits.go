package server

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/time/rate"
)

const (
	// Calls that a stranger can make, for each remote address. A whole office behind one NAT must fit in after a restart, at two calls
	// a device; one call costs some 0.1 ms.
	callsPerSecond = 200
	callsAtOnce    = 2000
	// maxRemotes bounds the table.
	maxRemotes = 4096
)

// limits slows strangers down, by their address.
type limits struct {
	now func() time.Time
	mu  sync.Mutex
	by  map[string]*rate.Limiter
}

func newLimits(now func() time.Time) *limits {
	return &limits{now: now, by: map[string]*rate.Limiter{}}
}

func (l *limits) allow(remote string) error {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.by[remote]
	if r == nil {
		if len(l.by) >= maxRemotes {
			l.forget()
		}
		r = rate.NewLimiter(callsPerSecond, callsAtOnce)
		l.by[remote] = r
	}
	if !r.AllowN(now, 1) {
		return fmt.Errorf("too many calls from %s; try again in a second", remote)
	}
	return nil
}

// forget makes room by dropping any eighth: the work for one stranger must stay small.
func (l *limits) forget() {
	for k := range l.by {
		if len(l.by) < maxRemotes-maxRemotes/8 {
			return
		}
		delete(l.by, k)
	}
}

// slow refuses a call that comes too soon after others from the same place.
func (s *Server) slow(req connect.AnyRequest) error {
	if err := s.limits.allow(site(remoteOf(req))); err != nil {
		return s.refuse(connect.CodeResourceExhausted, whyRate, err)
	}
	return nil
}

// site is what one subscriber has: an IPv4 address or an IPv6 /64.
func site(remote string) string {
	a, err := netip.ParseAddr(remote)
	if err != nil || a.Unmap().Is4() {
		return remote
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return remote
	}
	return p.String()
}

// remoteOf is the address that a request came from, without its port. A reverse proxy on the same host is believed about whom it speaks
// for: the last address that it appended.
func remoteOf(req connect.AnyRequest) string {
	host, _, err := net.SplitHostPort(req.Peer().Addr)
	if err != nil {
		return req.Peer().Addr
	}
	if a, err := netip.ParseAddr(host); err != nil || !a.IsLoopback() {
		return host
	}
	chain := strings.Split(strings.Join(req.Header().Values("X-Forwarded-For"), ","), ",")
	if a, err := netip.ParseAddr(strings.TrimSpace(chain[len(chain)-1])); err == nil {
		return a.String()
	}
	return host
}
