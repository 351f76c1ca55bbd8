package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/cmd/agent/internal/state"
	"warren/internal/netnstest"
	"warren/tunnel/router"
)

// cleaned is what the command says and returns, with a state directory.
func cleaned(dir string, json, lift bool) (string, error) {
	var out strings.Builder
	a := &app{state: dir, out: &out, json: json}
	err := a.runCleanUp(lift)
	return out.String(), err
}

func TestCleanUpNothing(t *testing.T) {
	netnstest.Run(t, func(t *testing.T) {
		nowhere := filepath.Join(t.TempDir(), "none")
		for _, dir := range []string{nowhere, t.TempDir()} {
			for _, lift := range []bool{false, true} {
				if out, err := cleaned(dir, false, lift); out != "" || err != nil {
					t.Errorf("%q, %v", out, err)
				}
			}
		}
		if _, err := os.Stat(nowhere); err == nil {
			t.Error("a state directory was made")
		}
		out, err := cleaned(nowhere, true, false)
		if diff := cmp.Diff("{\n  \"done\": []\n}\n", out); diff != "" || err != nil {
			t.Errorf("%v, as JSON (-want +got):\n%s", err, diff)
		}
	})
}

// TestCleanUpKillSwitch: it stays unless it is asked for, and is not set again by the next daemon then.
func TestCleanUpKillSwitch(t *testing.T) {
	netnstest.Run(t, func(t *testing.T) {
		path := t.TempDir()
		wanted := func(change bool) (on bool) {
			dir, err := state.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			s, err := dir.Load()
			if err == nil && change {
				s.Routing.KillSwitch = true
				err = dir.Save(s)
			}
			if err != nil {
				t.Fatal(err)
			}
			return s.Routing.KillSwitch
		}
		wanted(true)
		if _, err := router.HoldKillSwitch("warren0"); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			lift, on bool
			want     string
		}{{false, true, ""}, {true, false, "the kill switch is lifted\n"}, {true, false, ""}} {
			out, err := cleaned(path, false, step.lift)
			if out != step.want || err != nil {
				t.Errorf("%q, %v; want %q", out, err, step.want)
			}
			if on, err := router.KillSwitchOn(); on != step.on || wanted(false) != step.on || err != nil {
				t.Errorf("kill switch on: %t, wanted: %t, %v; want %t", on, wanted(false), err, step.on)
			}
		}
	})
}

// TestCleanUpRunning: what a daemon needs is not taken from it.
func TestCleanUpRunning(t *testing.T) {
	netnstest.Run(t, func(t *testing.T) {
		path := t.TempDir()
		dir, err := state.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		if _, err := router.HoldKillSwitch("warren0"); err != nil {
			t.Fatal(err)
		}
		if out, err := cleaned(path, false, true); err == nil || out != "" || !strings.Contains(err.Error(), `"warren down"`) {
			t.Errorf("%q, %v", out, err)
		}
		if on, err := router.KillSwitchOn(); !on || err != nil {
			t.Errorf("the kill switch is gone: %v", err)
		}
	})
}

// TestCleanUpDamaged: a journal that cannot be read is told of, with what was done all the same.
func TestCleanUpDamaged(t *testing.T) {
	netnstest.Run(t, func(t *testing.T) {
		path := t.TempDir()
		if err := os.WriteFile(state.JournalFile(path), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := router.HoldKillSwitch("warren0"); err != nil {
			t.Fatal(err)
		}
		out, err := cleaned(path, false, true)
		if err == nil || !strings.Contains(err.Error(), path) || out != "the kill switch is lifted\n" {
			t.Errorf("%q, %v", out, err)
		}
		if out, err := cleaned(path, false, true); out != "" || err != nil {
			t.Errorf("once more: %q, %v", out, err)
		}
	})
}
