//go:build booted

package booted

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"warren/internal/sim/natmodel"
)

// put has a program of this commit be where an administrator without a package puts it.
func (m *machine) put(program string) {
	m.w.t.Helper()
	b, err := os.ReadFile(filepath.Join(bin, program))
	must(m.w.t, err)
	must(m.w.t, m.WriteFile("/usr/local/bin/"+program, b, 0o755))
}

// TestServiceWithoutPackage: a program that was copied makes itself a service, which is as confined and as lasting as that of a package, and takes it back.
func TestServiceWithoutPackage(t *testing.T) {
	w := newWorld(t)
	m := w.machine("laptop", natmodel.Easy())
	must(t, m.Boot(w.ctx))
	m.put("warren")
	m.put("warren-coordinator")
	before := m.look()
	if said := m.must("warren", "service", "status"); !strings.Contains(said, "not installed") {
		t.Errorf("service status says %s", said)
	}

	m.must("warren", "service", "install")
	for _, unit := range []string{"warren.service", "warren-killswitch.service"} {
		if got := m.unit(unit, "UnitFileState"); got != "enabled" {
			t.Errorf("%s is %s", unit, got)
		}
	}
	t.Logf("service status says: %s", m.must("warren", "service", "status"))
	level := regexp.MustCompile(`exposure level for \S+: (\S+)`).FindStringSubmatch(m.must("systemd-analyze", "security", "--no-pager", "warren.service"))
	if level == nil || level[1] > "2.5" {
		t.Errorf("exposure %v", level)
	}
	m.up()
	p := w.peer(m)
	must(t, m.Reboot(w.ctx))
	w.reached(p, "after a reboot")
	pid := m.unit("warren.service", "MainPID")
	m.must("kill", "-9", pid)
	m.awaitRestart(pid)
	w.reached(p, "after kill -9")
	pid = m.unit("warren.service", "MainPID")
	m.must("mv", "/usr/local/bin/warren", "/usr/local/bin/warren.before")
	m.put("warren")
	m.must("warren", "service", "restart")
	m.awaitRestart(pid)
	w.reached(p, "with another program in its place")
	m.must("rm", "/usr/local/bin/warren.before")
	m.must("warren", "up", "--kill-switch")

	m.must("warren-coordinator", "service", "install")
	m.until("serving", func() (bool, string) {
		s := m.unit("warren-coordinator.service", "ActiveState")
		return s == "active", s
	})
	m.must("warren-coordinator", "service", "uninstall")
	m.must("warren", "service", "uninstall")
	stays := regexp.MustCompile(`^(file|content \S+ ) ?/(etc/warren|etc/warren-coordinator|var/lib/warren|var/lib/warren-coordinator|var/lib/private|var/lib/private/warren-coordinator)[ /]`)
	for _, line := range m.look() {
		// The directory of wg's sockets goes with the next boot, and logs are kept.
		if !slices.Contains(before, line) && !stays.MatchString(line) && !strings.HasSuffix(line, "/run/wireguard") && line != "left /var/log/warren" {
			t.Errorf("left after service uninstall: %s", line)
		}
	}
	m.must("sh", "-c", "test -s /var/lib/warren/state.json && test -d /etc/warren")
}

// TestServiceBesidePackage: where a package is installed already the command says so and changes nothing.
func TestServiceBesidePackage(t *testing.T) {
	w := newWorld(t)
	m := w.booted("laptop")
	m.put("warren")
	before := m.must("sh", "-c", "cat /usr/lib/systemd/system/warren.service; ls /etc/systemd/system")
	said := m.refused("/usr/local/bin/warren", "service", "install")
	t.Logf("service install says: %s", said)
	if after := m.must("sh", "-c", "cat /usr/lib/systemd/system/warren.service; ls /etc/systemd/system"); after != before {
		t.Errorf("before %s\nafter %s", before, after)
	}
}
