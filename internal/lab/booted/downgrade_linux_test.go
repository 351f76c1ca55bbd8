//go:build booted

package booted

import (
	"flag"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/internal/lab/warrennet"
)

var newer = flag.String("newer", "", "packages of a higher version whose programs write state that those of this commit do not know, as \"packaging/build -newer\" makes them")

// downgrade has apt put this commit's package in the place of a newer one, which may fail.
func (m *machine) downgrade(program string) (string, error) {
	m.w.t.Helper()
	return m.Output(m.w.ctx, "apt-get", "install", "--quiet", "--yes", "--allow-downgrades", "--no-install-recommends", m.bring(*now, program+"_*_amd64.deb"))
}

// numbers are those in which a refusal says what there is and what is known.
func numbers(t *testing.T, said, what string) (there, known string) {
	t.Helper()
	m := regexp.MustCompile(what + ` (\d+), this one knows (\d+)`).FindStringSubmatch(said)
	if m == nil {
		t.Fatalf("it does not say which %s there is and which is known: %s", what, said)
	}
	return m[1], m[2]
}

// TestDowngrade: apt refuses to put an older agent in the place of one that runs and whose state the older does not know, and all goes on. Where it was stopped
// the older is installed, and refuses the state; with the newer again the device is what it was, and without the state the older joins anew.
func TestDowngrade(t *testing.T) {
	w := newWorld(t)
	m, p := w.joined("laptop")
	before := m.await("up", connected)
	m.install(*newer, "warren")
	m.await("up as a newer version", func(s *warrennet.Status) bool { return connected(s) && strings.Contains(s.Version, "901.0.0") })
	m.must("warren", "set", "--operator", "daemon") // which writes the state
	pid := m.unit("warren.service", "MainPID")

	said, err := m.downgrade("warren")
	if err == nil {
		t.Fatalf("apt goes back to an older version: %s", said)
	}
	layout, known := numbers(t, said, "layout")
	t.Logf("apt says: %s", said[strings.Index(said, "warren: "):])
	if !strings.Contains(said, "systemctl stop warren") || layout <= known {
		t.Errorf("apt says %s", said)
	}
	m.await("still up", func(s *warrennet.Status) bool { return connected(s) && strings.Contains(s.Version, "901.0.0") })
	if again := m.unit("warren.service", "MainPID"); again != pid {
		t.Errorf("process %s became %s", pid, again)
	}
	if audit := m.must("dpkg", "--audit"); audit != "" {
		t.Errorf("dpkg --audit says %s", audit)
	}
	w.reached(p, "after the refusal")

	m.must("systemctl", "stop", "warren")
	_, err = m.downgrade("warren")
	must(t, err)
	m.said("written by a newer warren (layout " + layout + ", this one knows " + known + "); install that version again")
	m.install(*newer, "warren")
	after := m.await("up with the newer again", connected)
	if diff := cmp.Diff(before.Self, after.Self); diff != "" {
		t.Errorf("before the upgrade (-) and after the way back and forth (+):\n%s", diff)
	}
	w.reached(p, "with the newer again")

	m.must("systemctl", "stop", "warren")
	_, err = m.downgrade("warren")
	must(t, err)
	m.must("systemctl", "stop", "warren")
	m.must("mv", "/var/lib/warren", "/var/lib/warren.newer")
	m.must("systemctl", "start", "warren")
	token, err := w.Token(w.ctx)
	must(t, err)
	if said := m.refused("warren", "up", "--name", "laptop", token); !strings.Contains(said, "--name") {
		t.Errorf("with the name of the device that it was: %s", said)
	}
	m.must("warren", "up", "--name", "laptop-again", token)
	p.addr = m.address()
	w.reached(p, "with the older, which has joined anew")
}

// TestCoordinatorDowngrade: the same for the coordinator, which goes back to the database that was kept before the upgrade, with the device that was there.
func TestCoordinatorDowngrade(t *testing.T) {
	w := newWorld(t)
	m := w.hub()
	d := w.join(m, "laptop")
	devices := m.devices()
	serving := func(version string) {
		t.Helper()
		m.until("serving as "+version, func() (bool, string) {
			out, err := m.Output(w.ctx, "sh", "-c", "warren-coordinator version && warren-coordinator device list")
			return err == nil && strings.Contains(out, version), out
		})
		_, err := d.Await(w.ctx, "connected", func(s *warrennet.Status) bool { return s.Coordinator.Connected })
		must(t, err)
	}
	m.install(*newer, "warren-coordinator")
	serving("901.0.0")
	pid := m.unit("warren-coordinator.service", "MainPID")

	said, err := m.downgrade("warren-coordinator")
	if err == nil {
		t.Fatalf("apt goes back to an older version: %s", said)
	}
	schema, known := numbers(t, said, "schema")
	t.Logf("apt says: %s", said[strings.Index(said, "warren-coordinator: the"):])
	if schema <= known {
		t.Errorf("apt says %s", said)
	}
	serving("901.0.0")
	if again := m.unit("warren-coordinator.service", "MainPID"); again != pid {
		t.Errorf("process %s became %s", pid, again)
	}

	m.must("systemctl", "stop", "warren-coordinator")
	_, err = m.downgrade("warren-coordinator")
	must(t, err)
	m.until("refusing the database", func() (bool, string) {
		out := m.Journal(w.ctx, "--unit=warren-coordinator.service", "--lines=20")
		return strings.Contains(out, "schema "+schema+", this one knows "+known) && strings.Contains(out, "restore --replace"), last(out, 2000)
	})
	m.must("systemctl", "stop", "warren-coordinator")
	restore := replace(t, typed(t, "backup.md", "sudo warren-coordinator restore --replace /var/lib/warren-coordinator/"), "sudo ", "", "before-N", "before-"+schema)
	t.Logf("restore says: %s", m.must("sh", "-c", restore))
	m.must("systemctl", "start", "warren-coordinator")
	version, err := filepath.Glob(filepath.Join(*now, "warren-coordinator_*_amd64.deb"))
	must(t, err)
	serving(regexp.MustCompile(`_([0-9.]+)`).FindStringSubmatch(filepath.Base(version[0]))[1])
	if diff := cmp.Diff(devices, m.devices()); diff != "" {
		t.Errorf("devices before the upgrade (-) and after the way back (+): %s", diff)
	}
}
