package server

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// Calls that a stranger can make, for each remote address. A whole office behind one NAT, or all devices behind one reverse proxy,
	// must fit in after a restart.
	callsPerSecond = 50
	callsAtOnce    = 500
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
			l.forget(now)
		}
		r = rate.NewLimiter(callsPerSecond, callsAtOnce)
		l.by[remote] = r
	}
	if !r.AllowN(now, 1) {
		return fmt.Errorf("too many calls from %s; try again in a second", remote)
	}
	return nil
}

// forget drops those who have their full allowance again, and if that frees nothing anybody, for the table must not grow.
func (l *limits) forget(now time.Time) {
	for k, r := range l.by {
		if r.TokensAt(now) >= callsAtOnce {
			delete(l.by, k)
		}
	}
	for k := range l.by {
		if len(l.by) < maxRemotes {
			return
		}
		delete(l.by, k)
	}
}
