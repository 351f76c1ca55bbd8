package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"warren/cmd/agent/internal/daemon"
)

const referenceFile = "../../../../packaging/config/agent.toml"

// loadFile loads a configuration file alone.
func loadFile(path string, environ ...string) (*loaded, error) {
	a := &app{state: defaultState, tun: defaultTUN}
	f, o := pflag.NewFlagSet("daemon", pflag.ContinueOnError), new(daemonOptions)
	newReloader(a, f).register(o, f)
	o.file = path
	return a.load(o, f, environ)
}

// values are those of all settings, and of which a source has said something.
func values(l *loaded) map[string]string {
	out := map[string]string{}
	for _, f := range l.source.Settings(l.flags) {
		out[f.Name] = f.Value.String()
	}
	return out
}

// TestReferenceFile: the file that the packages install changes nothing as it is, and uncommented says each setting once, with its default and its range.
func TestReferenceFile(t *testing.T) {
	b, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	asIs, err := loadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	setting := regexp.MustCompile(`(?m)^#([a-z0-9-]+) = `)
	count := map[string]int{}
	for _, m := range setting.FindAllStringSubmatch(string(b), -1) {
		count[m[1]]++
	}
	for name := range values(asIs) {
		if count[name] != 1 {
			t.Errorf("%s is there %d times", name, count[name])
		}
		if o := asIs.from.Origin(name); o != "" {
			t.Errorf("as it is the file sets %s at %s", name, o)
		}
	}
	all := filepath.Join(t.TempDir(), "all.toml")
	if err := os.WriteFile(all, setting.ReplaceAll(b, []byte("$1 = ")), 0o600); err != nil {
		t.Fatal(err)
	}
	uncommented, err := loadFile(all)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(values(asIs), values(uncommented)); diff != "" {
		t.Errorf("uncommented: %s", diff)
	}
	for name, r := range asIs.source.Ranges {
		about := regexp.MustCompile(`#[^\n]*\n#` + name + " = ").FindString(string(b))
		if !strings.Contains(about, fmt.Sprint(r.Max)) {
			t.Errorf("the range %s of %s is not told: %s", r, name, about)
		}
	}
	unit, err := os.ReadFile("../../../../packaging/systemd/warren.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"EnvironmentFile=-/etc/default/warren", "ExecStart=/usr/bin/warren daemon $WARREN_DAEMON_FLAGS", "Type=notify"} {
		if !slices.Contains(strings.Split(string(unit), "\n"), want) {
			t.Errorf("the unit has no line %s", want)
		}
	}
	if !regexp.MustCompile(`(?m)^ReadWritePaths=.*-/etc/warren\b`).Match(unit) {
		t.Error("the unit does not let the service remove the token")
	}
}

// TestTokenPlaces: where a token is looked for, when nobody names a file.
func TestTokenPlaces(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "agent.toml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/credentials/warren.service")
	l, err := loadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := daemon.Join{Files: []daemon.TokenFile{{Path: "/run/credentials/warren.service/warren.token"}, {Path: filepath.Join(dir, "token"), Remove: true}}}
	if diff := cmp.Diff(want, l.cfg.Join); diff != "" {
		t.Error(diff)
	}
	if l, err = loadFile(file, "WARREN_TOKEN_FILE=/secret"); err != nil || len(l.cfg.Join.Files) != 1 || l.cfg.Join.Files[0].Path != "/secret" {
		t.Errorf("%+v, %v", l.cfg.Join, err)
	}
}

// TestReloadTakesOver: after a reload what is live counts anew, and what needs a start is as it was.
func TestReloadTakesOver(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.toml")
	load := func(text string) *loaded {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := loadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	running, next := load("port = 1\nlog-level = \"warn\"\nmax-flows = 2000"), load("# moved\nport = 2\nlog-level = \"debug\"\nmax-flows = 2000\nname = \"x\"")
	if got := next.needRestart(running); len(got) != 1 || got[0] != "port" {
		t.Errorf("needs a restart: %q", got)
	}
	got := map[string]string{}
	for _, o := range next.counting(running) {
		got[o.Name] = o.Value + " by " + o.Origin
	}
	if got["port"] != "1 by "+file+":1" || got["log-level"] != "debug by "+file+":3" || got["max-flows"] != "2000 by "+file+":4" {
		t.Errorf("counts: %v", got)
	}
}

// TestLoad: flags, environment and file come together, and what is wrong is told with its place.
func TestLoad(t *testing.T) {
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "agent.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("name = \"gw\"\nadvertise = [\"10.1.0.0/16\"]\nprobe = [\"10.1.0.9\"]\npriority = 7\ntun = \"w1\"\ntoken-file = \"/run/secrets/t\"\n")
	l, err := loadFile(good, "WARREN_NAME=other", "WARREN_PORT=51820", "WARREN_ROUTES=x")
	if err != nil {
		t.Fatal(err)
	}
	s := l.cfg.Managed.Settings
	if s.GetName() != "other" || s.GetAdvertise().GetValues()[0] != "10.1.0.0/16" || s.GetPriority() != 7 || s.ExitNode != nil || l.cfg.Port != 51820 ||
		l.cfg.Join.Files[0].Path != "/run/secrets/t" || l.cfg.Managed.Origin("priority") != good+":4" || l.cfg.Managed.Origin("name") != "WARREN_NAME" {
		t.Errorf("%v, port %d, %+v", s, l.cfg.Port, l.cfg.Join)
	}
	shown := map[string]string{}
	for _, o := range l.options() {
		shown[o.Name] = o.Value + " by " + o.Origin
	}
	if shown["tun"] != "w1 by "+good+":5" || shown["port"] != "51820 by WARREN_PORT" || shown["metrics"] != " by " || shown["token"] != "" || shown["name"] != "" {
		t.Errorf("options %v", shown)
	}
	if len(l.from.Unknown) != 1 {
		t.Errorf("unknown: %q", l.from.Unknown)
	}
	for text, want := range map[string]string{
		"\nadvertise = [\"10.1.2.3/16\"]":                  "agent.toml:2: advertise: 10.1.2.3/16 has bits set",
		"site = [\"10.1.0.0/16=10.2.0.0/16\"]":             "agent.toml:1: site: \"10.1.0.0/16=10.2.0.0/16\": a site keeps",
		"priority = 256":                                   "agent.toml:1: priority: want a whole number, from 1 to 255",
		"probe = [\"printer\"]":                            "agent.toml:1: probe \"printer\": not an address",
		"prefer-lan = [\"10.1.2.0/16\"]":                   "agent.toml:1: prefer-lan 10.1.2.0/16: has bits set beyond its length; write 10.1.0.0/16",
		"exit-node = \"x\"\nadvertise-exit = true":         "agent.toml:1: exit-node and --advertise-exit: ",
		"max-flows = 7":                                    "agent.toml:1: max-flows: want a whole number, from 1024 to 4194304",
		"port-mapping = \"smoke\"":                         "agent.toml:1: port-mapping: ",
		"endpoint = [\"nowhere\"]":                         "agent.toml:1: endpoint: ",
		"flow-records = false\nflow-export = [\"syslog\"]": "agent.toml:2: flow-export syslog: there is nothing to export",
		"tun = \"a b\"":                                    "agent.toml:1: tun: ",
		"name = \"Two Words\"":                             "agent.toml:1: name: ",
		"token = \"wrn1x\"":                                "agent.toml:1: token: malformed join token",
		"token-file = \"token\"":                           "agent.toml:1: token-file: \"token\": want the whole path",
		"token = \"a\"\ntoken-file = \"/b\"":               "agent.toml:1: token and token-file: give one of them",
		"exitnode = \"x\"":                                 "agent.toml:1: unknown setting exitnode; there are accept-routes, advertise, ",
		"\nmetrics = \"9101\"":                             "agent.toml:2: metrics: \"9101\" is not of the form [HOST]:PORT",
		"metrics = \":70000\"":                             "agent.toml:1: metrics: \":70000\": want a port from 0 to 65535",
		"proxy = \"ftp://u:hush@p\"":                       "agent.toml:1: proxy: proxy \"ftp://u:xxxxx@p\": only http and https proxies can be used",
		"proxy = \"p:3128\"":                               "agent.toml:1: proxy: proxy \"p:3128\" is not of the form http://",
		"whois-group = \"no such\"":                        "agent.toml:1: whois-group: no such group on this machine: \"no such\"",
		"socket = \"/x\"":                                  "unknown setting socket",
	} {
		if _, err := loadFile(write(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := loadFile(good, "WARREN_EXIT_NODE=x", "WARREN_ADVERTISE_EXIT=true"); err == nil || !strings.Contains(err.Error(), "WARREN_EXIT_NODE and --advertise-exit") {
		t.Errorf("two variables that do not go together: %v", err)
	}
}
