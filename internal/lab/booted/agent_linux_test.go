//go:build booted

package booted

import (
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
	"warren/internal/sim/natmodel"
)

// TestInstallEnrolReboot: the package is installed, and its service is there; the device is enrolled and reached. After a reboot with the coordinator
// away it is reached again, by the map on its disk.
func TestInstallEnrolReboot(t *testing.T) {
	w := newWorld(t, "--relay=false")
	h, err := w.Lab.Host("relay", lab.None)
	must(t, err)
	token, err := w.Token(w.ctx, "--relay")
	must(t, err)
	_, err = w.StartRelay(w.ctx, h, token)
	must(t, err)

	m := w.booted("laptop")
	for unit, want := range map[string]string{"warren.service": "enabled", "warren-killswitch.service": "enabled"} {
		if got := m.unit(unit, "UnitFileState"); got != want {
			t.Errorf("%s is %s, want %s", unit, got, want)
		}
	}
	if got := m.unit("warren.service", "ActiveState"); got != "active" {
		t.Errorf("warren.service is %s", got)
	}
	m.up()
	p := w.peer(m)
	before, err := m.status()
	must(t, err)

	_ = w.Serving().Signal(syscall.SIGKILL) // its error is how it ended
	began := time.Now()
	must(t, m.Reboot(w.ctx))
	t.Logf("the machine was down and up again in %s", time.Since(began).Round(time.Millisecond))
	w.reached(p, "after a reboot without the coordinator")
	after, err := m.status()
	must(t, err)
	if after.Coordinator.Connected || after.Self.NodeKey != before.Self.NodeKey || strings.Join(after.Self.Addresses, " ") != strings.Join(before.Self.Addresses, " ") {
		t.Errorf("before the reboot %+v, after it %+v", before, after)
	}
	must(t, w.Serve(w.ctx))
	m.await("connected to the coordinator again", func(s *warrennet.Status) bool { return s.Coordinator.Connected })
}

// TestBootWithoutNetwork: a machine whose cable is not plugged in boots as fast as ever with the agent up, which finds its way once it is.
func TestBootWithoutNetwork(t *testing.T) {
	w := newWorld(t)
	m, p := w.joined("laptop")
	must(t, m.PowerOff())
	must(t, m.PowerOn(w.ctx))
	must(t, m.AwaitBooted(w.ctx))
	m.await("up without a network", func(s *warrennet.Status) bool { return s.State == "up" })
	pinger, err := warrennet.NewPinger(p.Host, p.addr)
	must(t, err)
	defer pinger.Close()
	if _, err := pinger.Ping(100 * time.Millisecond); err == nil {
		t.Fatal("a machine without a cable answers")
	}
	must(t, m.Plug())
	w.reached(p, "with the cable plugged in after the boot")

	must(t, m.Unplug())
	m.until("without its address", func() (bool, string) { // systemd-networkd fails for good if the cable is back while it takes the addresses away
		addresses := m.must("ip", "-o", "-4", "address", "show", "host0")
		return strings.TrimSpace(addresses) == "", addresses
	})
	must(t, m.Plug())
	w.reached(p, "with the cable out and in again")
}

// TestKilled: systemd starts an agent that was killed again.
func TestKilled(t *testing.T) {
	w := newWorld(t)
	m, p := w.joined("laptop")
	before := m.unit("warren.service", "MainPID")
	meter, err := warrennet.NewMeter(w.ctx, p.Host, p.addr)
	must(t, err)
	defer meter.Close()
	began := time.Now()
	m.must("kill", "-9", before)
	m.awaitRestart(before)
	w.reached(p, "after kill -9")
	t.Logf("kill -9: for %s no ping of 1000 a second was answered", meter.Longest(began).Round(time.Millisecond))
	if got := m.unit("warren.service", "NRestarts"); got != "1" {
		t.Errorf("systemd counts %s restarts", got)
	}
}

// awaitRestart waits until the agent's service runs as another process than before.
func (m *machine) awaitRestart(before string) {
	m.w.t.Helper()
	m.until("running again", func() (bool, string) {
		pid, state := m.unit("warren.service", "MainPID"), m.unit("warren.service", "ActiveState")
		return pid != before && pid != "0" && state == "active", pid + " " + state
	})
}

// TestWatchdog: systemd kills an agent that hangs, and starts it again.
func TestWatchdog(t *testing.T) {
	w := newWorld(t)
	m, p := w.joined("laptop")
	if got := m.unit("warren.service", "WatchdogUSec"); got != "2min" {
		t.Errorf("the watchdog bites after %s", got)
	}
	m.dropIn("warren.service", "[Service]\nWatchdogSec=3\n")
	m.must("systemctl", "restart", "warren.service")
	w.reached(p, "with a shorter watchdog")
	before := m.unit("warren.service", "MainPID")
	began := time.Now()
	m.must("kill", "-STOP", before)
	m.awaitRestart(before)
	took := time.Since(began)
	w.reached(p, "after the watchdog")
	t.Logf("an agent that hangs was replaced after %s with WatchdogSec=3", took.Round(time.Millisecond))
	if n, err := strconv.Atoi(m.unit("warren.service", "NRestarts")); err != nil || n != 1 {
		t.Errorf("systemd counts %d restarts, %v", n, err)
	}
	if said := m.Journal(w.ctx, "--unit=warren.service"); !strings.Contains(said, "Watchdog timeout") {
		t.Errorf("systemd tells nothing of a watchdog:\n%s", last(said, 2000))
	}
}

// TestNoTUN: without /dev/net/tun the agent says what is missing and what to do, and comes up when it is there.
func TestNoTUN(t *testing.T) {
	w := newWorld(t)
	m := w.machine("container", natmodel.Easy())
	must(t, m.Boot(w.ctx))
	m.must("umount", "/dev/net/tun")
	m.must("rm", "/dev/net/tun")
	m.install(*now, "warren")
	token, err := w.Token(w.ctx)
	must(t, err)
	said := m.refused("warren", "up", "--name", "container", token)
	t.Logf("warren up says: %s", said)
	if !strings.Contains(said, "/dev/net/tun") {
		t.Errorf("it does not name /dev/net/tun")
	}
}
