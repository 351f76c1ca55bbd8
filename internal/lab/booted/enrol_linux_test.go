//go:build booted

package booted

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"warren/internal/lab/warrennet"
	"warren/internal/sim/natmodel"
)

// TestEnrolFromFile: as cloud-init would, a token and settings are written before the package is there. The device joins by itself and the token is gone;
// later settings count after a reload, and a file with a mistake changes nothing.
func TestEnrolFromFile(t *testing.T) {
	w := newWorld(t)
	token, err := w.Token(w.ctx)
	must(t, err)
	m := w.machine("server", natmodel.Easy())
	must(t, m.WriteFile("/etc/warren/token", []byte(token+"\n"), 0o600))
	must(t, m.Write("/etc/warren/agent.toml", "name = \"web\"\naccept-routes = false\n"))
	must(t, m.Boot(w.ctx))
	m.must("apt-get", "--option", "Dpkg::Options::=--force-confold", "install", "--quiet", "--yes", "--no-install-recommends", m.bring(*now, "warren_*_amd64.deb"))
	s := m.await("joined by itself", func(s *warrennet.Status) bool { return s.State == "up" && s.Coordinator.Connected })
	if s.Self.Name != "web" {
		t.Errorf("it is called %q", s.Self.Name)
	}
	m.refused("test", "-e", "/etc/warren/token")
	w.reached(w.peer(m), "with the token used")
	for _, name := range []string{"authority", "state.json", "token"} {
		if found, err := filepath.Glob(filepath.Join(m.dir, "changes/etc/warren", name)); err != nil {
			t.Fatal(err)
		} else if len(found) > 0 {
			if info, err := os.Lstat(found[0]); err != nil || info.Mode().IsRegular() {
				t.Errorf("%s is still on the disk: %v", found[0], err)
			}
		}
	}
	if said := m.Journal(w.ctx); strings.Contains(said, strings.TrimSpace(token)) {
		t.Error("the token is in the journal")
	}

	m.must("warren", "config", "check")
	if config := m.must("warren", "config"); !strings.Contains(config, "accept-routes") {
		t.Errorf("warren config says %s", config)
	}
	pid := m.unit("warren.service", "MainPID")
	must(t, m.Write("/etc/warren/agent.toml", "name = \"web\"\nlog-level = \"debug\"\nadvertise = [\"10.9.0.0/16\"]\n"))
	m.must("systemctl", "reload", "warren.service")
	m.await("advertising", func(s *warrennet.Status) bool {
		return len(s.Advertised) == 1 && s.Advertised[0].Prefix == "10.9.0.0/16"
	})
	must(t, m.Write("/etc/warren/agent.toml", "name = \"web\"\nadvertize = [\"10.9.0.0/16\"]\n"))
	t.Logf("warren config check says: %s", m.refused("warren", "config", "check"))
	m.must("systemctl", "reload", "warren.service")
	m.said("/etc/warren/agent.toml:2")
	if s, err := m.status(); err != nil || len(s.Advertised) != 1 {
		t.Errorf("a file with a mistake has changed something: %+v, %v", s, err)
	}
	if got := m.unit("warren.service", "MainPID"); got != pid {
		t.Errorf("a reload made process %s of %s", got, pid)
	}
}

// TestEnrolByCredential: systemd hands the token over.
func TestEnrolByCredential(t *testing.T) {
	w := newWorld(t)
	token, err := w.Token(w.ctx)
	must(t, err)
	m := w.booted("server")
	must(t, m.WriteFile("/root/warren.token", []byte(token), 0o600))
	m.dropIn("warren.service", "[Service]\nLoadCredential=warren.token:/root/warren.token\n")
	m.must("systemctl", "restart", "warren.service")
	m.await("joined", func(s *warrennet.Status) bool { return s.State == "up" && s.Coordinator.Connected })
	w.reached(w.peer(m), "after it was enrolled by a credential")
}
