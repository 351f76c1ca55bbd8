package networks

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/internal/lab"
	"warren/internal/sim/natmodel"
)

// leaktest runs the command and gives the outcomes by name, and its exit status.
func (a *abroad) leaktest() (outcomes map[string]string, status int) {
	a.t.Helper()
	d := a.laptop
	cmd := d.Command(a.ctx, filepath.Join(bin, "warren"), "leaktest", "--json", "--socket", filepath.Join(d.Dir(), "sock"))
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	err := cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		status = ended.ExitCode()
	} else {
		must(a.t, err)
	}
	var results []struct{ Name, Outcome, Text, Help string }
	if err := json.Unmarshal(out.Bytes(), &results); err != nil {
		a.t.Fatalf("leaktest: %v: %s%s", err, out.String(), problem.String())
	}
	outcomes = map[string]string{}
	for _, r := range results {
		outcomes[r.Name] = r.Outcome
		if r.Outcome != "ok" && r.Help == "" {
			a.t.Errorf("%s: %s: %s, and no help", r.Name, r.Outcome, r.Text)
		}
	}
	if failed := strings.Contains(problem.String(), "failed"); failed != (status == 1) {
		a.t.Errorf("exit status %d, with %q", status, problem.String())
	}
	return outcomes, status
}

// wantLeaktest compares with all that is well but for what is named.
func (a *abroad) wantLeaktest(when string, status int, but map[string]string) {
	a.t.Helper()
	want := map[string]string{"kill-switch": "ok", "connected": "ok", "resolver": "ok"}
	for _, f := range []string{"ipv4", "ipv6"} {
		for _, check := range []string{"routes-", "own-", "traffic-", "bound-", "names-"} {
			want[check+f] = "ok"
		}
	}
	for name, outcome := range but {
		want[name] = outcome
	}
	got, ended := a.leaktest()
	if diff := cmp.Diff(want, got); diff != "" || ended != status {
		a.t.Errorf("%s: exit status %d, want %d (-want +got):\n%s", when, ended, status, diff)
	}
}

// TestLeakTest: the test finds nothing where all is well, and what somebody has broken by hand.
func TestLeakTest(t *testing.T) {
	a := newAbroad(t, lab.Access{NAT: natmodel.Easy(), IPv6: lab.OpenIPv6})
	if got, status := a.leaktest(); status != 0 || got["use"] != "warning" || len(got) != 1 {
		t.Errorf("with nothing to test: %v, exit status %d", got, status)
	}
	must(t, a.laptop.Warren(a.ctx, nil, "set", "--exit-node", "exit", "--kill-switch"))
	a.awaitExit("exit")
	a.seenAs("with the exit node", a.exit.Public, a.exit.Addr6)
	a.wantLeaktest("all is well", 0, nil)

	host := a.laptop.Host
	for _, f := range []string{"-4", "-6"} {
		a.run(host, "ip", f, "rule", "delete", "priority", "5280")
	}
	broken := map[string]string{"routes-ipv4": "failed", "routes-ipv6": "failed", "connected": "failed"}
	got, status := a.leaktest()
	for name, outcome := range broken {
		if got[name] != outcome || status != 1 {
			t.Errorf("without its rules: %s is %s, want %s; exit status %d", name, got[name], outcome, status)
		}
	}
	for _, name := range []string{"traffic-ipv4", "traffic-ipv6", "bound-ipv4", "bound-ipv6", "kill-switch"} {
		if got[name] != "ok" {
			t.Errorf("without its rules, but with the kill switch: %s is %s", name, got[name])
		}
	}
	must(t, a.laptop.Warren(a.ctx, nil, "up", "--kill-switch=false"))
	for _, f := range []string{"-4", "-6"} {
		_ = host.Command(a.ctx, "ip", f, "rule", "delete", "priority", "5280").Run() // if that has put it back
	}
	if got, status := a.leaktest(); got["traffic-ipv4"] != "failed" || got["traffic-ipv6"] != "failed" || status != 1 {
		t.Errorf("without rules and kill switch: %v, exit status %d", got, status)
	}
	must(t, a.laptop.Warren(a.ctx, nil, "down"))
	must(t, a.laptop.Warren(a.ctx, nil, "up"))
	a.awaitExit("exit")
	a.seenAs("again", a.exit.Public, a.exit.Addr6)
	a.wantLeaktest("without the kill switch", 0, map[string]string{"kill-switch": "warning", "bound-ipv4": "warning", "bound-ipv6": "warning"})

	must(t, a.laptop.Warren(a.ctx, nil, "set", "--exit-node", "", "--kill-switch"))
	a.awaitExit("")
	a.wantLeaktest("with the kill switch alone", 0, nil)
}
