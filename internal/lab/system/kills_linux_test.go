package system

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// startKills is start for a test with so many kills.
func startKills(t *testing.T) (kills int, ctx context.Context, n *warrennet.Network) {
	t.Helper()
	kills = warrennet.Amount(t, "WARREN_KILLS", 8)
	ctx, n = startFor(t, patience+time.Duration(kills)*5*time.Second)
	return kills, ctx, n
}

// moment is when a program is killed, counted from the step that it interrupts: early moments are the more interesting ones.
func moment(rng *rand.Rand) <-chan time.Time {
	return time.After(time.Duration(rng.ExpFloat64() * float64(60*time.Millisecond)))
}

// TestCoordinatorKilledWhileDevicesJoin kills the coordinator at random moments of enrolments. A device that was told that it had joined is
// there afterwards; one that was told nothing joins by the same one-off token.
func TestCoordinatorKilledWhileDevicesJoin(t *testing.T) {
	kills, ctx, n := startKills(t)
	h, err := n.Lab.Host("joiner", lab.None)
	must(t, err)
	rng := rand.New(rand.NewPCG(3, 5))
	var joined []string
	for i := range kills {
		token, err := n.Token(ctx)
		must(t, err)
		base := filepath.Join(n.CoordinatorDir()+"-devices", fmt.Sprint(i))
		name := fmt.Sprintf("d%d", i)
		args := []string{"up", token, "--name", name, "--state", base, "--socket", base + ".sock", "--tun", "wrn" + fmt.Sprint(i), "--timeout", "10s"}
		up := h.Command(ctx, filepath.Join(bin, "warren"), args...)
		told := make(chan error, 1)
		must(t, up.Start())
		go func() { told <- up.Wait() }()
		<-moment(rng)
		_ = n.Serving().Signal(syscall.SIGKILL)
		must(t, n.Serve(ctx))
		if err := <-told; err != nil {
			if out, err := h.Command(ctx, filepath.Join(bin, "warren"), args...).CombinedOutput(); err != nil {
				t.Fatalf("round %d, again by the same token: %v: %s", i, err, out)
			}
		}
		joined = append(joined, name)
		if out, err := h.Command(ctx, filepath.Join(bin, "warren"), "down", "--socket", base+".sock").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	var devices []struct{ Name string }
	must(t, n.Admin(ctx, &devices, "device", "list"))
	var have []string
	for _, d := range devices {
		have = append(have, d.Name)
	}
	slices.Sort(have)
	slices.Sort(joined)
	if !slices.Equal(have, joined) {
		t.Errorf("devices %v, want %v", have, joined)
	}
}

// TestAgentKilledAtRandomMoments kills an agent while it starts, runs and changes. It comes back with the same keys and address, and once it has
// stopped in an orderly way nothing of it is left.
func TestAgentKilledAtRandomMoments(t *testing.T) {
	kills, ctx, n := startKills(t)
	h, err := n.Lab.Host("observed", lab.Easy)
	must(t, err)
	before := look(t, h)
	peer := device(t, ctx, n, "peer", lab.None)
	d := n.DeviceOn(h)
	must(t, d.StartDaemon(ctx))
	token, err := n.Token(ctx)
	must(t, err)
	must(t, d.Up(ctx, token))
	first, err := d.Status(ctx)
	must(t, err)
	rng := rand.New(rand.NewPCG(7, 11))
	for i := range kills {
		_ = d.Daemon().Signal(syscall.SIGKILL)
		must(t, kill(ctx, d, rng, i))
		must(t, d.StartDaemon(ctx))
		must(t, d.Up(ctx, ""))
		st, err := d.Await(ctx, "up again", func(s *warrennet.Status) bool { return s.State == "up" && s.Coordinator.Connected && len(s.Peers) == 1 })
		must(t, err)
		if !slices.Equal(st.Self.Addresses, first.Self.Addresses) || st.Self.NodeKey != first.Self.NodeKey {
			t.Fatalf("round %d: came back as %+v, was %+v", i, st.Self, first.Self)
		}
	}
	ping(t, ctx, peer, d)
	must(t, d.Daemon().Signal(syscall.SIGTERM))
	if after := look(t, h); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// kill starts the daemon, lets it do something, and kills it at a random moment of that.
func kill(ctx context.Context, d *warrennet.Device, rng *rand.Rand, round int) error {
	running, err := warrennet.Start(d.Host, filepath.Join(bin, "warren"), "daemon", "--state", d.Dir(), "--socket", filepath.Join(d.Dir(), "sock"))
	if err != nil {
		return err
	}
	what := [][]string{{"status"}, {"down"}, {"up"}, {"set", "--operator", ""}}[round%4]
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = d.Text(ctx, what...) // killed with the daemon, as often as not
	}()
	<-moment(rng)
	_ = running.Signal(syscall.SIGKILL)
	<-done
	return killAnother(ctx, d)
}

// killAnother kills the daemon that "warren up" starts in the background if it finds none.
func killAnother(ctx context.Context, d *warrennet.Device) error {
	st, err := d.Status(ctx)
	if err != nil || st.PID == 0 {
		return nil
	}
	if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
		return err
	}
	return d.AwaitUnlocked(ctx)
}

// look is all that an agent could leave on a host.
func look(t *testing.T, h *lab.Host) string {
	t.Helper()
	links, err := h.Links()
	must(t, err)
	routes, err := h.Routes()
	must(t, err)
	rules, err := h.Rules()
	must(t, err)
	return strings.Join(slices.Concat(links, rules), "\n") + fmt.Sprintf("\n%d routes", len(routes))
}
