package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// supervised are the scripts whose programs supervise-daemon runs.
var supervised = []string{"warren", "warren-coordinator", "warren-relay"}

// openrc runs lines in a script as openrc-run does, but that OpenRC's own commands are functions, which say what they are called with. files are the programs
// there are, by name. It gives what was said.
func openrc(t *testing.T, script string, files map[string]string, lines string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("openrc", script))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const commands = "checkpath() { :; }\nid() { :; }\newarn() { echo \"warning: $*\"; }\nmark_service_started() { echo \"marked $*\"; }\n"
	cmd := exec.Command("/bin/sh", "-ec", commands+". "+path+"\n"+lines)
	cmd.Env = []string{"PATH=" + dir, "RC_SVCNAME=" + script}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return strings.ReplaceAll(string(out), dir+"/", "")
}

// TestScriptsNeedSetpriv: setpriv of util-linux confines the program; where there is none, or that of busybox, start_pre says what is missing.
func TestScriptsNeedSetpriv(t *testing.T) {
	const lines = "start_pre\necho \"runs $command $command_args\"\necho \"as ${command_user} with ${capabilities}\"\n"
	const busybox = `echo "setpriv: unrecognized option: bounding-set=-all" >&2; exit 1`
	for _, name := range supervised {
		own := map[string]string{"warren": "as  with \n"}[name]
		if own == "" {
			own = "as " + name + ":" + name + " with ^cap_net_bind_service\n"
		}
		for what, tt := range map[string]struct {
			files    map[string]string
			confined bool
		}{
			"that of util-linux": {map[string]string{"setpriv": ""}, true},
			"that of busybox":    {map[string]string{"setpriv": busybox}, false},
			"none":               {nil, false},
		} {
			t.Run(name+" with "+what, func(t *testing.T) {
				got := openrc(t, name, tt.files, lines)
				if warned := strings.Contains(got, "warning: setpriv of util-linux is missing") && strings.Contains(got, "apk add setpriv"); warned == tt.confined {
					t.Errorf("it says %q", got)
				}
				if confined := strings.Contains(got, "runs setpriv --") && strings.HasSuffix(got, "\nas  with \n"); confined != tt.confined {
					t.Errorf("confined: %t, want %t: %q", confined, tt.confined, got)
				}
				if !tt.confined && (!strings.Contains(got, "\nruns /usr/bin/warren") || !strings.HasSuffix(got, own)) {
					t.Errorf("unconfined it is %q", got)
				}
			})
		}
	}
}

// TestScriptsMarkARestartAsStarted: what OpenRC does not mark as starting, it does not mark as started either.
func TestScriptsMarkARestartAsStarted(t *testing.T) {
	for _, name := range supervised {
		for status, want := range map[string]string{"0": "", "1": "marked " + name + "\n"} {
			if got := openrc(t, name, nil, "service_starting() { return "+status+"; }\nstart_post\n"); got != want {
				t.Errorf("%s, with status %s of service_starting: %q, want %q", name, status, got, want)
			}
		}
	}
}

// TestSupervisedIsEveryScript that supervise-daemon runs.
func TestSupervisedIsEveryScript(t *testing.T) {
	found, err := filepath.Glob("openrc/*")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, path := range found {
		if strings.Contains(OpenRC(filepath.Base(path)), "\nsupervisor=supervise-daemon\n") {
			got = append(got, filepath.Base(path))
		}
	}
	if !slices.Equal(got, supervised) {
		t.Errorf("%q are supervised, want %q", got, supervised)
	}
}
