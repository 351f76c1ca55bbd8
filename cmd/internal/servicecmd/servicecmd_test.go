package servicecmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/internal/sysservice"
)

// fake is a service manager.
type fake struct {
	did    []string
	err    error
	status sysservice.Status
}

func (f *fake) do(what, name string) error {
	f.did = append(f.did, what+" "+name)
	return f.err
}

func (f *fake) Install(_ context.Context, s sysservice.Service, program string) error {
	return f.do("install", s.Name+" "+program)
}

func (f *fake) Uninstall(_ context.Context, s sysservice.Service) error {
	return f.do("uninstall", s.Name)
}
func (f *fake) Start(_ context.Context, s sysservice.Service) error   { return f.do("start", s.Name) }
func (f *fake) Stop(_ context.Context, s sysservice.Service) error    { return f.do("stop", s.Name) }
func (f *fake) Restart(_ context.Context, s sysservice.Service) error { return f.do("restart", s.Name) }

func (f *fake) Status(context.Context, sysservice.Service) (sysservice.Status, error) {
	return f.status, f.err
}

// run types a command line.
func run(f *fake, detected error, json bool, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := New(Options{
		Service: func() sysservice.Service { return sysservice.Service{Name: "digger", Args: []string{"deep"}} },
		Program: "dig", Out: &out, JSON: &json,
		Detect:     func() (sysservice.Manager, error) { return f, detected },
		Executable: func() (string, error) { return "/opt/dig", nil },
	})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	err := cmd.Execute()
	return out.String(), err
}

func TestVerbs(t *testing.T) {
	for verb, want := range map[string][2]string{
		"install":   {"install digger /opt/dig", "digger runs as a service, and starts with the system\n"},
		"uninstall": {"uninstall digger", "digger is no service any more; its settings and state stay\n"},
		"start":     {"start digger", "digger is started\n"},
		"stop":      {"stop digger", "digger is stopped\n"},
		"restart":   {"restart digger", "digger is restarted\n"},
	} {
		f := new(fake)
		out, err := run(f, nil, false, verb)
		if diff := cmp.Diff([]string{want[0]}, f.did); diff != "" || out != want[1] || err != nil {
			t.Errorf("%s: %q, %v, %s", verb, out, err, diff)
		}
		if _, err := run(f, nil, false, verb, "extra"); err == nil {
			t.Errorf("%s took an argument", verb)
		}
	}
}

func TestErrors(t *testing.T) {
	sudo := "sudo dig service start"
	if runtime.GOOS == "windows" {
		sudo = "Run as administrator"
	}
	for _, test := range []struct {
		detected, err error
		says          string
	}{
		{nil, fmt.Errorf("x: %w", sysservice.ErrForbidden), sudo},
		{nil, sysservice.ErrNotInstalled, `digger: the service is not installed; "dig service install" does that`},
		{sysservice.ErrNoManager, nil, `run "dig deep"`},
		{nil, errors.New("it broke"), "it broke"},
	} {
		out, err := run(&fake{err: test.err}, test.detected, false, "start")
		if err == nil || !strings.Contains(err.Error(), test.says) || out != "" {
			t.Errorf("%v, %v: %q, %v", test.detected, test.err, out, err)
		}
	}
}

func TestStatus(t *testing.T) {
	for _, test := range []struct {
		status sysservice.Status
		want   string
		json   string
	}{
		{sysservice.Status{System: "systemd"}, "digger is not installed as a service of systemd\n", `"installed": false`},
		{sysservice.Status{System: "systemd", File: "/x", Program: "/opt/dig", Enabled: true, Running: true},
			"digger runs, and starts with the system\ninstalled for /opt/dig: /x (systemd)\n", `"running": true`},
		{sysservice.Status{System: "OpenRC", File: "/x"}, "digger is stopped, and does not start with the system\ninstalled by a package: /x (OpenRC)\n", `"system": "OpenRC"`},
	} {
		if out, err := run(&fake{status: test.status}, nil, false, "status"); err != nil || out != test.want {
			t.Errorf("%q, %v; want %q", out, err, test.want)
		}
		if out, err := run(&fake{status: test.status}, nil, true, "status"); err != nil || !strings.Contains(out, test.json) || !strings.Contains(out, `"name": "digger"`) {
			t.Errorf("%q, %v; want %s", out, err, test.json)
		}
	}
}
