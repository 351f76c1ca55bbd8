package system

import (
	"context"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// unbroken is how long the tunnel may be without traffic while an agent is replaced.
const unbroken = time.Second

// oneWay lets connections and pings begin on one side only, so that what comes back depends on the flows that are known.
const oneWay = `{"grants": [
	{"src": ["anna"], "dst": ["ben"], "ip": ["tcp:*", "icmp:*"]},
]}`

// settle lets pings come in.
func settle(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(500 * time.Millisecond):
	}
}

// TestAgentReplaced replaces agents under a TCP transfer and a thousand pings a second: one whose process becomes the new program, and one that is
// restarted by a service manager which keeps its files. The interfaces stay the same, and so do connections; a stop leaves nothing.
func TestAgentReplaced(t *testing.T) {
	ctx, n := start(t)
	setPolicy(t, ctx, n, oneWay)
	ben := member(t, ctx, n, "ben", lab.Easy)
	h, err := n.Lab.Host("annas", lab.Easy)
	must(t, err)
	before := look(t, h)
	anna := n.DeviceOn(h)
	m := newManager(t, anna)
	m.start(t, ctx)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("anna:\n%s", anna.Daemon().Log())
		}
	})
	token, err := n.Token(ctx, "--user", "anna")
	must(t, err)
	must(t, anna.Up(ctx, token))
	ping(t, ctx, anna, ben)
	awaitDirect(t, ctx, anna, ben)
	up := look(t, h)

	streams := []*stream{newStream(t, ctx, anna, ben), newAnswer(t, ctx, anna, ben)}
	st, err := ben.Status(ctx)
	must(t, err)
	meter, err := warrennet.NewMeter(ctx, anna.Host, st.Self.Addresses[0])
	must(t, err)
	t.Cleanup(meter.Close)
	for _, step := range []struct {
		what string
		do   func()
	}{
		{"in place", func() { must(t, ben.Warren(ctx, nil, "restart")) }},
		{"by the manager", func() { m.end(t, "restart"); m.start(t, ctx) }},
	} {
		began := time.Now()
		step.do()
		settle(ctx)
		long := meter.Longest(began)
		t.Logf("replaced %s: %s without an answer", step.what, long.Round(time.Millisecond))
		if long > unbroken {
			t.Errorf("replaced %s: %s without an answer, want at most %s", step.what, long, unbroken)
		}
	}
	soon, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, s := range streams {
		s.finish(t, soon)
	}
	if got := look(t, h); got != up {
		t.Errorf("before:\n%s\nafter the restart:\n%s", up, got)
	}

	// After a crash the interface is there still, with all on it, and a peer that is wanted is reached as by any daemon.
	_ = anna.Daemon().Signal(syscall.SIGKILL)
	must(t, anna.AwaitUnlocked(ctx))
	if got := look(t, h); got != up {
		t.Errorf("before:\n%s\nafter the crash:\n%s", up, got)
	}
	m.start(t, ctx)
	ping(t, ctx, anna, ben)
	if names := m.names(); !slices.Contains(names, "warren-tun") || slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, "state") }) {
		t.Errorf("kept are %q", names)
	}
	m.end(t, "stop")

	// Without a tunnel there is nothing to go on with, and the daemon is replaced all the same.
	must(t, ben.Warren(ctx, nil, "down"))
	must(t, ben.Warren(ctx, nil, "restart"))
	if st, err := ben.Status(ctx); err != nil || st.State != "down" || st.PID != ben.Daemon().PID() {
		t.Errorf("replaced while down: %+v, %v", st, err)
	}
	if got := look(t, h); got != before {
		t.Errorf("before:\n%s\nafter the stop:\n%s", before, got)
	}
	if names := m.names(); len(names) > 0 {
		t.Errorf("after the stop there are kept %q", names)
	}
}
