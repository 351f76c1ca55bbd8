package unitjob

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestUnitOf(t *testing.T) {
	for groups, want := range map[string]string{
		"0::/system.slice/warren.service\n":                                              "warren.service",
		"0::/system.slice/system-warren.slice/warren@a.service\n":                        "warren@a.service",
		"0::/system.slice/warren.service/inner\n":                                        "warren.service",
		"12:pids:/system.slice/x.service\n1:name=systemd:/system.slice/warren.service\n": "warren.service",
		"12:pids:/system.slice/x.service\n":                                              "",
		"0::/user.slice/user-0.slice/session-1.scope\n":                                  "",
		"0::/user.slice/user-0.slice/user@0.service/app.slice\n":                         "",
		"0::/\n": "", "": "", "nonsense": "", "0::": "", "0::/-x.service": "",
	} {
		if got, ok := unitOf(groups); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v, want %q", groups, got, ok, want)
		}
	}
}

func TestRestarts(t *testing.T) {
	for jobs, want := range map[string]bool{
		"1234 warren.service restart running\n":                                 true,
		"1234 warren.service restart waiting\n":                                 true,
		" 1234 warren.service   try-restart   running \n":                       true,
		"1234 warren.service stop running\n":                                    false,
		"1234 warren.service start waiting\n":                                   false,
		"1 other.service restart running\n2 warren.service stop running\n":      false,
		"1 other-warren.service restart running\n2 x.service restart running\n": false,
		"No jobs running.\n":                                                    false,
		"No jobs listed.\n":                                                     false,
		"":                                                                      false, "restart": false, "1 warren.service": false,
	} {
		if got := restarts(jobs, "warren.service"); got != want {
			t.Errorf("%q: %v", jobs, got)
		}
	}
}

// TestRestarting asks a systemctl that is played, about the unit that the environment names.
func TestRestarting(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	t.Setenv(Variable, "warren@a.service")
	for script, want := range map[string]struct {
		again bool
		says  string
	}{
		"echo 7 warren@a.service restart running":                               {true, ""},
		"echo 7 warren@a.service stop running":                                  {false, ""},
		"echo \"7 $7 restart running\"":                                         {true, ""}, // the unit comes last
		"[ -e $0.2 ] || { : >$0.2; kill -TERM $$; }; echo 7 $7 restart running": {true, ""}, // it is killed once
		"kill -TERM $$":                                   {false, "signal"},
		"echo nobody there >&2; exit 1":                   {false, "nobody there"},
		"echo 7 warren@a.service restart running; exit 1": {false, "exit status 1"},
	} {
		if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		again, err := Restarting(t.Context())
		if again != want.again || (err == nil) != (want.says == "") || err != nil && !strings.Contains(err.Error(), want.says) {
			t.Errorf("%s: %v, %v", script, again, err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "systemctl")); err != nil {
		t.Fatal(err)
	}
	if again, err := Restarting(t.Context()); again || err == nil {
		t.Errorf("without systemctl: %v, %v", again, err)
	}
}

// TestNoService: who belongs to no service hears that, rather than a guess.
func TestNoService(t *testing.T) {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	unit, err := ownUnit()
	if want, ok := unitOf(string(groups)); unit != want || errors.Is(err, ErrNoService) == ok {
		t.Errorf("unit %q, %v; want %q", unit, err, want)
	}
}
