//go:build booted

package booted

import (
	"strings"
	"testing"

	"warren/internal/lab/warrennet"
)

// ownDisk puts the agent's state onto a small file system of its own.
func (m *machine) ownDisk() {
	m.w.t.Helper()
	m.must("systemctl", "stop", "warren.service")
	m.must("sh", "-ec", `mkdir /var/tmp/state; cp -a /var/lib/warren/. /var/tmp/state/
mount -t tmpfs -o size=1M,mode=0700 small /var/lib/warren; cp -a /var/tmp/state/. /var/lib/warren/`)
	m.must("systemctl", "start", "warren.service")
}

// said waits until the end of the agent's journal has a text.
func (m *machine) said(text string) {
	m.w.t.Helper()
	m.until("saying "+text, func() (bool, string) {
		out := m.Journal(m.w.ctx, "--unit=warren.service", "--lines=20")
		return strings.Contains(out, text), last(out, 2000)
	})
}

// TestDiskFull: with no room left on its disk an agent that runs goes on, refuses to be told what it cannot keep, starts again as it was, and works as
// before once there is room.
func TestDiskFull(t *testing.T) {
	w := newWorld(t)
	m, p := w.joined("laptop")
	m.ownDisk()
	w.reached(p, "with a disk of its own")
	m.must("sh", "-c", "dd if=/dev/zero of=/var/lib/warren/ballast bs=4k 2>/dev/null; true")
	w.reached(p, "with a full disk")
	said := m.refused("warren", "set", "--operator", "daemon")
	t.Logf("warren set says: %s", strings.TrimSpace(said))
	if !strings.Contains(said, "no space left") {
		t.Error("it does not say that there is no space left")
	}
	if s, err := m.status(); err != nil || s.State != "up" {
		t.Errorf("status %+v, %v", s, err)
	}
	m.must("systemctl", "restart", "warren.service")
	w.reached(p, "after a restart with a full disk")
	pid := m.unit("warren.service", "MainPID")
	m.must("kill", "-9", pid)
	m.awaitRestart(pid)
	w.reached(p, "after kill -9 with a full disk")
	m.must("rm", "/var/lib/warren/ballast")
	m.must("warren", "set", "--operator", "daemon")
	m.must("systemctl", "restart", "warren.service")
	w.reached(p, "with room again")
}

// TestDiskReadOnly: where the state cannot be written an agent that runs goes on, one that starts says what is wrong, and one that finds it mended
// needs nobody.
func TestDiskReadOnly(t *testing.T) {
	w := newWorld(t)
	m, p := w.joined("laptop")
	m.ownDisk()
	w.reached(p, "with a disk of its own")
	pid := m.unit("warren.service", "MainPID")
	// Over what the service sees, for a mount in which it has a file open cannot be changed.
	m.must("nsenter", "--target", pid, "--mount", "sh", "-ec", "mount --bind /var/lib/warren /var/lib/warren; mount -o remount,bind,ro /var/lib/warren")
	w.reached(p, "with a read-only disk")
	said := m.refused("warren", "set", "--operator", "daemon")
	t.Logf("warren set says: %s", strings.TrimSpace(said))
	if !strings.Contains(said, "read-only file system") {
		t.Error("it does not say that the file system is read-only")
	}
	if got := m.unit("warren.service", "MainPID"); got != pid {
		t.Error("the agent was restarted")
	}
	m.must("systemctl", "stop", "warren.service")
	m.must("mount", "-o", "remount,ro", "/var/lib/warren")
	if _, err := m.Output(w.ctx, "systemctl", "start", "warren.service"); err == nil {
		t.Error("systemctl start succeeds")
	}
	m.said("read-only file system")
	m.said("/var/lib/warren")
	m.must("mount", "-o", "remount,rw", "/var/lib/warren")
	m.awaitRestart("")
	w.reached(p, "with a disk that can be written again")
}

// TestStateOfNewer: an agent refuses, and leaves alone, what a newer one has written; systemd goes on trying, so that it works once the right one is there.
func TestStateOfNewer(t *testing.T) {
	w := newWorld(t)
	m, p := w.joined("laptop")
	m.must("systemctl", "stop", "warren.service")
	m.must("sed", "-i.right", `s/"version": *[0-9]*/"version": 99/`, "/var/lib/warren/state.json")
	sum := m.must("sha256sum", "/var/lib/warren/state.json")
	_, err := m.Output(w.ctx, "systemctl", "start", "warren.service")
	if err == nil {
		t.Error("systemctl start succeeds")
	}
	m.said("written by a newer warren")
	said := m.refused("warren", "up")
	t.Logf("warren up says: %s", strings.TrimSpace(said))
	if got := m.must("sha256sum", "/var/lib/warren/state.json"); got != sum {
		t.Error("the newer state was changed")
	}
	m.must("mv", "/var/lib/warren/state.json.right", "/var/lib/warren/state.json")
	m.await("up again", func(s *warrennet.Status) bool { return s.State == "up" })
	w.reached(p, "with the right state")
}
