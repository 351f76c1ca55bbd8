package system

import (
	"context"
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

// TestAgentReplacedInPlace replaces an agent's program, which has its TCP connections and pings go on.
func TestAgentReplacedInPlace(t *testing.T) {
	ctx, n := start(t)
	setPolicy(t, ctx, n, oneWay)
	anna, ben := member(t, ctx, n, "anna", lab.Easy), member(t, ctx, n, "ben", lab.Easy)
	ping(t, ctx, anna, ben)
	awaitDirect(t, ctx, anna, ben)
	s := newStream(t, ctx, anna, ben)
	st, err := ben.Status(ctx)
	must(t, err)
	m, err := warrennet.NewMeter(ctx, anna.Host, st.Self.Addresses[0])
	must(t, err)
	t.Cleanup(m.Close)
	for _, d := range []*warrennet.Device{anna, ben} {
		began := time.Now()
		must(t, d.Warren(ctx, nil, "restart"))
		t.Logf("%s: replaced after %s", d.Name, time.Since(began))
		settle(ctx, time.Second)
		gap := m.Longest(began)
		t.Logf("%s: %s without an answer", d.Name, gap)
		if gap > unbroken {
			t.Errorf("%s: %s without an answer, want at most %s", d.Name, gap, unbroken)
		}
	}
	s.finish(t, ctx)
}

func settle(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
