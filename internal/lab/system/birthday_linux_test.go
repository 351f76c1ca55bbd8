package system

import (
	"testing"
	"time"

	"warren/internal/lab"
)

// TestBirthday lets devices behind an easy and a hard NAT meet by trying ports:
//
//	left --- easy NAT --- internet --- hard NAT --- right
//	                         |
//	                    coordinator (STUN on two ports, relay)
//
// An attempt fails once in 75 times; three in a row, never in practice.
func TestBirthday(t *testing.T) {
	for range 3 {
		if meetByBirthday(t) {
			return
		}
	}
	t.Error("three attempts of three failed")
}

func meetByBirthday(t *testing.T) bool {
	t.Helper()
	ctx, _, x, y, p := pair(t, lab.Easy, lab.Hard)
	began := time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for time.Since(began) < 20*time.Second {
		if _, err := p.Ping(time.Second); err != nil {
			t.Fatal(err)
		}
		a, err := x.Status(ctx)
		must(t, err)
		b, err := y.Status(ctx)
		must(t, err)
		if a.Peer("right").Path.Kind == "direct" && b.Peer("left").Path.Kind == "direct" {
			t.Logf("direct after %s", time.Since(began).Round(time.Millisecond))
			awaitSteady(t, p.Ping)
			return true
		}
		<-tick.C
	}
	t.Logf("an attempt failed; right:\n%s", y.Daemon().Log())
	return false
}

// awaitSteady pings a while: the path by which the answers come must last.
func awaitSteady(t *testing.T, ping func(time.Duration) (time.Duration, error)) {
	t.Helper()
	for range 100 {
		if _, err := ping(time.Second); err != nil {
			t.Error(err)
		}
	}
}
