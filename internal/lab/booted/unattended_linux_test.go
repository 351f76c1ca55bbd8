//go:build booted

package booted

import (
	"regexp"
	"strings"
	"testing"

	"warren/internal/lab/warrennet"
	"warren/internal/sim/natmodel"
)

// fenced is the one fenced block of a page that begins with a line, which stays.
func fenced(t *testing.T, page, first string) string {
	t.Helper()
	found := regexp.MustCompile("(?ms)^```[a-z]+\n("+regexp.QuoteMeta(first)+"\n.*?)^```$").FindAllStringSubmatch(docs(t, page), -1)
	if len(found) != 1 {
		t.Fatalf("%s has %d blocks that begin with %q", page, len(found), first)
	}
	return found[0][1]
}

// brought has the agent's package at a path of the machine.
func (m *machine) brought(path string) {
	m.w.t.Helper()
	at := m.bring(*now, "warren_*_amd64.deb")
	if m.run == nil {
		must(m.w.t, m.WriteFile(path, []byte(read(m.w.t, m.dir+"/changes"+at)), 0o644))
		return
	}
	m.must("cp", at, path)
}

// TestCloudInit: a machine whose first boot has the example of docs/unattended.md as user data installs the agent, joins and advertises what it says.
func TestCloudInit(t *testing.T) {
	debian := root(t, Tooled())
	w := newWorld(t)
	token, err := w.Token(w.ctx)
	must(t, err)
	m := w.with(debian, "cloud", natmodel.Easy())
	data := replace(t, fenced(t, "unattended.md", "#cloud-config"), "wrn1…", token)
	must(t, m.Write("/var/lib/cloud/seed/nocloud/user-data", data))
	must(t, m.Write("/var/lib/cloud/seed/nocloud/meta-data", "instance-id: cloud-1\nlocal-hostname: cloud\n"))
	must(t, m.Write("/etc/cloud/cloud.cfg.d/99-lab.cfg", "network: {config: disabled}\nlocale: false\n")) // the network is the lab's, and locales are none generated
	m.brought("/root/warren.deb")
	must(t, m.Boot(w.ctx))
	t.Logf("cloud-init: %s", strings.TrimSpace(m.must("cloud-init", "status", "--wait", "--long")))
	m.must("cloud-init", "schema", "--config-file", "/var/lib/cloud/seed/nocloud/user-data")
	m.await("joined by itself", func(s *warrennet.Status) bool {
		return connected(s) && len(s.Advertised) == 1 && s.Advertised[0].Prefix == "10.20.0.0/16"
	})
	m.refused("test", "-e", "/etc/warren/token")
	w.reached(w.peer(m), "enrolled by cloud-init")
}

// recap are the counts that Ansible ends with.
var recap = regexp.MustCompile(`ok=(\d+)\s+changed=(\d+)\s+unreachable=0\s+failed=0`)

// TestAnsible: the playbook of docs/unattended.md installs the agent and has it join. Played again it changes nothing; other settings are reloaded, and those with
// a mistake are not put there.
func TestAnsible(t *testing.T) {
	debian := root(t, Tooled())
	w := newWorld(t)
	token, err := w.Token(w.ctx)
	must(t, err)
	m := w.with(debian, "server", natmodel.Easy())
	must(t, m.Boot(w.ctx))
	m.brought("/root/warren.deb")
	playbook := fenced(t, "unattended.md", "- hosts: all")
	play := func(playbook string) (string, error) {
		t.Helper()
		must(t, m.Write("/root/playbook.yaml", playbook))
		return m.Output(w.ctx, "ansible-playbook", "--connection", "local", "--inventory", "localhost,", "--extra-vars", "warren_token="+token, "/root/playbook.yaml")
	}
	played := func(playbook string) (changed string) {
		t.Helper()
		said, err := play(playbook)
		must(t, err)
		counts := recap.FindStringSubmatch(said)
		if counts == nil {
			t.Fatalf("ansible-playbook says %s", said)
		}
		return counts[2]
	}
	if changed := played(playbook); changed != "4" {
		t.Errorf("at first %s tasks and handlers changed something, not package, settings, token and reload", changed)
	}
	m.await("joined by itself", connected)
	m.until("without the token's file", func() (bool, string) {
		out, err := m.Output(w.ctx, "sh", "-c", "ls /etc/warren; ! test -e /etc/warren/token")
		return err == nil, out
	})
	w.reached(w.peer(m), "enrolled by Ansible")
	if config := m.must("warren", "config"); !regexp.MustCompile(`accept-routes +false`).MatchString(config) {
		t.Errorf("warren config says %s", config)
	}
	if changed := played(playbook); changed != "0" {
		t.Errorf("played again it changes %s things", changed)
	}
	pid := m.unit("warren.service", "MainPID")
	if changed := played(replace(t, playbook, "accept-routes = false", `advertise = ["10.9.0.0/16"]`)); changed != "2" {
		t.Errorf("with other settings %s things changed, not settings and reload", changed)
	}
	advertising := func(s *warrennet.Status) bool {
		return len(s.Advertised) == 1 && s.Advertised[0].Prefix == "10.9.0.0/16"
	}
	m.await("advertising", advertising)
	said, err := play(replace(t, playbook, "accept-routes = false", "accept-routs = false"))
	if err == nil || !strings.Contains(said, "accept-routs") {
		t.Errorf("settings with a mistake: %v: %s", err, said)
	}
	m.await("still advertising", advertising)
	if again := m.unit("warren.service", "MainPID"); again != pid {
		t.Errorf("process %s became %s", pid, again)
	}
}
