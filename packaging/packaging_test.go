package packaging

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// directive is a line of a unit.
func directives(t *testing.T, name string) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for line := range strings.Lines(Systemd(name)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			out[key] = append(out[key], value)
		}
	}
	return out
}

// TestRelayIsConfinedAsTheCoordinator: their units differ in what they run, and in nothing that confines them.
func TestRelayIsConfinedAsTheCoordinator(t *testing.T) {
	coordinator, relay := directives(t, "warren-coordinator"), directives(t, "warren-relay")
	for _, own := range []string{"Description", "Documentation", "ExecStart", "ExecReload", "User", "StateDirectory", "EnvironmentFile"} {
		delete(coordinator, own)
		delete(relay, own)
	}
	if diff := cmp.Diff(coordinator, relay); diff != "" {
		t.Errorf("warren-relay.service (+) against warren-coordinator.service (-): %s", diff)
	}
}

// TestScripts: OpenRC's scripts are right for a shell, name each program as "service install" looks for it, and have the units' capabilities.
func TestScripts(t *testing.T) {
	for name, command := range map[string]string{
		"warren": "\ncommand=/usr/bin/warren\n", "warren-coordinator": "\ncommand=/usr/bin/warren-coordinator\n",
		"warren-relay": "\ncommand=/usr/bin/warren-coordinator\n", "warren-killswitch": "\t/usr/sbin/nft -f /var/lib/warren/killswitch.nft\n",
	} {
		script := OpenRC(name)
		if !strings.HasPrefix(script, "#!/sbin/openrc-run\n") || strings.Count(script, command) != 1 {
			t.Errorf("%s: it has not once %q", name, command)
		}
		if out, err := exec.Command("sh", "-n", filepath.Join("openrc", name)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if name == "warren-killswitch" {
			continue
		}
		var want []string
		for _, c := range strings.Fields(directives(t, name)["CapabilityBoundingSet"][0]) {
			want = append(want, strings.ToLower(strings.TrimPrefix(c, "CAP_")))
		}
		if !strings.Contains(script, " --no-new-privs --bounding-set=") && !strings.Contains(script, `"--no-new-privs --bounding-set=`) {
			t.Errorf("%s lets it get new rights", name)
		}
		if rights := "-all,+" + strings.Join(want, ",+"); !strings.Contains(script, rights) {
			t.Errorf("%s has not %s", name, rights)
		}
		for _, line := range []string{"umask=0077", "respawn_max=0"} {
			if !strings.Contains(script, "\n"+line+"\n") {
				t.Errorf("%s has not %s", name, line)
			}
		}
	}
}

// TestUnitsNameTheirPrograms as "service install" looks for them.
func TestUnitsNameTheirPrograms(t *testing.T) {
	for name, program := range map[string]string{"warren": "warren", "warren-coordinator": "warren-coordinator", "warren-relay": "warren-coordinator"} {
		if got := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/`+program+` `).FindAllString(Systemd(name), -1); len(got) != 1 {
			t.Errorf("%s starts %q", name, got)
		}
	}
}
