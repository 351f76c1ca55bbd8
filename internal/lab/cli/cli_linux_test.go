// Package cli tests the two command lines by transcripts: testdata/*.txtar, which testscript runs against the real programs. Each has a lab
// of its own. Besides testscript's own commands a transcript can use:
//
//	host NAME [NAT]              add a host to the lab: none, easy, hard or udp-blocked
//	on HOST PROGRAM [ARG ...]    run a program there; it must end with status 0
//	fail HOST PROGRAM ...        the same, with status 1: failed
//	misuse HOST PROGRAM ...      the same, with status 2: wrong usage
//	until TEXT HOST PROGRAM ...  run it again and again until it ends with status 0 and its standard output matches the regular expression TEXT
//	start NAME HOST PROGRAM ...  start a program there and go on; PID_NAME is its process
//	terminal NAME HOST ...       the same, on a terminal
//	await NAME TEXT              wait until a started program has said TEXT
//	said NAME                    make what it said so far the standard output that "stdout" looks at
//	end NAME                     end it by SIGTERM; its status must be 0
//	kill9 NAME                   end it by SIGKILL
//	keep VARIABLE [FIELD ...]    put the last standard output, or a field of it as JSON, into a variable
//	patch FILE OLD NEW           replace a text in a file
//	certificates NAME            make ca.pem, key.pem, cert.pem and, expired, old.pem
//
// The condition [users] holds where a program can change to another user, which in a user namespace it cannot.
package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// bin is where TestMain has put the programs.
var bin string

func TestMain(m *testing.M) { warrennet.Main(m, &bin) }

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", RequireUniqueNames: true, Setup: setup, Cmds: commands(),
		Condition: func(name string) (bool, error) {
			if name != "users" {
				return false, fmt.Errorf("unknown condition %q", name)
			}
			return exec.Command("setpriv", "--reuid=65534", "--clear-groups", "true").Run() == nil, nil
		},
	})
}

// bench is what one transcript works with.
type bench struct {
	lab     *lab.Lab
	hosts   map[string]*lab.Host
	started map[string]*warrennet.Daemon
	order   []string
}

type benchKey struct{}

func setup(env *testscript.Env) error {
	l, err := lab.New()
	if err != nil {
		return err
	}
	b := &bench{lab: l, hosts: map[string]*lab.Host{}, started: map[string]*warrennet.Daemon{}}
	env.Values[benchKey{}] = b
	env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
	env.Setenv("BIN", bin)
	for _, dir := range []string{env.WorkDir, filepath.Dir(env.WorkDir), bin} { // other users come here, too
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	t, _ := env.T().(testing.TB)
	env.Defer(func() {
		for _, name := range b.order {
			if t != nil && t.Failed() {
				t.Logf("%s said:\n%s", name, b.started[name].Log())
			}
			_ = b.started[name].Signal(os.Interrupt)
		}
		l.Close()
	})
	return nil
}

func of(ts *testscript.TestScript) *bench { return ts.Value(benchKey{}).(*bench) }

func (b *bench) host(ts *testscript.TestScript, name string) *lab.Host {
	h := b.hosts[name]
	if h == nil {
		ts.Fatalf("there is no host %q", name)
	}
	return h
}

func (b *bench) program(ts *testscript.TestScript, name string) *warrennet.Daemon {
	d := b.started[name]
	if d == nil {
		ts.Fatalf("no program %q was started", name)
	}
	return d
}

// execOn runs a program on a host and gives its status. Its output is what "stdout" and "stderr" look at.
func execOn(ts *testscript.TestScript, h *lab.Host, argv []string) int {
	line, key, value := h.Line("timeout", append([]string{patience.String()}, argv...)...)
	ts.Setenv(key, value)
	defer ts.Setenv(key, "")
	err := ts.Exec(line[0], line[1:]...)
	var ended *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ended):
		return ended.ExitCode()
	}
	ts.Fatalf("%v: %v", argv, err)
	return -1
}
