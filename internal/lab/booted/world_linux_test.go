//go:build booted

package booted

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
	"warren/internal/sim/natmodel"
)

// "make test-booted" gives the directories.
var (
	now   = flag.String("now", "", "packages of this commit, as \"packaging/build -only deb,rpm\" makes them")
	next  = flag.String("next", "", "the same as a higher version")
	cache = flag.String("cache", "", "where Debian's root is kept; the user's cache if empty")
)

// bin is where TestMain has put the programs, and base the root of most machines.
var (
	bin  string
	base Root
)

func TestMain(m *testing.M) {
	lab.Init() // first of all: it may not return
	flag.Parse()
	var err error
	if base, err = Base(context.Background(), *cache, Systemd()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	warrennet.Main(m, &bin)
}

// patience bounds every wait; what a test is about is asserted otherwise.
const patience = 3 * time.Minute

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a network with a peer, and machines to be booted in it.
type world struct {
	*warrennet.Network
	t   *testing.T
	ctx context.Context
	dir string
}

// newWorld has a coordinator; args are added to serve.
func newWorld(t *testing.T, args ...string) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return &world{warrennet.ForTest(ctx, t, bin, args...), t, ctx, t.TempDir()}
}

// machine makes one that is off, behind a NAT of its own or, if that is nil, with a public address.
func (w *world) machine(name string, nat *natmodel.Options) *machine {
	w.t.Helper()
	return w.with(base, name, nat)
}

// root gives another than base. It is asked for before the world is made, whose time a root that has to be made first would use up.
func root(t *testing.T, d Debian) Root {
	t.Helper()
	r, err := Base(t.Context(), *cache, d)
	must(t, err)
	return r
}

// with is machine with another root.
func (w *world) with(base Root, name string, nat *natmodel.Options) *machine {
	w.t.Helper()
	site, err := w.Lab.Site(name, lab.Access{NAT: nat, MTU: 1500})
	must(w.t, err)
	m, err := New(site, name, base, filepath.Join(w.dir, name))
	must(w.t, err)
	w.t.Cleanup(func() {
		if err := m.Cut(); err != nil {
			w.t.Error(err)
		}
		if w.t.Failed() {
			w.t.Logf("journal of %s:\n%s", name, last(m.Journal(context.Background(), "--lines=300"), 20000))
		}
	})
	return &machine{m, w}
}

// booted is machine with the packages of this commit installed, but not enrolled.
func (w *world) booted(name string) *machine {
	w.t.Helper()
	m := w.machine(name, natmodel.Easy())
	must(w.t, m.Boot(w.ctx))
	m.install(*now, "warren")
	return m
}

// joined is booted and enrolled, with a peer that pings it.
func (w *world) joined(name string) (*machine, *peer) {
	w.t.Helper()
	m := w.booted(name)
	m.up()
	return m, w.peer(m)
}

// peer is a device of the lab's own with a public address.
type peer struct {
	*warrennet.Device
	addr string // of the machine that it pings
}

// peer adds one and pings the machine until an answer comes.
func (w *world) peer(m *machine) *peer {
	w.t.Helper()
	d, err := w.Device(w.ctx, "peer", lab.None)
	must(w.t, err)
	token, err := w.Token(w.ctx)
	must(w.t, err)
	must(w.t, d.Up(w.ctx, token))
	p := &peer{Device: d, addr: m.address()}
	w.reached(p, "at first")
	return p
}

// reached waits until the peer's pings are answered, and tells how long that took.
func (w *world) reached(p *peer, when string) time.Duration {
	w.t.Helper()
	pinger, err := warrennet.NewPinger(p.Host, p.addr) // a new one sees no answers to what was asked before
	must(w.t, err)
	defer pinger.Close()
	began := time.Now()
	if err := pinger.First(w.ctx, 10*time.Millisecond); err != nil {
		w.t.Fatalf("%s: %v", when, err)
	}
	took := time.Since(began)
	w.t.Logf("%s: the first ping was answered after %s", when, took.Round(time.Millisecond))
	return took
}

// machine is one under test: its methods fail the test.
type machine struct {
	*Machine
	w *world
}

// must runs a command as root.
func (m *machine) must(name string, args ...string) string {
	m.w.t.Helper()
	out, err := m.Output(m.w.ctx, name, args...)
	must(m.w.t, err)
	return out
}

// refused runs a command that must fail, and gives what it says.
func (m *machine) refused(name string, args ...string) string {
	m.w.t.Helper()
	out, err := m.Output(m.w.ctx, name, args...)
	if err == nil {
		m.w.t.Fatalf("%s %s succeeds: %s", name, strings.Join(args, " "), out)
	}
	return out
}

// bring puts the one package from a directory that a pattern fits onto the machine, and gives its path there.
func (m *machine) bring(dir, pattern string) string {
	m.w.t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) != 1 {
		m.w.t.Fatalf("packages %s in %q: %v, %v; run \"make test-booted\"", pattern, dir, found, err)
	}
	b, err := os.ReadFile(found[0])
	must(m.w.t, err)
	at := "/var/tmp/" + filepath.Base(found[0])
	must(m.w.t, m.WriteFile(at, b, 0o644))
	return at
}

// install has apt install or upgrade a program's package.
func (m *machine) install(dir, program string) {
	m.w.t.Helper()
	m.must("apt-get", "install", "--quiet", "--yes", "--no-install-recommends", m.bring(dir, program+"_*_amd64.deb"))
}

// up enrols the machine by a new token.
func (m *machine) up() {
	m.w.t.Helper()
	token, err := m.w.Token(m.w.ctx)
	must(m.w.t, err)
	m.must("warren", "up", "--name", m.Name, token)
}

// status asks the agent.
func (m *machine) status() (*warrennet.Status, error) {
	out, err := m.Command(m.w.ctx, "warren", "status", "--json").Output()
	if err != nil {
		return nil, fmt.Errorf("warren status: %w: %s", err, out)
	}
	var s warrennet.Status
	return &s, json.Unmarshal(out, &s)
}

// await asks for the status until ok holds.
func (m *machine) await(what string, ok func(*warrennet.Status) bool) *warrennet.Status {
	m.w.t.Helper()
	var s *warrennet.Status
	m.until(what, func() (done bool, state string) {
		var err error
		s, err = m.status()
		return err == nil && ok(s), fmt.Sprintf("%+v, %v", s, err)
	})
	return s
}

// until asks again and again until something is so.
func (m *machine) until(what string, so func() (done bool, state string)) {
	m.w.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		done, state := so()
		if done {
			return
		}
		select {
		case <-m.w.ctx.Done():
			m.w.t.Fatalf("%s is still not %s: %s", m.Name, what, state)
		case <-tick.C:
		}
	}
}

// address is the machine's own in the network.
func (m *machine) address() string {
	m.w.t.Helper()
	s := m.await("up", func(s *warrennet.Status) bool { return s.State == "up" && len(s.Self.Addresses) > 0 })
	return s.Self.Addresses[0]
}

// unit asks systemd for a property of a unit.
func (m *machine) unit(name, property string) string {
	m.w.t.Helper()
	return strings.TrimSpace(m.must("systemctl", "show", "--value", "--property="+property, name))
}

// dropIn adds settings to a unit.
func (m *machine) dropIn(unit, text string) {
	m.w.t.Helper()
	must(m.w.t, m.Write("/etc/systemd/system/"+unit+".d/test.conf", text))
	m.must("systemctl", "daemon-reload")
}
