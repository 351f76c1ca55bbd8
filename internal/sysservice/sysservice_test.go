//go:build !windows

package sysservice

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// system is a fake one: files below a directory, and programs that note how they are called.
type system struct {
	Host
	t      *testing.T
	called []string
	// answers are what programs write, by how they are called; what begins with "!" is with an error.
	answers map[string]string
}

func newSystem(t *testing.T) *system {
	s := &system{t: t, answers: map[string]string{}}
	s.Host = Host{Root: t.TempDir(), Superuser: true, Command: func(_ context.Context, name string, args ...string) (string, error) {
		line := strings.Join(append([]string{name}, args...), " ")
		s.called = append(s.called, line)
		if text, broken := strings.CutPrefix(s.answers[line], "!"); broken {
			return text, errors.New(line + ": " + text)
		}
		return s.answers[line], nil
	}}
	return s
}

// calls gives what was called since the last time.
func (s *system) calls() []string { defer func() { s.called = nil }(); return s.called }

// files are all there are, with their texts.
func (s *system) files() map[string]string {
	s.t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(s.Root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, s.Root)] = string(b)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *system) put(path, text string) {
	s.t.Helper()
	if err := writeFile(s.path(path), text, 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func digger() Service {
	return Service{
		Name: "digger", Title: "The digger", Packaged: "/usr/bin/dig",
		Systemd: []Text{
			{Name: "digger", Text: "[Service]\nExecStart=/usr/bin/dig deep $FLAGS\nExecReload=/bin/true\nProtectHome=yes\n"},
			{Name: "digger-early", Text: "[Service]\nExecStart=/usr/bin/digger-other x\n", Early: true},
		},
		OpenRC: []Text{
			{Name: "digger", Text: "#!/sbin/openrc-run\ncommand=/usr/bin/dig\ncommand_args=\"deep ${flags}\"\n"},
			{Name: "digger-early", Text: "#!/sbin/openrc-run\nstart() {\n\ttrue\n}\n", Early: true},
		},
		Settings: []Settings{{"/etc/digger.toml", "#depth = 3\n"}},
		Args:     []string{"deep"},
		After:    []string{"cleanup"},
	}
}

const program = "/usr/local/bin/dig"

// kind is one manager under test, and what it is to do.
type kind struct {
	manager   func(Host) Manager
	files     map[string]string
	install   []string
	again     []string // installed once more
	uninstall []string
	running   map[string]string // answers that say so
	stopped   map[string]string
}

func kinds() map[string]kind {
	return map[string]kind{
		"systemd": {
			manager: func(h Host) Manager { return Systemd{h} },
			files: map[string]string{
				"/etc/systemd/system/digger.service": "# written by \"service install\" for /usr/local/bin/dig\n[Service]\nExecStart=/usr/local/bin/dig deep $FLAGS\n" +
					"ExecReload=/bin/true\nProtectHome=yes\n",
				"/etc/systemd/system/digger-early.service": "# written by \"service install\" for /usr/local/bin/dig\n[Service]\nExecStart=/usr/bin/digger-other x\n",
			},
			install:   []string{"systemctl daemon-reload", "systemctl enable --now digger", "systemctl enable digger-early"},
			again:     []string{"systemctl daemon-reload", "systemctl enable --now digger", "systemctl enable digger-early"},
			uninstall: []string{"systemctl disable --now digger", "systemctl disable digger-early", "systemctl daemon-reload", "/usr/local/bin/dig cleanup"},
			running:   map[string]string{"systemctl is-enabled digger": "enabled", "systemctl is-active digger": "active"},
			stopped:   map[string]string{"systemctl is-enabled digger": "!disabled", "systemctl is-active digger": "!inactive"},
		},
		"OpenRC": {
			manager: func(h Host) Manager { return OpenRC{h} },
			files: map[string]string{
				"/etc/init.d/digger":       "#!/sbin/openrc-run\n# written by \"service install\" for /usr/local/bin/dig\ncommand=/usr/local/bin/dig\ncommand_args=\"deep ${flags}\"\n",
				"/etc/init.d/digger-early": "#!/sbin/openrc-run\n# written by \"service install\" for /usr/local/bin/dig\nstart() {\n\ttrue\n}\n",
			},
			install: []string{"rc-update add digger default", "rc-update add digger-early boot", "rc-service digger start"},
			again:   []string{"rc-update add digger default", "rc-update add digger-early boot", "rc-service digger start"},
			uninstall: []string{
				"rc-service --ifstarted digger stop", "rc-update delete digger default", "rc-service --ifstarted digger-early stop", "rc-update delete digger-early boot",
				"/usr/local/bin/dig cleanup",
			},
			running: map[string]string{"rc-update show default": "   crond | default\n   digger | default\n"},
			stopped: map[string]string{"rc-update show default": "   digger-early | boot default\n", "rc-service digger status": "! * status: stopped"},
		},
		"launchd": {
			manager: func(h Host) Manager { return Launchd{h} },
			files: map[string]string{"/Library/LaunchDaemons/digger.plist": `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- written by "service install" for /usr/local/bin/dig -->
<plist version="1.0">
<dict>
	<key>Label</key>
	<string>digger</string>
	<key>ProgramArguments</key>
	<array>
		<string>/usr/local/bin/dig</string>
		<string>deep</string>
	</array>
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
	<string>/var/log/digger.log</string>
	<key>StandardErrorPath</key>
	<string>/var/log/digger.log</string>
</dict>
</plist>
`},
			install: []string{
				"launchctl print system/digger", "launchctl enable system/digger", "launchctl bootstrap system /Library/LaunchDaemons/digger.plist",
			},
			again:     []string{"launchctl print system/digger"},
			uninstall: []string{"launchctl print system/digger", "launchctl bootout system/digger", "/usr/local/bin/dig cleanup"},
			running:   map[string]string{"launchctl print system/digger": "digger = {\n\tstate = running\n}"},
			stopped:   map[string]string{"launchctl print system/digger": "!Could not find service"},
		},
	}
}

func (s *system) answer(with map[string]string) { s.answers = with }

// TestLife: a service is installed, seen, and removed, by the right calls, and what is left is its settings.
func TestLife(t *testing.T) {
	for name, k := range kinds() {
		t.Run(name, func(t *testing.T) {
			s, d, ctx := newSystem(t), digger(), t.Context()
			m := k.manager(s.Host)
			if st, err := m.Status(ctx, d); err != nil || st.Installed() || len(s.calls()) > 0 {
				t.Errorf("at first: %+v, %v", st, err)
			}
			s.answer(k.stopped)
			must(t, m.Install(ctx, d, program))
			if diff := cmp.Diff(k.install, s.calls()); diff != "" {
				t.Errorf("install (-want +got):\n%s", diff)
			}
			want := map[string]string{"/etc/digger.toml": "#depth = 3\n"}
			for path, text := range k.files {
				want[path] = text
			}
			if diff := cmp.Diff(want, s.files()); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			s.put("/etc/digger.toml", "depth = 4\n") // by a person
			s.answer(k.running)
			must(t, m.Install(ctx, d, program))
			if diff := cmp.Diff(k.again, s.calls()); diff != "" {
				t.Errorf("install again (-want +got):\n%s", diff)
			}
			st, err := m.Status(ctx, d)
			if err != nil || !st.Running || !st.Enabled || st.Program != program || k.files[st.File] == "" || st.System != name {
				t.Errorf("while it runs: %+v, %v", st, err)
			}
			s.calls()
			must(t, m.Uninstall(ctx, d))
			if diff := cmp.Diff(k.uninstall, s.calls()); diff != "" {
				t.Errorf("uninstall (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(map[string]string{"/etc/digger.toml": "depth = 4\n"}, s.files()); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestStopped(t *testing.T) {
	for name, k := range kinds() {
		s, d := newSystem(t), digger()
		m := k.manager(s.Host)
		must(t, m.Install(t.Context(), d, program))
		s.answer(k.stopped)
		if st, err := m.Status(t.Context(), d); err != nil || st.Running || st.Enabled != (name == "launchd") {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
	}
}

func TestVerbs(t *testing.T) {
	for name, want := range map[string][]string{
		"systemd": {"systemctl start digger", "systemctl stop digger", "systemctl restart digger"},
		"OpenRC":  {"rc-service digger start", "rc-service digger stop", "rc-service digger restart"},
		"launchd": {
			"launchctl print system/digger", // it is loaded
			"launchctl print system/digger", "launchctl bootout system/digger",
			"launchctl print system/digger", "launchctl kickstart -k system/digger",
		},
	} {
		k, s, d, ctx := kinds()[name], newSystem(t), digger(), t.Context()
		m := k.manager(s.Host)
		must(t, m.Install(ctx, d, program))
		s.calls()
		must(t, errors.Join(m.Start(ctx, d), m.Stop(ctx, d), m.Restart(ctx, d)))
		if diff := cmp.Diff(want, s.calls()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestRefused: what must not be done is not, says why, and changes nothing.
func TestRefused(t *testing.T) {
	install := func(m Manager, s Service) error { return m.Install(context.Background(), s, program) }
	installAs := func(p string) func(Manager, Service) error {
		return func(m Manager, s Service) error { return m.Install(context.Background(), s, p) }
	}
	uninstall := func(m Manager, s Service) error { return m.Uninstall(context.Background(), s) }
	start := func(m Manager, s Service) error { return m.Start(context.Background(), s) }
	paths := map[string]string{"systemd": "/etc/systemd/system/digger.service", "OpenRC": "/etc/init.d/digger", "launchd": "/Library/LaunchDaemons/digger.plist"}
	for _, test := range []struct {
		name   string
		before func(s *system, path string)
		do     func(Manager, Service) error
		want   error
		says   string
	}{
		{"not root installs", func(s *system, _ string) { s.Superuser = false }, install, ErrForbidden, "administrator"},
		{"not root uninstalls", func(s *system, _ string) { s.Superuser = false }, uninstall, ErrForbidden, ""},
		{"not root starts", func(s *system, _ string) { s.Superuser = false }, start, ErrForbidden, ""},
		{"nothing to uninstall", func(*system, string) {}, uninstall, ErrNotInstalled, ""},
		{"nothing to start", func(*system, string) {}, start, ErrNotInstalled, ""},
		{"a file of somebody else", func(s *system, path string) { s.put(path, "ExecStart=/usr/bin/dig\n") }, install, ErrForeign, "/digger"},
		{"to uninstall that", func(s *system, path string) { s.put(path, "ExecStart=/usr/bin/dig\n") }, uninstall, ErrForeign, "a package"},
		{"another program", func(s *system, path string) { s.put(path, "# "+marker+"/opt/dig\n") }, install, ErrOtherProgram, "/opt/dig; run its"},
		{"a program in a home", func(*system, string) {}, installAs("/home/anna/dig"), ErrUnreachable, "sudo install /home/anna/dig /usr/local/bin/"},
		{"a program in /tmp", func(*system, string) {}, installAs("/tmp/dig"), ErrUnreachable, ""},
		{"a relative program", func(*system, string) {}, installAs("dig"), ErrUnreachable, ""},
		{"a program with a space", func(*system, string) {}, installAs("/opt/my dig"), ErrUnreachable, "without spaces"},
		{"a program that breaks the line", func(*system, string) {}, installAs("/opt/dig\nExecStart=/bin/sh"), ErrUnreachable, ""},
	} {
		for name, k := range kinds() {
			s := newSystem(t)
			test.before(s, paths[name])
			before := s.files()
			err := test.do(k.manager(s.Host), digger())
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s: %s: %v", name, test.name, err)
			}
			if diff := cmp.Diff(before, s.files()); diff != "" || len(s.called) > 0 {
				t.Errorf("%s: %s: %q was called, and files are changed: %s", name, test.name, s.called, diff)
			}
		}
	}
}

// TestPackaged: what a package has installed is started and seen, but neither installed over nor removed.
func TestPackaged(t *testing.T) {
	s, d, ctx := newSystem(t), digger(), t.Context()
	s.put("/usr/lib/systemd/system/digger.service", "[Service]\n")
	m := Systemd{s.Host}
	if err := m.Install(ctx, d, program); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "systemctl enable --now digger") {
		t.Errorf("install: %v", err)
	}
	if err := m.Uninstall(ctx, d); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("uninstall: %v", err)
	}
	must(t, m.Start(ctx, d))
	if diff := cmp.Diff([]string{"systemctl start digger"}, s.calls()); diff != "" {
		t.Error(diff)
	}
	if st, err := m.Status(ctx, d); err != nil || !st.Installed() || st.Program != "" {
		t.Errorf("%+v, %v", st, err)
	}
}

// TestFailingProgram: what the system's program says is told.
func TestFailingProgram(t *testing.T) {
	for name, line := range map[string]string{
		"systemd": "systemctl enable --now digger", "OpenRC": "rc-service digger start", "launchd": "launchctl bootstrap system /Library/LaunchDaemons/digger.plist",
	} {
		s := newSystem(t)
		s.answers[line], s.answers["launchctl print system/digger"] = "!it broke", "!none"
		if err := kinds()[name].manager(s.Host).Install(t.Context(), digger(), program); err == nil || !strings.Contains(err.Error(), line+": it broke") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
