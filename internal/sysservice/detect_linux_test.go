package sysservice

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDetect(t *testing.T) {
	for dir, want := range map[string]Manager{systemdRunning: Systemd{}, openrcRunning: OpenRC{}} {
		h := Host{Root: t.TempDir()}
		if _, err := detect(h); !errors.Is(err, ErrNoManager) {
			t.Errorf("none: %v", err)
		}
		if err := os.MkdirAll(h.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
		m, err := detect(h)
		_, systemd := m.(Systemd)
		if _, wanted := want.(Systemd); err != nil || systemd != wanted {
			t.Errorf("%s: %T, %v", dir, m, err)
		}
	}
}

// TestCommand runs a fake systemctl, found by the path.
func TestCommand(t *testing.T) {
	dir := t.TempDir()
	const script = "#!/bin/sh\necho \"$@\" >>\"$0.log\"\ncase $1 in is-active) echo inactive; exit 3;; enable) echo no such unit >&2; exit 1;; esac\n"
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	m := Systemd{Host{Root: t.TempDir(), Superuser: true, Command: Command}}
	err := m.Install(t.Context(), digger(), program)
	if want := "systemctl enable --now digger: no such unit"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if st, err := m.Status(t.Context(), digger()); err != nil || st.Running {
		t.Errorf("%+v, %v", st, err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "systemctl.log"))
	if want := "daemon-reload\nenable --now digger\nis-enabled digger\nis-active digger\n"; err != nil || string(got) != want {
		t.Errorf("called %q, %v", got, err)
	}
	if _, err := Command(t.Context(), "/none"); err == nil || !strings.Contains(err.Error(), "/none") {
		t.Errorf("a program that is not there: %v", err)
	}
}
