package sysservice

import (
	"context"
	"errors"
	"strings"
)

const launchdDir = "/Library/LaunchDaemons"

// Launchd is the manager of macOS.
type Launchd struct{ Host }

func plistPath(s Service) string { return launchdDir + "/" + s.Name + ".plist" }

func (m Launchd) files(s Service, program string) []file {
	var args strings.Builder
	for _, a := range append([]string{program}, s.Args...) {
		args.WriteString("\t\t<string>" + a + "</string>\n")
	}
	return []file{{plistPath(s), `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- ` + marker + program + ` -->
<plist version="1.0">
<dict>
	<key>Label</key>
	<string>` + s.Name + `</string>
	<key>ProgramArguments</key>
	<array>
` + args.String() + `	</array>
	<key>RunAtLoad</key>
	<true/>
	<key>KeepAlive</key>
	<true/>
	<key>ThrottleInterval</key>
	<integer>2</integer>
	<key>ExitTimeOut</key>
	<integer>30</integer>
	<key>Umask</key>
	<integer>63</integer>
	<key>SoftResourceLimits</key>
	<dict>
		<key>NumberOfFiles</key>
		<integer>65536</integer>
	</dict>
	<key>StandardOutPath</key>
	<string>/var/log/` + s.Name + `.log</string>
	<key>StandardErrorPath</key>
	<string>/var/log/` + s.Name + `.log</string>
</dict>
</plist>
`, 0o644}}
}

// Install implements Manager.
func (m Launchd) Install(ctx context.Context, s Service, program string) error {
	if err := m.mayInstall(program); err != nil {
		return err
	}
	if _, err := m.write(m.files(s, program), program); err != nil {
		return err
	}
	if err := m.settings(s.Settings); err != nil {
		return err
	}
	return m.load(ctx, s)
}

// loaded tells whether launchd has the service, running or not, and what it says of it.
func (m Launchd) loaded(ctx context.Context, s Service) (string, bool) {
	out, err := m.Command(ctx, "launchctl", "print", "system/"+s.Name)
	return out, err == nil
}

func (m Launchd) load(ctx context.Context, s Service) error {
	if _, loaded := m.loaded(ctx, s); loaded {
		return nil
	}
	return errors.Join(m.run(ctx, "launchctl", "enable", "system/"+s.Name), m.run(ctx, "launchctl", "bootstrap", "system", plistPath(s)))
}

func (m Launchd) unload(ctx context.Context, s Service) error {
	if _, loaded := m.loaded(ctx, s); !loaded {
		return nil
	}
	return m.run(ctx, "launchctl", "bootout", "system/"+s.Name)
}

// Uninstall implements Manager.
func (m Launchd) Uninstall(ctx context.Context, s Service) error {
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
	st, err := m.status("launchd", plistPath(s))
	if err != nil {
		return err
	}
	if err := m.unload(ctx, s); err != nil {
		return err
	}
	if err := m.remove(there); err != nil {
		return err
	}
	return m.after(ctx, s, st.Program)
}

func (m Launchd) do(ctx context.Context, s Service, what func(context.Context, Service) error) error {
	if err := m.allowed(); err != nil {
		return err
	}
	st, err := m.status("launchd", plistPath(s))
	if err != nil {
		return err
	}
	if !st.Installed() {
		return ErrNotInstalled
	}
	return what(ctx, s)
}

// Start implements Manager.
func (m Launchd) Start(ctx context.Context, s Service) error { return m.do(ctx, s, m.load) }

// Stop implements Manager. The service starts again with the system: one that is only stopped, launchd keeps alive.
func (m Launchd) Stop(ctx context.Context, s Service) error { return m.do(ctx, s, m.unload) }

// Restart implements Manager.
func (m Launchd) Restart(ctx context.Context, s Service) error {
	return m.do(ctx, s, func(ctx context.Context, s Service) error {
		if _, loaded := m.loaded(ctx, s); !loaded {
			return m.load(ctx, s)
		}
		return m.run(ctx, "launchctl", "kickstart", "-k", "system/"+s.Name)
	})
}

// Status implements Manager.
func (m Launchd) Status(ctx context.Context, s Service) (Status, error) {
	st, err := m.status("launchd", plistPath(s))
	if err != nil || !st.Installed() {
		return st, err
	}
	st.Enabled = true // whatever is in the directory is loaded at the start
	out, loaded := m.loaded(ctx, s)
	st.Running = loaded && strings.Contains(out, "state = running")
	return st, nil
}
