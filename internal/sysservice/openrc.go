package sysservice

import (
	"context"
	"os"
	"strings"
)

const (
	openrcDir     = "/etc/init.d"
	openrcRunning = "/run/openrc"
)

// OpenRC is the manager of Alpine Linux and Gentoo.
type OpenRC struct{ Host }

func (m OpenRC) files(s Service, program string) (out []file) {
	for _, t := range s.OpenRC {
		first, rest, _ := strings.Cut(t.Text, "\n") // which says what reads it
		rest = strings.ReplaceAll(rest, "="+s.Packaged+"\n", "="+program+"\n")
		out = append(out, file{openrcDir + "/" + t.Name, first + "\n# " + marker + program + "\n" + rest, 0o755})
	}
	return out
}

func runlevel(early bool) string {
	if early {
		return "boot"
	}
	return "default"
}

// Install implements Manager.
func (m OpenRC) Install(ctx context.Context, s Service, program string) error {
	if err := m.mayInstall(program); err != nil {
		return err
	}
	if _, err := m.write(m.files(s, program), program); err != nil {
		return err
	}
	if err := m.settings(s.Settings); err != nil {
		return err
	}
	for _, t := range s.OpenRC {
		if err := m.run(ctx, "rc-update", "add", t.Name, runlevel(t.Early)); err != nil {
			return err
		}
	}
	return m.run(ctx, "rc-service", s.Name, "start")
}

// Uninstall implements Manager.
func (m OpenRC) Uninstall(ctx context.Context, s Service) error {
	if err := m.allowed(); err != nil {
		return err
	}
	there, err := m.ours(m.files(s, ""))
	if err != nil {
		return err
	}
	if len(there) == 0 {
		return ErrNotInstalled
	}
	st, err := m.status("OpenRC", there[0].path)
	if err != nil {
		return err
	}
	for _, t := range s.OpenRC {
		if _, err := os.Stat(m.path(openrcDir + "/" + t.Name)); err != nil {
			continue
		}
		if err := m.run(ctx, "rc-service", "--ifstarted", t.Name, "stop"); err != nil {
			return err
		}
		if err := m.run(ctx, "rc-update", "delete", t.Name, runlevel(t.Early)); err != nil {
			return err
		}
	}
	if err := m.remove(there); err != nil {
		return err
	}
	return m.after(ctx, s, st.Program)
}

func (m OpenRC) do(ctx context.Context, s Service, verb string) error {
	if err := m.allowed(); err != nil {
		return err
	}
	st, err := m.status("OpenRC", openrcDir+"/"+s.Name)
	if err != nil {
		return err
	}
	if !st.Installed() {
		return ErrNotInstalled
	}
	return m.run(ctx, "rc-service", s.Name, verb)
}

// Start implements Manager.
func (m OpenRC) Start(ctx context.Context, s Service) error { return m.do(ctx, s, "start") }

// Stop implements Manager.
func (m OpenRC) Stop(ctx context.Context, s Service) error { return m.do(ctx, s, "stop") }

// Restart implements Manager.
func (m OpenRC) Restart(ctx context.Context, s Service) error { return m.do(ctx, s, "restart") }

// Status implements Manager.
func (m OpenRC) Status(ctx context.Context, s Service) (Status, error) {
	st, err := m.status("OpenRC", openrcDir+"/"+s.Name)
	if err != nil || !st.Installed() {
		return st, err
	}
	listed, err := m.Command(ctx, "rc-update", "show", "default")
	if err != nil {
		return st, err
	}
	for line := range strings.Lines(listed) {
		name, _, _ := strings.Cut(line, "|")
		st.Enabled = st.Enabled || strings.TrimSpace(name) == s.Name
	}
	_, err = m.Command(ctx, "rc-service", s.Name, "status") // its status is 0 while it runs
	st.Running = err == nil
	return st, nil
}
