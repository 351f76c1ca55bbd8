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
