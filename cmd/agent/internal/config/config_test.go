package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// options are flags of every type.
type options struct {
	Port     uint16
	Rate     int
	Name     string
	Routes   []string
	Exports  []string
	Accept   bool
	Token    string
	State    string
	Fd       int
	Priority uint32
}

func flags() (*options, *pflag.FlagSet) {
	o, f := new(options), pflag.NewFlagSet("daemon", pflag.ContinueOnError)
	f.Uint16Var(&o.Port, "port", 0, "UDP `port`")
	f.IntVar(&o.Rate, "hard-nat-rate", 100, "`ports` a second")
	f.StringVar(&o.Name, "name", "", "`name` of the device")
	f.StringSliceVar(&o.Routes, "advertise", nil, "carry this `CIDR`")
	f.StringArrayVar(&o.Exports, "flow-export", nil, "`destination` of flows")
	f.BoolVar(&o.Accept, "accept-routes", true, "use the CIDRs of others")
	f.StringVar(&o.Token, "token", "", "join token")
	f.StringVar(&o.State, "state", "/var/lib/warren", "state `directory`")
	f.IntVar(&o.Fd, "ready-fd", 0, "")
	f.Uint32Var(&o.Priority, "priority", 100, "`rank`")
	_ = f.MarkHidden("ready-fd")
	Hide(f, "token")
	return o, f
}

func source(t *testing.T, file string, environ ...string) Source {
	t.Helper()
	s := Source{Environ: environ, Except: []string{"state"}, Ranges: map[string]Range{"port": {0, 65535}, "hard-nat-rate": {0, 1000}}}
	if file != "" {
		s.File = filepath.Join(t.TempDir(), "agent.toml")
		if err := os.WriteFile(s.File, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestFill(t *testing.T) {
	const file = "port = 1\nname = \"of-file\"\nadvertise = [\"10.1.0.0/16\", \"10.2.0.0/16\"]\naccept-routes = false\nflow-export = [\"a,b\"]\npriority = 7\n"
	o, f := flags()
	s := source(t, file, "PATH=/bin", "WARREN_NAME=of-environment", "WARREN_PORT=2", "WARREN_ADVERTISE=10.3.0.0/16, 10.4.0.0/16", "WARREN_TOKEN=wrn1",
		"WARREN_ACCEPT_ROUTES=", "WARREN_ROUTES=x", "WARREN_STATE=/elsewhere", "WARREN_READY_FD=3")
	if err := f.Parse([]string{"--port", "3"}); err != nil {
		t.Fatal(err)
	}
	got, err := Fill(f, s)
	if err != nil {
		t.Fatal(err)
	}
	want := options{Port: 3, Rate: 100, Name: "of-environment", Routes: []string{"10.3.0.0/16", "10.4.0.0/16"}, Exports: []string{"a,b"}, Token: "wrn1",
		State: "/var/lib/warren", Priority: 7}
	if diff := cmp.Diff(want, *o); diff != "" {
		t.Error(diff)
	}
	for name, place := range map[string]string{
		"port": "--port", "name": "WARREN_NAME", "advertise": "WARREN_ADVERTISE", "accept-routes": s.File + ":4", "priority": s.File + ":6", "hard-nat-rate": "",
	} {
		if got.Origin(name) != place || f.Changed(name) != (place != "") {
			t.Errorf("%s is from %q and counts as set: %t; want %q", name, got.Origin(name), f.Changed(name), place)
		}
	}
	if diff := cmp.Diff([]string{"WARREN_READY_FD", "WARREN_ROUTES", "WARREN_STATE"}, got.Unknown); diff != "" {
		t.Error(diff)
	}
	for _, test := range []struct{ a, b, want string }{
		{"port", "name", "port"}, {"name", "port", "port"}, {"accept-routes", "token", "token"}, {"name", "token", ""}, {"hard-nat-rate", "priority", "priority"}, {"state", "hard-nat-rate", ""},
	} {
		if first := got.First(test.a, test.b); first != test.want {
			t.Errorf("of %s and %s first is %q, want %q", test.a, test.b, first, test.want)
		}
	}
	for name, want := range map[string]string{
		"port": "--port", "name": "WARREN_NAME", "priority": "configuration " + s.File + ":6: priority", "hard-nat-rate": "--hard-nat-rate",
	} {
		if place := got.Place(name); place != want {
			t.Errorf("%s is at %q, want %q", name, place, want)
		}
	}
}

// TestCopy: what is set is set again elsewhere, as it was, and nothing else is.
func TestCopy(t *testing.T) {
	_, from := flags()
	from.String("other", "", "")
	if err := from.Parse(strings.Fields("--port 3 --advertise 10.0.0.0/8,fd00::/8 --flow-export a,b --flow-export c --accept-routes=false --other x")); err != nil {
		t.Fatal(err)
	}
	_, between := flags()
	o, to := flags()
	if err := errors.Join(Copy(between, from), Copy(to, between)); err != nil {
		t.Fatal(err)
	}
	want := options{Port: 3, Rate: 100, Routes: []string{"10.0.0.0/8", "fd00::/8"}, Exports: []string{"a,b", "c"}, State: "/var/lib/warren", Priority: 100}
	if diff := cmp.Diff(want, *o); diff != "" {
		t.Error(diff)
	}
	if !to.Changed("advertise") || to.Changed("name") {
		t.Error("what counts as set is not the same")
	}
}

// TestEmptyList: an empty list is one, and not the lack of it.
func TestEmptyList(t *testing.T) {
	o, f := flags()
	if _, err := Fill(f, source(t, "advertise = []\nname = \"\"")); err != nil || !f.Changed("advertise") || !f.Changed("name") || len(o.Routes) != 0 {
		t.Errorf("%v, set %t, %q", err, f.Changed("advertise"), o.Routes)
	}
}

// TestNoFile: only one that need not be there may be missing.
func TestNoFile(t *testing.T) {
	_, f := flags()
	s := source(t, "")
	s.File = filepath.Join(t.TempDir(), "agent.toml")
	if _, err := Fill(f, s); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	s.Optional = true
	if _, err := Fill(f, s); err != nil {
		t.Errorf("missing, and it may: %v", err)
	}
	s.File = t.TempDir()
	if _, err := Fill(f, s); err == nil {
		t.Error("a directory was read")
	}
}

// TestWrong: what is wrong is told with its place and what is allowed, and nothing is set.
func TestWrong(t *testing.T) {
	for _, test := range []struct{ file, variable, want string }{
		{"name = \"x\"\nport = 70000", "", "agent.toml:2: port: want a whole number, from 0 to 65535"},
		{"port = -1", "", "agent.toml:1: port: want a whole number, from 0 to 65535"},
		{"port = \"1\"", "", "agent.toml:1: port: want a whole number, from 0 to 65535"},
		{"priority = -1", "", "agent.toml:1: priority: \"-1\": want a whole number"},
		{"priority = 9999999999", "", "agent.toml:1: priority: \"9999999999\": want a whole number"},
		{"hard-nat-rate = 1001", "", "want a whole number, from 0 to 1000"},
		{"accept-routes = \"no\"", "", "want true or false"},
		{"advertise = \"10.0.0.0/8\"", "", "agent.toml:1: advertise: want a list of texts, such as [\"CIDR\"]"},
		{"name = 1", "", "agent.toml:1: name: want a text in quotes"},
		{"state = \"/x\"", "", "unknown setting state"},
		{"ready-fd = 3", "", "unknown setting ready-fd"},
		{"prot = 1", "", "unknown setting prot; there are accept-routes, advertise, flow-export, hard-nat-rate, name, port, priority, token"},
		{"", "WARREN_PORT=70000", "WARREN_PORT: \"70000\": want a whole number, from 0 to 65535"},
		{"", "WARREN_PORT=many", "WARREN_PORT: \"many\": want a whole number, from 0 to 65535"},
		{"", "WARREN_PRIORITY=-1", "WARREN_PRIORITY: \"-1\": want a whole number"},
		{"", "WARREN_ACCEPT_ROUTES=maybe", "WARREN_ACCEPT_ROUTES: \"maybe\": want true or false"},
		{"port = 70000", "WARREN_PORT=1", "agent.toml:1: port: want"},
	} {
		_, f := flags()
		s := source(t, test.file, test.variable)
		if _, err := Fill(f, s); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q, %s: %v, want %q", test.file, test.variable, err, test.want)
		}
	}
}

func TestVariable(t *testing.T) {
	if got := Variable("exit-allow-lan"); got != "WARREN_EXIT_ALLOW_LAN" {
		t.Error(got)
	}
}
