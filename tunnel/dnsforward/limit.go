package dnsforward

import (
	"net/netip"
	"sync"
)

// limits bound how many questions over UDP and connections over TCP there are at once.
type limits struct{ all, each int }

var defaultLimits = limits{all: 1024, each: 64}

// limiter counts them. It knows only clients who have some.
type limiter struct {
	limits
	mu      sync.Mutex
	total   int
	clients map[netip.Addr]int
}

func newLimiter(l limits) *limiter { return &limiter{limits: l, clients: map[netip.Addr]int{}} }

// take counts one more of a client's, unless that is too many; release must be called then.
func (l *limiter) take(client netip.Addr) (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.all || l.clients[client] >= l.each {
		return nil, false
	}
	l.total++
	l.clients[client]++
	return func() { l.release(client) }, true
}

func (l *limiter) release(client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.clients[client]--; l.clients[client] == 0 {
		delete(l.clients, client)
	}
}
