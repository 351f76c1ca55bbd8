package bind

import (
	"net/netip"
	"testing"
	"time"
)

func newLimiter() *limiter {
	l := new(limiter)
	l.init()
	return l
}

// allowed counts how many of n at one moment pass.
func allowed(l *limiter, n int, now time.Duration, from func(int) source) (passed int) {
	for i := range n {
		if l.allow(from(i), int64(now)) {
			passed++
		}
	}
	return passed
}

func one(a string) func(int) source {
	s := addrSource(netip.MustParseAddr(a))
	return func(int) source { return s }
}

func many(i int) source {
	return addrSource(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
}

func TestLimitPerSource(t *testing.T) {
	l := newLimiter()
	if got := allowed(l, 1000, 0, one("192.0.2.1")); got != sourceBurst {
		t.Errorf("a source sent %d at once, want %d", got, sourceBurst)
	}
	if got := allowed(l, 1000, time.Second, one("192.0.2.1")); got != sourceRate {
		t.Errorf("a second later %d, want %d", got, sourceRate)
	}
	if got := allowed(l, 10, time.Second, one("192.0.2.2")); got != 10 {
		t.Errorf("another source sent %d, want 10", got)
	}
	if got := allowed(l, 1000, time.Hour, one("192.0.2.1")); got != sourceBurst {
		t.Errorf("an hour later %d, want %d", got, sourceBurst)
	}
	// All of an IPv6 /64 is one source.
	l = newLimiter()
	got := allowed(l, 1000, 0, func(i int) source {
		return addrSource(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i), 14: byte(i >> 8)}))
	})
	if got != sourceBurst {
		t.Errorf("a /64 sent %d, want %d", got, sourceBurst)
	}
}

func TestLimitInTotal(t *testing.T) {
	l := newLimiter()
	if got := allowed(l, 3000, 0, many); got != globalBurst {
		t.Errorf("all sources sent %d at once, want %d", got, globalBurst)
	}
	relayed := allowed(l, 10, 0, func(i int) source { return source{relayed: true, id: [32]byte{byte(i)}} })
	if relayed != 10 {
		t.Errorf("a flood on the sockets left relays %d of 10", relayed)
	}
}

// TestLimitTable: forged sources do not make the table grow, and do not stop new ones for good.
func TestLimitTable(t *testing.T) {
	l := newLimiter()
	for s := range 20 {
		allowed(l, 3000, time.Duration(s)*time.Second, func(i int) source { return many(s*3000 + i) })
		if len(l.sources) > sourcesMax {
			t.Fatalf("%d sources kept", len(l.sources))
		}
	}
	if got := allowed(l, 10, time.Minute, one("192.0.2.1")); got != 10 {
		t.Errorf("after the flood a source sent %d, want 10", got)
	}
}
