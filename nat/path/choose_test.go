package path

import (
	"net/netip"
	"testing"
	"time"
)

// TestBetterThan: LAN before IPv6 before IPv4 while they are about as fast, the faster one if it is clearly so, and never back and forth.
func TestBetterThan(t *testing.T) {
	const lan, lan6, v6, v4 = "192.168.1.2:1", "[fd00::1]:1", "[2001:db8::1]:1", "203.0.113.1:1"
	const ms = time.Millisecond
	for _, tc := range []struct {
		better      string
		betterRTT   time.Duration
		other       string
		otherRTT    time.Duration
		want, wants bool // the first is better than the second, and the other way round
	}{
		{v6, 1 * ms, v4, 1 * ms, true, false},
		{lan, 1 * ms, v4, 1 * ms, true, false},
		{lan, 1 * ms, v6, 1 * ms, true, false},
		{lan, 1500 * time.Microsecond, v6, 1 * ms, true, false}, // on a LAN that is no more than noise
		{lan6, 1 * ms, v6, 1 * ms, true, false},
		{lan, 1 * ms, lan6, 1 * ms, false, false},
		{v6, 12 * ms, v4, 12 * ms, true, false},
		{v6, 13 * ms, v4, 12 * ms, true, false},
		{v6, 14 * ms, v4, 12 * ms, false, false}, // alike
		{v6, 16 * ms, v4, 12 * ms, false, false},
		{v6, 18 * ms, v4, 12 * ms, false, true},
		{lan, 20 * ms, v4, 10 * ms, false, true}, // a LAN that is a long way round
		{v6, 100 * ms, v4, 100 * ms, true, false},
		{v6, 101 * ms, v4, 100 * ms, true, false},
		{v6, 102 * ms, v4, 100 * ms, false, false},
		{v6, 110 * ms, v4, 100 * ms, false, false},
		{v6, 121 * ms, v4, 100 * ms, false, true},
		{v4, 80 * ms, v4, 100 * ms, true, false},
		{v4, 90 * ms, v4, 100 * ms, false, false}, // less than a seventh
		{v4, 10 * ms, v4, 11 * ms, false, false},
		{v4, 10 * ms, v4, 14 * ms, false, false}, // more than a seventh, and little
		{v4, 10 * ms, v4, 15 * ms, true, false},
	} {
		p := &pair{Pair: Pair{Remote: netip.MustParseAddrPort(tc.better)}, rtt: tc.betterRTT}
		o := &pair{Pair: Pair{Remote: netip.MustParseAddrPort(tc.other)}, rtt: tc.otherRTT}
		if got, back := p.betterThan(o), o.betterThan(p); got != tc.want || back != tc.wants {
			t.Errorf("%s at %s against %s at %s: %t and %t", tc.better, tc.betterRTT, tc.other, tc.otherRTT, got, back)
		}
	}
	// Whatever the round trips are, no two are each better than the other: that would be without end.
	remotes := []string{lan, v6, v4}
	for _, a := range remotes {
		for _, b := range remotes {
			for i := range 150 * 150 {
				p := &pair{Pair: Pair{Remote: netip.MustParseAddrPort(a)}, rtt: time.Duration(i/150) * ms}
				o := &pair{Pair: Pair{Remote: netip.MustParseAddrPort(b)}, rtt: time.Duration(i%150) * ms}
				if p.betterThan(o) && o.betterThan(p) {
					t.Fatalf("%s at %s and %s at %s are better than each other", a, p.rtt, b, o.rtt)
				}
			}
		}
	}
}

// TestLoadIsNoReason: round trips that a busy host made long do not make a path seem worse than one that is alike; only all of them do.
func TestLoadIsNoReason(t *testing.T) {
	const ms = time.Millisecond
	other := &pair{Pair: Pair{Remote: netip.MustParseAddrPort("203.0.113.2:1")}}
	current := &pair{Pair: Pair{Remote: netip.MustParseAddrPort("203.0.113.1:1")}}
	for range 2 {
		other.measured(ms, other.answers == 0)
	}
	current.measured(ms, true)
	for i := range recentMax {
		if got := other.betterThan(current); got {
			t.Errorf("better after %d round trips that took long, the last short one was among the last %d", i, recentMax)
		}
		current.measured(20*ms, false)
	}
	if !other.betterThan(current) {
		t.Errorf("not better, though the last %d round trips of the other were all long", recentMax)
	}
	current.measured(ms, true)
	if other.betterThan(current) {
		t.Error("better than one that starts anew, with a short round trip")
	}
}
