package system

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// awaitDirect waits until both see a direct path.
func awaitDirect(t *testing.T, ctx context.Context, x, y *warrennet.Device) {
	t.Helper()
	for _, d := range [][2]*warrennet.Device{{x, y}, {y, x}} {
		if _, err := d[0].AwaitPath(ctx, d[1].Name, "direct"); err != nil {
			t.Fatal(err)
		}
	}
}

// lossless pings for a while and gives how many were lost.
func losses(t *testing.T, p *warrennet.Pinger, d time.Duration) (lost int) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		switch _, err := p.Ping(250 * time.Millisecond); {
		case errors.Is(err, warrennet.ErrNoAnswer):
			lost++
		case err != nil:
			t.Fatal(err)
		}
	}
	return lost
}

// TestCoordinatorKilled kills the coordinator, which is the relay as well, and starts it again. A direct tunnel does not notice.
//
//	left --- easy NAT --- internet --- easy NAT --- right
//	                         |
//	                    coordinator (killed, started again)
func TestCoordinatorKilled(t *testing.T) {
	ctx, n, x, y, p := pair(t, lab.Easy, lab.Easy)
	awaitDirect(t, ctx, x, y)
	if err := n.Serving().Signal(syscall.SIGKILL); err == nil {
		t.Fatal("the coordinator was not killed")
	}
	if _, err := x.Await(ctx, "aware that the coordinator is away", func(s *warrennet.Status) bool { return !s.Coordinator.Connected }); err != nil {
		t.Fatal(err)
	}
	if lost := losses(t, p, 2*time.Second); lost > 0 {
		t.Errorf("%d pings were lost while the coordinator was away", lost)
	}
	if _, err := x.AwaitPath(ctx, "right", "direct"); err != nil {
		t.Error(err)
	}
	must(t, n.Serve(ctx))
	for _, d := range []*warrennet.Device{x, y} {
		if _, err := d.Await(ctx, "connected again", func(s *warrennet.Status) bool {
			return s.Coordinator.Connected && len(s.Peers) == 1 && s.Peers[0].Online
		}); err != nil {
			t.Fatal(err)
		}
	}
	var devices []struct{ Name string }
	must(t, n.Admin(ctx, &devices, "device", "list"))
	if len(devices) != 2 {
		t.Errorf("devices after the coordinator was killed: %v", devices)
	}
}

// TestAgentRestarts stops and kills one agent while the other pings it. It comes back with the same address, and less than two seconds are lost.
func TestAgentRestarts(t *testing.T) {
	ctx, _, x, y, p := pair(t, lab.Easy, lab.Easy)
	awaitDirect(t, ctx, x, y)
	before, err := y.Status(ctx)
	must(t, err)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		began := time.Now()
		if err := y.Daemon().Signal(sig); (err == nil) != (sig == syscall.SIGTERM) {
			t.Fatalf("%s: %v; log:\n%s", sig, err, y.Daemon().Log())
		}
		must(t, y.StartDaemon(ctx))
		if _, err := p.Until(ctx, 50*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		lost := time.Since(began)
		t.Logf("%s: %d ms without an answer", sig, lost.Milliseconds())
		if lost > 2*time.Second {
			t.Errorf("%s: %s were lost", sig, lost)
		}
		awaitDirect(t, ctx, x, y)
		after, err := y.Status(ctx)
		must(t, err)
		if !slices.Equal(after.Self.Addresses, before.Self.Addresses) || after.Self.NodeKey != before.Self.NodeKey {
			t.Errorf("%s: came back as %+v, was %+v", sig, after.Self, before.Self)
		}
	}
}

// TestNothingIsLeft compares a host before its agent was started with the time after it was killed, started and stopped.
func TestNothingIsLeft(t *testing.T) {
	ctx, n := start(t)
	h, err := n.Lab.Host("observed", lab.Easy)
	must(t, err)
	before := look(t, h)
	d := n.DeviceOn(h)
	must(t, d.StartDaemon(ctx))
	token, err := n.Token(ctx)
	must(t, err)
	must(t, d.Up(ctx, token))
	if look(t, h) == before {
		t.Fatal("this test sees nothing of a running agent")
	}
	_ = d.Daemon().Signal(syscall.SIGKILL)
	must(t, d.StartDaemon(ctx))
	_, err = d.Await(ctx, "up again", func(s *warrennet.Status) bool { return s.State == "up" })
	must(t, err)
	must(t, d.Daemon().Signal(syscall.SIGTERM))
	if after := look(t, h); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if out, err := h.Command(ctx, "sh", "-c", "ls /var/run/wireguard 2>/dev/null; true").Output(); err != nil || len(out) > 0 {
		t.Errorf("sockets left: %s, %v", out, err)
	}
	if matches, _ := filepath.Glob(filepath.Join(d.Dir(), "sock")); len(matches) > 0 {
		t.Errorf("left: %v", matches)
	}
}

// TestColdBootWithoutCoordinator starts both agents while the coordinator is away. A separate relay and the maps on disk suffice.
//
//	left --- easy NAT --- internet --- easy NAT --- right
//	                       |    |
//	  coordinator (stopped)     relay
func TestColdBootWithoutCoordinator(t *testing.T) {
	ctx, n := start(t)
	relayHost, err := n.Lab.Host("relay", lab.None)
	must(t, err)
	token, err := n.Token(ctx, "--relay")
	must(t, err)
	relay, err := n.StartRelay(ctx, relayHost, token)
	must(t, err)
	defer relay.Signal(syscall.SIGTERM)
	x, y := device(t, ctx, n, "left", lab.Easy), device(t, ctx, n, "right", lab.Easy)
	ping(t, ctx, x, y)
	for _, d := range []*warrennet.Device{x, y} {
		must(t, d.Daemon().Signal(syscall.SIGTERM))
	}
	must(t, n.Serving().Signal(syscall.SIGTERM))
	for _, d := range []*warrennet.Device{x, y} {
		must(t, d.StartDaemon(ctx))
		_, err := d.Await(ctx, "up with the map on disk", func(s *warrennet.Status) bool {
			return s.State == "up" && len(s.Peers) == 1 && !s.Coordinator.Connected
		})
		must(t, err)
	}
	ping(t, ctx, x, y)
	awaitDirect(t, ctx, x, y)
}

// TestRemovedWithinASecond removes a device: within a second its traffic stops and it is gone from its peer's map. So does one that leaves.
func TestRemovedWithinASecond(t *testing.T) {
	for _, how := range []string{"remove", "expire"} {
		t.Run(how, func(t *testing.T) {
			ctx, n, x, y, p := pair(t, lab.Easy, lab.Easy)
			awaitDirect(t, ctx, x, y)
			must(t, n.Admin(ctx, nil, "device", how, "right"))
			second, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			if _, err := x.Await(second, "rid of right", func(s *warrennet.Status) bool { return len(s.Peers) == 0 }); err != nil {
				t.Error(err)
			}
			if _, err := p.Ping(300 * time.Millisecond); !errors.Is(err, warrennet.ErrNoAnswer) && err == nil {
				t.Error("right still answers")
			}
			_, err := y.Await(ctx, "told", func(s *warrennet.Status) bool { return s.State == "rejected" && len(s.Warnings) > 0 })
			must(t, err)
		})
	}
}

func TestLeave(t *testing.T) {
	ctx, n, x, y, _ := pair(t, lab.None, lab.None)
	must(t, y.Warren(ctx, nil, "leave"))
	if _, err := x.Await(ctx, "rid of right", func(s *warrennet.Status) bool { return len(s.Peers) == 0 }); err != nil {
		t.Fatal(err)
	}
	st, err := y.Status(ctx)
	if err != nil || st.State != "not enrolled" {
		t.Errorf("after leaving: %+v, %v", st, err)
	}
	token, err := n.Token(ctx)
	must(t, err)
	must(t, y.Up(ctx, token))
	ping(t, ctx, x, y)
}

// TestRelayedPathReplacesBrokenOne cuts UDP between two devices that had a direct path, by the link going away and coming back elsewhere: here the
// host is unplugged, and its peer must notice, fall back and recover when it is plugged in again.
func TestUnplugged(t *testing.T) {
	ctx, _, x, y, p := pair(t, lab.Easy, lab.Easy)
	awaitDirect(t, ctx, x, y)
	must(t, y.Unplug())
	if _, err := x.Await(ctx, "off the direct path", func(s *warrennet.Status) bool {
		_, _ = p.Ping(20 * time.Millisecond) // traffic is what makes a fault matter
		return s.Peer("right").Path.Kind != "direct"
	}); err != nil {
		t.Fatal(err)
	}
	must(t, y.Plug())
	if _, err := p.Until(ctx, 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	awaitDirect(t, ctx, x, y)
}
