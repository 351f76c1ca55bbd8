package sysservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

const (
	systemdDir = "/etc/systemd/system"
	// systemdRunning is there when systemd is the system's manager (sd_booted(3)).
	systemdRunning = "/run/systemd/system"
)

// systemdPackages are where packages have units.
var systemdPackages = [...]string{"/usr/lib/systemd/system", "/lib/systemd/system"}

// Systemd is the manager of most Linux systems.
type Systemd struct{ Host }

func unitFile(dir, name string) string { return dir + "/" + name + ".service" }

func (m Systemd) files(s Service, program string) (out []file) {
	for _, u := range s.Systemd {
		text := strings.ReplaceAll(u.Text, "="+s.Packaged+" ", "="+program+" ")
		out = append(out, file{unitFile(systemdDir, u.Name), "# " + marker + program + "\n" + text, 0o644})
	}
	return out
}

// Install implements Manager.
func (m Systemd) Install(ctx context.Context, s Service, program string) error {
	if err := m.mayInstall(program); err != nil {
		return err
	}
	for _, dir := range systemdPackages {
		if _, err := os.Stat(m.path(unitFile(dir, s.Name))); err == nil {
			return fmt.Errorf("%s: %w; use systemctl enable --now %s, or remove the package", unitFile(dir, s.Name), ErrForeign, s.Name)
		}
	}
	if _, err := m.write(m.files(s, program), program); err != nil {
		return err
	}
	if err := m.settings(s.Settings); err != nil {
		return err
	}
	if err := m.run(ctx, "systemctl", "daemon-reload"); err != nil {
		return err
	}
	for _, u := range s.Systemd {
		if err := m.run(ctx, "systemctl", append([]string{"enable"}, nowUnless(u.Early, u.Name)...)...); err != nil {
			return err
		}
	}
	return nil
}

func nowUnless(early bool, name string) []string {
	if early {
		return []string{name}
	}
	return []string{"--now", name}
}

// Uninstall implements Manager.
func (m Systemd) Uninstall(ctx context.Context, s Service) error {
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
	st, err := m.status("systemd", there[0].path)
	if err != nil {
		return err
	}
	for _, u := range s.Systemd {
		if _, err := os.Stat(m.path(unitFile(systemdDir, u.Name))); err != nil {
			continue
		}
		if err := m.run(ctx, "systemctl", append([]string{"disable"}, nowUnless(u.Early, u.Name)...)...); err != nil {
			return err
		}
	}
	if err := errors.Join(m.remove(there), m.run(ctx, "systemctl", "daemon-reload")); err != nil {
		return err
	}
	return m.after(ctx, s, st.Program)
}

func (m Systemd) do(ctx context.Context, s Service, verb string) error {
	if err := m.allowed(); err != nil {
		return err
	}
	st, err := m.find(s)
	if err != nil {
		return err
	}
	if !st.Installed() {
		return ErrNotInstalled
	}
	return m.run(ctx, "systemctl", verb, s.Name)
}

// Start implements Manager.
func (m Systemd) Start(ctx context.Context, s Service) error { return m.do(ctx, s, "start") }

// Stop implements Manager.
func (m Systemd) Stop(ctx context.Context, s Service) error { return m.do(ctx, s, "stop") }

// Restart implements Manager.
func (m Systemd) Restart(ctx context.Context, s Service) error { return m.do(ctx, s, "restart") }

func (m Systemd) find(s Service) (Status, error) {
	paths := []string{unitFile(systemdDir, s.Name)}
	for _, dir := range systemdPackages {
		paths = append(paths, unitFile(dir, s.Name))
	}
	return m.status("systemd", paths...)
}

// Status implements Manager.
func (m Systemd) Status(ctx context.Context, s Service) (Status, error) {
	st, err := m.find(s)
	if err != nil || !st.Installed() {
		return st, err
	}
	// Both end with a status that is not 0 where the answer is no.
	enabled, _ := m.Command(ctx, "systemctl", "is-enabled", s.Name)
	active, _ := m.Command(ctx, "systemctl", "is-active", s.Name)
	st.Enabled, st.Running = enabled == "enabled", active == "active"
	return st, nil
}
