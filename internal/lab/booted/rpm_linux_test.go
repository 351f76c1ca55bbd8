//go:build booted

package booted

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"warren/internal/lab/warrennet"
	"warren/internal/sim/natmodel"
)

// TestRPM: rpm installs, upgrades and removes the package of the agent, whose scripts do what they should with the systemd that runs.
//
// The machine is a Debian all the same, where rpm knows of no other package: what ours needs is not looked for.
func TestRPM(t *testing.T) {
	w := newWorld(t)
	m := w.machine("fedora", natmodel.Easy())
	must(t, m.Boot(w.ctx))
	rpm := func(args ...string) string {
		t.Helper()
		return m.must("rpm", append([]string{"--force-debian", "--nodeps"}, args...)...)
	}
	m.must("rpm", "--initdb")
	before := m.look()

	rpm("--install", m.bring(*now, "warren-[0-9]*.x86_64.rpm"))
	rpm("--install", m.bring(*now, "warren-coordinator-[0-9]*.x86_64.rpm"))
	for _, unit := range []string{"warren.service", "warren-killswitch.service", "warren-coordinator.service"} {
		if enabled, active := m.unit(unit, "UnitFileState"), m.unit(unit, "ActiveState"); enabled != "enabled" || active != "inactive" {
			t.Errorf("after installation %s is %s and %s; a preset enables and nothing starts", unit, enabled, active)
		}
	}
	if said, err := m.Output(w.ctx, "rpm", "--verify", "--nodeps", "warren", "warren-coordinator"); err != nil {
		t.Errorf("rpm --verify: %s", said)
	}
	m.must("systemctl", "enable", "--now", "warren")
	m.must("systemctl", "enable", "--now", "warren-coordinator")
	m.up()
	p := w.peer(m)

	old := m.unit("warren.service", "MainPID")
	rpm("--upgrade", m.bring(*next, "warren-[0-9]*.x86_64.rpm"))
	m.awaitRestart(old)
	w.reached(p, "after an upgrade by rpm")
	if said := m.must("warren", "version"); !strings.Contains(said, "900.0.0") {
		t.Errorf("the new version says %q", said)
	}
	m.await("up after the upgrade", func(s *warrennet.Status) bool { return s.State == "up" && s.Coordinator.Connected })

	m.must("warren", "up", "--kill-switch")
	rpm("--erase", "warren", "warren-coordinator")
	m.must("rm", "-r", "/var/lib/warren", "/var/log/warren", "/var/lib/private/warren-coordinator", "/var/lib/warren-coordinator") // rpm purges nothing
	for _, line := range m.look() {
		// rpm's own, and directories that there are on every system of its.
		if !slices.Contains(before, line) && !regexp.MustCompile(`^file (/var/lib/rpm/|\S*/\.rpmdb/|/usr/share/(fish|fish/vendor_completions\.d|zsh|zsh/site-functions|licenses) d )`).MatchString(line) {
			t.Errorf("left after removal: %s", line)
		}
	}
}
