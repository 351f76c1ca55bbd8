//go:build booted

package booted

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// callers connect to a coordinator all the time, each time anew, as agents and browsers would that know nothing of a restart.
type callers struct {
	stop   func()
	mu     sync.Mutex
	calls  int
	failed []error
	worst  time.Duration
}

// callEvery is between calls, and callPatience for how long each may take.
const (
	callEvery    = 20 * time.Millisecond
	callPatience = 10 * time.Second
)

// call begins to, from a host.
func (w *world) call(from *lab.Host, address string) *callers {
	w.t.Helper()
	c := &callers{}
	ctx, cancel := context.WithCancel(w.ctx)
	var all sync.WaitGroup
	all.Go(func() {
		tick := time.NewTicker(callEvery)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			all.Go(func() { c.once(w.ctx, from, address) })
		}
	})
	c.stop = sync.OnceFunc(func() { cancel(); all.Wait() })
	w.t.Cleanup(c.stop)
	return c
}

func (c *callers) once(ctx context.Context, from *lab.Host, address string) {
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	began := time.Now()
	err := healthy(ctx, from, address)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	c.worst = max(c.worst, time.Since(began))
	if err != nil {
		c.failed = append(c.failed, fmt.Errorf("after %s: %w", time.Since(began).Round(time.Millisecond), err))
	}
}

// healthy asks a coordinator whether it serves, by a connection of its own.
func healthy(ctx context.Context, from *lab.Host, address string) error {
	t := &http.Transport{
		DialContext:     func(ctx context.Context, network, a string) (net.Conn, error) { return from.Dial(ctx, network, a) },
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/healthz", nil)
	if err != nil {
		return err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return err
}

// hub is a machine with the coordinator's package, at a public address.
func (w *world) hub() *machine {
	w.t.Helper()
	m := w.machine("hub", nil)
	must(w.t, m.Boot(w.ctx))
	m.install(*now, "warren-coordinator")
	m.until("serving", func() (bool, string) {
		s := m.unit("warren-coordinator.service", "ActiveState")
		return s == "active", s
	})
	return m
}

// join adds a device behind a hard NAT to the hub's network: two such reach each other by the relay only.
func (w *world) join(m *machine, name string) *warrennet.Device {
	w.t.Helper()
	d, err := w.Device(w.ctx, name, lab.Hard)
	must(w.t, err)
	var t struct{ Token string }
	must(w.t, json.Unmarshal([]byte(m.must("warren-coordinator", "token", "create", "--json")), &t))
	must(w.t, d.Up(w.ctx, t.Token))
	return d
}

// relayBack is the longest time that what a coordinator's relay carries may stand still while the coordinator is restarted.
const relayBack = 2 * time.Second

// TestCoordinatorUpgrade: apt upgrades a coordinator that is called all the time and whose relay carries a ping every millisecond. No call fails, what
// the relay carries goes on soon, and devices and keys are the same afterwards, also after a reboot.
func TestCoordinatorUpgrade(t *testing.T) {
	w := newWorld(t)
	m := w.hub()
	a, b := w.join(m, "left"), w.join(m, "right")
	s, err := b.Status(w.ctx)
	must(t, err)
	p := &peer{a, s.Self.Addresses[0]}
	w.reached(p, "over the relay")
	outside, err := w.Lab.Host("outside", lab.None)
	must(t, err)
	devices := m.devices()
	for _, change := range []struct {
		what string
		do   func()
	}{
		{"apt install of a higher version", func() { m.install(*next, "warren-coordinator") }},
		{"systemctl restart", func() { m.must("systemctl", "restart", "warren-coordinator.service") }},
	} {
		meter, err := warrennet.NewMeter(w.ctx, p.Host, p.addr)
		must(t, err)
		w.reached(p, "before "+change.what)
		c := w.call(outside, m.Place.Public.String()+":443")
		began, pid := time.Now(), m.unit("warren-coordinator.service", "MainPID")
		change.do()
		took := time.Since(began)
		if m.unit("warren-coordinator.service", "MainPID") == pid {
			t.Errorf("%s: it is still the same process", change.what)
		}
		for _, d := range []*warrennet.Device{a, b} {
			_, err := d.Await(w.ctx, "connected", func(s *warrennet.Status) bool { return s.Coordinator.Connected })
			must(t, err)
		}
		w.reached(p, "after "+change.what)
		c.stop()
		long := meter.Longest(began)
		meter.Close()
		t.Logf("%s: it took %s; of %d calls %d failed, the longest took %s; for %s no ping over the relay was answered", change.what, took.Round(time.Millisecond),
			c.calls, len(c.failed), c.worst.Round(time.Millisecond), long.Round(time.Millisecond))
		for _, err := range c.failed[:min(5, len(c.failed))] {
			t.Errorf("%s: a call failed %v", change.what, err)
		}
		if long > relayBack {
			t.Errorf("%s: for %s no ping over the relay was answered; at most %s is allowed", change.what, long, relayBack)
		}
	}
	if diff := cmp.Diff(devices, m.devices()); diff != "" {
		t.Errorf("devices before and after: %s", diff)
	}
	must(t, m.Reboot(w.ctx))
	w.reached(p, "after a reboot of the coordinator")

	// What keeps connections from being refused is systemd's store. Without it the calls show that.
	m.dropIn("warren-coordinator.service", "[Service]\nFileDescriptorStoreMax=0\n")
	m.must("systemctl", "restart", "warren-coordinator.service")
	c := w.call(outside, m.Place.Public.String()+":443")
	m.must("systemctl", "restart", "warren-coordinator.service")
	c.stop()
	if len(c.failed) == 0 {
		t.Errorf("none of %d calls fails without the store: the test sees nothing", c.calls)
	}
}

// devices lists names and addresses of the coordinator's.
func (m *machine) devices() (all []device) {
	m.w.t.Helper()
	must(m.w.t, json.Unmarshal([]byte(m.must("warren-coordinator", "device", "list", "--json")), &all))
	if len(all) == 0 {
		m.w.t.Error("the coordinator knows no devices")
	}
	return all
}

type device struct {
	Name      string
	Addresses []string
}

// TestCoordinatorReload: systemctl reload leaves the process, and whom it serves, as they are.
func TestCoordinatorReload(t *testing.T) {
	w := newWorld(t)
	m := w.hub()
	outside, err := w.Lab.Host("outside", lab.None)
	must(t, err)
	c := w.call(outside, m.Place.Public.String()+":443")
	pid := m.unit("warren-coordinator.service", "MainPID")
	m.must("sed", "-i", `s/^#log-level = .*/log-level = "debug"/`, "/etc/warren-coordinator/coordinator.toml")
	m.must("systemctl", "reload", "warren-coordinator.service")
	m.must("sed", "-i", `s/^log-level = .*/log-level = "loud"/`, "/etc/warren-coordinator/coordinator.toml")
	_, _ = m.Output(w.ctx, "systemctl", "reload", "warren-coordinator.service") // whether it says so or only the journal does
	m.must("warren-coordinator", "status")
	c.stop()
	if len(c.failed) > 0 {
		t.Errorf("of %d calls %d failed, the first %v", c.calls, len(c.failed), c.failed[0])
	}
	if got := m.unit("warren-coordinator.service", "MainPID"); got != pid {
		t.Errorf("process %s became %s", pid, got)
	}
}
