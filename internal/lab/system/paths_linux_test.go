// Package system tests whole Warren networks in the lab, with the real programs.
package system

import (
	"context"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// bin is where TestMain has put the programs.
var bin string

func TestMain(m *testing.M) { warrennet.Main(m, &bin) }

// patience bounds every wait; what a test is about is asserted otherwise.
const patience = 30 * time.Second

// start has a coordinator; args are added to serve.
func start(t *testing.T, args ...string) (context.Context, *warrennet.Network) {
	t.Helper()
	return startFor(t, 2*patience, args...)
}

// startFor is start for a test that is to end within a time.
func startFor(t *testing.T, within time.Duration, args ...string) (context.Context, *warrennet.Network) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	t.Cleanup(cancel)
	return ctx, warrennet.ForTest(ctx, t, bin, args...)
}

func device(t *testing.T, ctx context.Context, n *warrennet.Network, name string, nat lab.NAT) *warrennet.Device {
	t.Helper()
	d, err := n.Device(ctx, name, nat)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s:\n%s", name, d.Daemon().Log())
		}
	})
	token, err := n.Token(ctx)
	if err == nil {
		err = d.Up(ctx, token)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// pair makes two devices and pings the one from the other until an answer comes.
func pair(t *testing.T, a, b lab.NAT) (context.Context, *warrennet.Network, *warrennet.Device, *warrennet.Device, *warrennet.Pinger) {
	t.Helper()
	ctx, n := start(t)
	x, y := device(t, ctx, n, "left", a), device(t, ctx, n, "right", b)
	return ctx, n, x, y, ping(t, ctx, x, y)
}

func ping(t *testing.T, ctx context.Context, from, to *warrennet.Device) *warrennet.Pinger {
	t.Helper()
	st, err := to.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p, err := warrennet.NewPinger(from.Host, st.Self.Addresses[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := p.Until(within, 200*time.Millisecond); err != nil {
		t.Fatalf("%v; left:\n%s\nright:\n%s", err, from.Daemon().Log(), to.Daemon().Log())
	}
	return p
}

// TestPaths lets two devices meet behind each pair of boxes:
//
//	left --- NAT --- internet --- NAT --- right
//	                    |
//	               coordinator (STUN, relay)
func TestPaths(t *testing.T) {
	for _, tc := range []struct {
		a, b lab.NAT
		want string
	}{
		{lab.None, lab.None, "direct"},
		{lab.Easy, lab.Easy, "direct"},
		{lab.Easy, lab.None, "direct"},
		{lab.Hard, lab.None, "direct"},
		{lab.Hard, lab.Hard, "relay"},
		{lab.UDPBlocked, lab.Easy, "relay"},
		{lab.EasyCGNAT, lab.Easy, "direct"},
		{lab.SameNAT, lab.SameNAT, "direct"},
		{lab.IPv6Firewalled, lab.IPv6Firewalled, "direct"},
		{lab.BrokenV4, lab.Hard, "relay"},
		{lab.TCP443Only, lab.ShortTimeout, "relay"},
	} {
		t.Run(tc.a.String()+"-"+tc.b.String(), func(t *testing.T) {
			ctx, _, x, y, p := pair(t, tc.a, tc.b)
			within, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			if tc.want == "direct" {
				for _, d := range []struct{ from, to *warrennet.Device }{{x, y}, {y, x}} {
					if _, err := d.from.AwaitPath(within, d.to.Name, "direct"); err != nil {
						t.Fatal(err)
					}
				}
			}
			for range 50 {
				if _, err := p.Ping(5 * time.Second); err != nil {
					t.Fatal(err)
				}
			}
			st, err := x.Status(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if got := st.Peer("right"); got.Path.Kind != tc.want || got.LastHandshake == nil || got.RxBytes == 0 {
				t.Errorf("peer %+v, want a %s path", got, tc.want)
			}
		})
	}
}
