package bind

import (
	"net/netip"
	"sync"

	"warren/proto/key"
)

// Opening an initiation costs two X25519 operations, some 0.15 ms, so a flood is cut before that. The figures let a gateway's thousands
// of peers, or an office behind one address, come back within one of WireGuard's retries (5 s).
const (
	globalRate, globalBurst = 1000, 1000 // initiations per second, counted apart for sockets and for relays
	sourceRate, sourceBurst = 50, 100
	sourcesMax              = 4096
	sourcesSweep            = int64(1e9) // a full table is looked through at most once a second
)

// source is who is counted: an IPv4 address, an IPv6 /64, or the peer that a relay vouches for.
type source struct {
	relayed bool
	id      [key.Size]byte
}

func addrSource(a netip.Addr) source {
	var s source
	a = a.Unmap()
	full := a.As16()
	if a.Is6() {
		clear(full[8:])
	}
	copy(s.id[:], full[:])
	return s
}

// tokens is a token bucket; the zero value is full at first use.
type tokens struct {
	spent float64 // tokens taken and not refilled
	last  int64
}

// refilled is how many tokens are out at now.
func (t *tokens) refilled(rate float64, now int64) float64 {
	return max(0, t.spent-rate*float64(now-t.last)/1e9)
}

func (t *tokens) take(rate, burst float64, now int64) bool {
	t.spent, t.last = t.refilled(rate, now), now
	if t.spent+1 > burst {
		return false
	}
	t.spent++
	return true
}

// limiter limits initiations per source and in total. Its table is bounded: sources beyond it share one bucket.
type limiter struct {
	mu             sync.Mutex
	direct, relays tokens
	sources        map[source]*tokens
	others         tokens
	swept          int64
}

func (l *limiter) init() { l.sources = map[source]*tokens{} }

func (l *limiter) allow(s source, now int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.bucket(s, now).take(sourceRate, sourceBurst, now) {
		return false
	}
	if s.relayed {
		return l.relays.take(globalRate, globalBurst, now)
	}
	return l.direct.take(globalRate, globalBurst, now)
}

func (l *limiter) bucket(s source, now int64) *tokens {
	if t := l.sources[s]; t != nil {
		return t
	}
	if len(l.sources) >= sourcesMax && now-l.swept > sourcesSweep {
		l.swept = now
		for k, t := range l.sources {
			if t.refilled(sourceRate, now) == 0 {
				delete(l.sources, k)
			}
		}
	}
	if len(l.sources) >= sourcesMax {
		return &l.others
	}
	t := &tokens{last: now}
	l.sources[s] = t
	return t
}
