package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"warren/cmd/agent/internal/daemon"
	"warren/cmd/agent/internal/proxy"
)

func userspaceFlags(t *testing.T, args ...string) (*userspaceOptions, *daemon.Config) {
	t.Helper()
	o, f := new(userspaceOptions), pflag.NewFlagSet("daemon", pflag.ContinueOnError)
	o.register(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	return o, new(daemon.Config)
}

// TestUserspaceOptions: what is given is what the daemon gets.
func TestUserspaceOptions(t *testing.T) {
	auth := filepath.Join(t.TempDir(), "auth")
	if err := os.WriteFile(auth, []byte("user:pass:word\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o, cfg := userspaceFlags(t, "--socks5=1080", "--http-proxy=[::1]:8118", "--forward=tcp/5432=db:5432", "--forward=udp/53=ns:53", "--expose=tcp/80=8080", "--proxy-auth-file="+auth)
	if err := o.apply(daemon.UserspaceName, cfg); err != nil {
		t.Fatal(err)
	}
	u := cfg.Userspace
	var got []string
	for _, r := range u.Forward {
		got = append(got, r.String())
	}
	for _, e := range u.Expose {
		got = append(got, e.String())
	}
	want := []string{"tcp/127.0.0.1:5432=db:5432", "udp/127.0.0.1:53=ns:53", "tcp/80=127.0.0.1:8080"}
	if diff := cmp.Diff(want, got); diff != "" || u.SOCKS5 != "127.0.0.1:1080" || u.HTTPProxy != "[::1]:8118" || u.Credentials != (proxy.Credentials{User: "user", Password: "pass:word"}) {
		t.Errorf("%+v: %s", u, diff)
	}
	o, cfg = userspaceFlags(t)
	if err := o.apply(defaultTUN, cfg); err != nil || cfg.Userspace != nil {
		t.Errorf("with an interface: %+v, %v", cfg.Userspace, err)
	}
	o, cfg = userspaceFlags(t, "--socks5=0.0.0.0:1080", "--forward=tcp/0.0.0.0:80=web:80", "--allow-remote-clients")
	if err := o.apply(daemon.UserspaceName, cfg); err != nil || !cfg.Userspace.RemoteClients {
		t.Errorf("remote clients: %+v, %v", cfg.Userspace, err)
	}
}

// TestUserspaceOptionsRefused: mistakes are told with the flag's name, before anything is started.
func TestUserspaceOptionsRefused(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tc := range []struct {
		tun, want string
		args      []string
	}{
		{"userspace", "socks5: 0.0.0.0:1080: other hosts could use", []string{"--socks5=0.0.0.0:1080"}},
		{"userspace", "http-proxy: 192.0.2.1:80: other hosts could use", []string{"--http-proxy=192.0.2.1:80"}},
		{"userspace", "forward: tcp/0.0.0.0:80=web:80: 0.0.0.0:80: other hosts", []string{"--forward=tcp/0.0.0.0:80=web:80"}},
		{"userspace", "socks5: \"localhost\": want a port", []string{"--socks5=localhost"}},
		{"userspace", "socks5: \"70000\": want a port", []string{"--socks5=70000"}},
		{"userspace", "forward: \"80=web\": no protocol", []string{"--forward=80=web"}},
		{"userspace", "listen on the same port", []string{"--forward=tcp/80=web:80", "--forward=tcp/80=web:81"}},
		{"userspace", "expose: \"tcp/0\": ", []string{"--expose=tcp/0"}},
		{"userspace", "are for the same port", []string{"--expose=tcp/1", "--expose=tcp/1=2"}},
		{"userspace", "proxy-auth-file: there is no proxy", []string{"--proxy-auth-file=/x"}},
		{"userspace", "no such file", []string{"--socks5=1", "--proxy-auth-file=" + filepath.Join(dir, "none")}},
		{"userspace", "everybody on this host may read it", []string{"--socks5=1", "--proxy-auth-file=" + file("open", "a:b", 0o644)}},
		{"userspace", "want one line USER:PASSWORD", []string{"--socks5=1", "--proxy-auth-file=" + file("bad", "justauser\n", 0o600)}},
		{"userspace", "want one line USER:PASSWORD", []string{"--socks5=1", "--proxy-auth-file=" + file("two", "a:b\nc:d\n", 0o600)}},
		{"userspace", "more than 1024", []string{"--socks5=1", "--proxy-auth-file=" + file("long", strings.Repeat("x", 2000), 0o600)}},
		{"warren0", "socks5 is for a tunnel without an interface", []string{"--socks5=1080"}},
		{"warren0", "expose is for a tunnel without an interface", []string{"--expose=tcp/80"}},
		{"warren0", "allow-remote-clients is for a tunnel without an interface", []string{"--allow-remote-clients"}},
	} {
		o, cfg := userspaceFlags(t, tc.args...)
		if err := o.apply(tc.tun, cfg); err == nil || !strings.Contains(err.Error(), tc.want) || cfg.Userspace != nil {
			t.Errorf("%s %v: %v, want %q", tc.tun, tc.args, err, tc.want)
		}
	}
}

func TestOwnPlaces(t *testing.T) {
	for _, tc := range []struct{ stateHome, home, runtime, state, socket string }{
		{"/s", "/h", "/r", "/s/warren", "/r/warren/warren.sock"},
		{"", "/h", "/r", "/h/.local/state/warren", "/r/warren/warren.sock"},
		{"relative", "/h", "relative", "/h/.local/state/warren", "/h/.local/state/warren/warren.sock"},
		{"/s", "", "", "/s/warren", "/s/warren/warren.sock"},
		{"", "", "/r", "", ""},
	} {
		state, socket := ownPlaces(func(name string) string {
			return map[string]string{"XDG_STATE_HOME": tc.stateHome, "HOME": tc.home, "XDG_RUNTIME_DIR": tc.runtime}[name]
		})
		if state != tc.state || socket != tc.socket {
			t.Errorf("%+v: %s, %s", tc, state, socket)
		}
	}
}

// TestUserspacePage: each daemon that docs/userspace.md starts would start.
func TestUserspacePage(t *testing.T) {
	page, err := os.ReadFile("../../../../docs/userspace.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)(?:^    |ExecStart=/usr/bin/|IMAGE )(?:warren )?daemon (--tun=userspace[^&\n]*)`).FindAllStringSubmatch(string(page), -1)
	if len(lines) != 3 {
		t.Fatalf("%d daemons are started: %q", len(lines), lines)
	}
	for _, line := range lines {
		a := &app{state: defaultState, tun: defaultTUN}
		f, o := pflag.NewFlagSet("daemon", pflag.ContinueOnError), new(daemonOptions)
		newReloader(a, f).register(o, f)
		if err := f.Parse(strings.Fields(line[1])); err != nil {
			t.Fatalf("%s: %v", line[1], err)
		}
		o.file = filepath.Join(t.TempDir(), "none.toml")
		if err := os.WriteFile(o.file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := a.load(o, f, nil); err != nil || l.cfg.Userspace == nil {
			t.Errorf("%s: %v", line[1], err)
		}
	}
	for _, m := range regexp.MustCompile("(?m)`?(--(?:expose|forward)=[a-z]+/[0-9][^ `\n]*)").FindAllStringSubmatch(string(page), -1) {
		o, cfg := userspaceFlags(t, m[1])
		if err := o.apply(daemon.UserspaceName, cfg); err != nil {
			t.Errorf("%s: %v", m[1], err)
		}
	}
}
