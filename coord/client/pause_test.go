package client

import (
	"log/slog"
	"testing"
	"time"

	"warren/internal/backoff"
	pb "warren/proto/warrenv1"
)

// TestPause: a client comes back within the time that the coordinator wants it to, if the connection had stood for a while.
func TestPause(t *testing.T) {
	now := time.Unix(1e9, 0)
	c := &Client{cfg: Config{Now: func() time.Time { return now }, OnState: func(State) {}, Log: slog.New(slog.DiscardHandler)}}
	p := &backoff.Backoff{First: firstWait, Longest: longestWait, Steady: longestWait, Rand: func(n time.Duration) time.Duration { return n }}
	if got, want := c.pause(p), firstWait+firstWait/4; got != want {
		t.Errorf("after an attempt that failed: %s, want %s", got, want)
	}
	if got, want := c.greeted(&pb.Hello{ReturnWithinMilliseconds: 9000, KeepAliveSeconds: 60}), 160*time.Second; got != want {
		t.Errorf("dead after %s, want %s", got, want)
	}
	now = now.Add(time.Hour)
	if got, want := c.pause(p), 9*time.Second; got != want || !c.state.Connected {
		t.Errorf("after an hour: %s, want %s; state %+v", got, want, c.state)
	}
	c.greeted(new(pb.Hello)) // of a coordinator that does not know better
	now = now.Add(time.Second)
	for _, want := range []time.Duration{firstWait + firstWait*5/4, firstWait + 2*firstWait*5/4} {
		if got := c.pause(p); got != want {
			t.Errorf("connections that do not last: %s, want %s", got, want)
		}
	}
	c.state.Rejected = true
	if got := c.pause(p); got < rejectedWait/2 || got >= rejectedWait {
		t.Errorf("rejected: %s", got)
	}
}
