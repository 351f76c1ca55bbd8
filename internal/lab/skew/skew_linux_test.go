//go:build skew

package skew

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// version is a commit whose programs those of today must work with.
type version struct {
	name, commit string
	// policies says that its coordinator knows them; without, all devices reach each other.
	policies bool
}

// versions are the first commit on main whose programs made whole networks, which was found by trying older and older ones, and which still works; and
// the last one of the day before upgrades kept connections, which has policies and routes. Once there are releases it is the tag of the one before this.
func versions() []version {
	return []version{
		{"first", "0fb056245225a4e8b1f7945b7f188861a7d1b4d5", false},
		{"with policies", "93f73dc319a6b3233572f36f31147da0636d8a31", true},
	}
}

var (
	today string            // directory of programs
	older map[string]string // the same, by commit
)

func TestMain(m *testing.M) {
	lab.Init()
	os.Exit(mainIn(m))
}

func mainIn(m *testing.M) int {
	dir, err := os.MkdirTemp("", "warren-skew")
	if err == nil {
		defer os.RemoveAll(dir)
		today, err = warrennet.Build(context.Background(), dir)
	}
	older = map[string]string{}
	for _, v := range versions() {
		if err == nil {
			older[v.commit], err = build(dir, v.commit)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// build makes the programs of a commit.
func build(dir, commit string) (string, error) {
	if made := os.Getenv("WARREN_OLD_BIN"); made != "" {
		return filepath.Join(made, commit), nil
	}
	src, bin := filepath.Join(dir, "src"), filepath.Join(dir, commit)
	script := `set -e; mkdir -p "$1"; top=$(git rev-parse --show-toplevel); git -C "$top" archive "$3" | tar x -C "$1"; cd "$1"
go build -o "$2/warren" ./cmd/agent; go build -o "$2/warren-coordinator" ./cmd/coordinator`
	cmd := exec.Command("sh", "-c", script, "sh", src, bin, commit)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the programs of %s: %w\n%s", commit, err, out)
	}
	return bin, os.RemoveAll(src)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// program is a host with a state directory, on which the programs of a directory run.
type program struct {
	*testing.T
	host    *lab.Host
	bin     string
	name    string
	args    []string // of every command
	running *warrennet.Daemon
}

// command runs one, whose output it gives.
func (p *program) command(ctx context.Context, args ...string) (string, error) {
	out, err := p.host.Command(ctx, filepath.Join(p.bin, p.name), append(args, p.args...)...).Output()
	if e, ok := err.(*exec.ExitError); ok {
		err = fmt.Errorf("%s %s: %w: %s", p.name, strings.Join(args, " "), err, e.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}

func (p *program) must(ctx context.Context, args ...string) string {
	p.Helper()
	out, err := p.command(ctx, args...)
	must(p.T, err)
	return out
}

// start runs the long-lived program.
func (p *program) start(args ...string) {
	p.Helper()
	var err error
	p.running, err = warrennet.Start(p.host, filepath.Join(p.bin, p.name), append(args, p.args...)...)
	must(p.T, err)
}

// until repeats a command until its output will do.
func (p *program) until(ctx context.Context, what string, ok func(out string) bool, args ...string) {
	p.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		out, err := p.command(ctx, args...)
		if err == nil && ok(out) {
			return
		}
		select {
		case <-ctx.Done():
			p.Fatalf("%s: still not %s: %s, %v; it says\n%s", p.host.Name, what, out, err, p.running.Log())
		case <-tick.C:
		}
	}
}

// network is a coordinator, and what is needed to add agents.
type network struct {
	*testing.T
	lab    *lab.Lab
	server *program
	dir    string
}

func newNetwork(ctx context.Context, t *testing.T, bin string) *network {
	l, err := lab.New()
	must(t, err)
	t.Cleanup(func() { l.Close() })
	site, err := l.Site("coordinator", lab.Access{IPv6: lab.OpenIPv6})
	must(t, err)
	h, err := site.Host("coordinator")
	must(t, err)
	n := &network{T: t, lab: l, dir: t.TempDir()}
	n.server = &program{T: t, host: h, bin: bin, name: "warren-coordinator", args: []string{"--state", filepath.Join(n.dir, "coordinator")}}
	n.serve(ctx)
	t.Cleanup(func() { n.stop(n.server) })
	return n
}

func (n *network) serve(ctx context.Context) {
	n.Helper()
	n.server.start("serve")
	must(n.T, n.server.running.AwaitLog(ctx, "msg=serving"))
}

func (n *network) stop(p *program) {
	must(n.T, p.running.Signal(os.Interrupt))
}

// agent adds one, not yet enrolled.
func (n *network) agent(ctx context.Context, name, bin string) *program {
	n.Helper()
	h, err := n.lab.Host(name, lab.Easy)
	must(n.T, err)
	dir := filepath.Join(n.dir, name)
	p := &program{T: n.T, host: h, bin: bin, name: "warren", args: []string{"--state", dir, "--socket", filepath.Join(dir, "sock")}}
	p.startDaemon(ctx)
	n.Cleanup(func() { n.stop(p) })
	return p
}

func (p *program) startDaemon(ctx context.Context) {
	p.Helper()
	p.start("daemon")
	p.until(ctx, "answering", func(string) bool { return true }, "status", "--json")
}

// enrol has it join as a device of ann.
func (n *network) enrol(ctx context.Context, p *program) {
	n.Helper()
	var t struct{ Token string }
	must(n.T, json.Unmarshal([]byte(n.server.must(ctx, "token", "create", "--user", "ann", "--json")), &t))
	p.must(ctx, "up", "--name", p.host.Name, t.Token)
}

// status is what all versions say of themselves.
type status struct {
	Self struct {
		Name      string
		Addresses []string
	}
	Coordinator struct{ Connected bool }
	Peers       []struct{ Name string }
}

func (p *program) status(ctx context.Context) (s status) {
	p.Helper()
	must(p.T, json.Unmarshal([]byte(p.must(ctx, "status", "--json")), &s))
	return s
}

// peers waits until it is connected and knows as many.
func (p *program) peers(ctx context.Context, n int) {
	p.Helper()
	p.until(ctx, fmt.Sprintf("connected with %d peers", n), func(out string) bool {
		var s status
		return json.Unmarshal([]byte(out), &s) == nil && s.Coordinator.Connected && len(s.Peers) == n
	}, "status", "--json")
}

// pings has each of them reach each other one through the tunnel.
func pings(ctx context.Context, t *testing.T, agents ...*program) {
	t.Helper()
	for _, from := range agents {
		for _, to := range agents {
			if from == to {
				continue
			}
			p, err := warrennet.NewPinger(from.host, to.status(ctx).Self.Addresses[0])
			must(t, err)
			_, err = p.Until(ctx, time.Second)
			p.Close()
			if err != nil {
				t.Fatalf("%s to %s: %v; they say\n%s\n%s", from.host.Name, to.host.Name, err, from.running.Log(), to.running.Log())
			}
		}
	}
}

// Policies: nothing, and everything.
const (
	nothing    = `{"grants": []}`
	everything = `{"grants": [{"name": "all", "src": ["*"], "dst": ["*"], "ip": ["*"]}]}`
)

func (n *network) setPolicy(ctx context.Context, text string) {
	n.Helper()
	file := filepath.Join(n.TempDir(), "policy")
	must(n.T, os.WriteFile(file, []byte(text), 0o600))
	n.server.must(ctx, "policy", "set", "--force", file)
}

// follow changes the policy, and has agents reach nobody or each other, as it says.
func (n *network) follow(ctx context.Context, agents ...*program) {
	n.Helper()
	n.setPolicy(ctx, nothing)
	for _, a := range agents {
		a.peers(ctx, 0)
	}
	n.setPolicy(ctx, everything)
	n.reach(ctx, agents...)
}

func (n *network) reach(ctx context.Context, agents ...*program) {
	n.Helper()
	for _, a := range agents {
		a.peers(ctx, len(agents)-1)
	}
	pings(ctx, n.T, agents...)
}

// replaceAgent puts another program in the place of the one that runs, on the state that is there. It keeps name and addresses.
func (n *network) replaceAgent(ctx context.Context, p *program, bin string) {
	n.Helper()
	before := p.status(ctx)
	n.stop(p)
	p.bin = bin
	p.startDaemon(ctx)
	p.until(ctx, "up as before", func(out string) bool {
		var s status
		return json.Unmarshal([]byte(out), &s) == nil && fmt.Sprint(s.Self) == fmt.Sprint(before.Self)
	}, "status", "--json")
}

// each runs a test with the programs of each older version.
func each(t *testing.T, test func(ctx context.Context, t *testing.T, v version, old string)) {
	for _, v := range versions() {
		t.Run(v.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			test(ctx, t, v, older[v.commit])
		})
	}
}

// Agents of both versions at a coordinator of today; then the old ones are replaced, one after the other.
func TestOldAgents(t *testing.T) {
	each(t, func(ctx context.Context, t *testing.T, _ version, old string) {
		n := newNetwork(ctx, t, today)
		agents := []*program{n.agent(ctx, "old1", old), n.agent(ctx, "old2", old), n.agent(ctx, "new1", today)}
		for _, a := range agents {
			n.enrol(ctx, a)
		}
		n.reach(ctx, agents...)
		n.follow(ctx, agents...)
		for _, a := range agents[:2] {
			n.replaceAgent(ctx, a, today)
			n.reach(ctx, agents...)
		}
	})
}

// Agents of both versions at an old coordinator, which is then replaced while they run.
func TestOldCoordinator(t *testing.T) {
	each(t, func(ctx context.Context, t *testing.T, v version, old string) {
		n := newNetwork(ctx, t, old)
		agents := []*program{n.agent(ctx, "new1", today), n.agent(ctx, "new2", today), n.agent(ctx, "old1", old)}
		for _, a := range agents {
			n.enrol(ctx, a)
		}
		n.reach(ctx, agents...)
		if v.policies {
			n.follow(ctx, agents...)
		}
		n.stop(n.server)
		n.server.bin = today
		n.serve(ctx)
		n.server.must(ctx, "check")
		n.reach(ctx, agents...)
		n.follow(ctx, agents...)
		late := n.agent(ctx, "new3", today)
		n.enrol(ctx, late)
		n.reach(ctx, append(agents, late)...)
	})
}

// A state that a coordinator of today has written is refused by one that does not know its schema, in words, and stays as it is.
func TestOldCoordinatorOnNewState(t *testing.T) {
	each(t, func(ctx context.Context, t *testing.T, v version, old string) {
		n := newNetwork(ctx, t, today)
		agent := n.agent(ctx, "new1", today)
		n.enrol(ctx, agent)
		n.stop(n.server)
		n.server.bin = old
		if !v.policies { // nor the schema
			if out, err := n.server.command(ctx, "serve"); err == nil || !strings.Contains(err.Error(), "newer warren-coordinator") {
				t.Errorf("the old coordinator said %s, %v", out, err)
			}
			n.server.bin = today
		}
		n.serve(ctx)
		agent.peers(ctx, 0)
	})
}
