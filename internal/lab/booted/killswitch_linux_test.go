//go:build booted

package booted

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/internal/capture"
	"warren/internal/lab"
	"warren/internal/sim/natmodel"
)

// capture begins to record what a machine sends by its cable, at the router's end.
func (w *world) capture(m *machine) *cable {
	w.t.Helper()
	c := &cable{w: w}
	must(w.t, m.router.Do(func() (err error) {
		c.Capture, err = capture.Open(m.port(), capture.Incoming)
		return err
	}))
	w.t.Cleanup(func() { must(w.t, c.Close()) })
	return c
}

// cable is what a machine sends by it.
type cable struct {
	*capture.Capture
	w *world
}

// sofar gives what was sent up to now, and has it that nothing is missing.
func (c *cable) sofar() []capture.Frame {
	c.w.t.Helper()
	if missing, err := c.Missing(); err != nil || missing > 0 {
		c.w.t.Fatalf("of the capture %d packets are missing: %v", missing, err)
	}
	return c.Since(0)
}

// chatter is a service that sends from the first moment of a boot, to an address of the internet, and counts how often the system let it.
const chatter = `[Unit]
DefaultDependencies=no
[Service]
ExecStart=/bin/bash -c 'n=0; while :; do n=$((n+1)); echo $n >/run/chatter; echo leak >/dev/udp/%[1]s/9999; echo leak >/dev/tcp/%[1]s/80 & sleep 0.005; wait; done' 2>/dev/null
StandardError=null
[Install]
WantedBy=sysinit.target
`

// TestKillSwitchAtBoot: from the moment that the network is up, and with the agent not there, nothing leaves a machine whose kill switch is on.
func TestKillSwitchAtBoot(t *testing.T) {
	w := newWorld(t)
	server, err := w.Lab.Host("server", lab.None)
	must(t, err)
	m, p := w.joined("laptop")
	must(t, m.Write("/etc/systemd/system/chatter.service", fmt.Sprintf(chatter, server.Addr)))
	m.must("systemctl", "enable", "chatter.service")
	m.must("systemctl", "disable", "warren.service")
	bad := func(f capture.Frame) bool { return f.Kind != unix.ETH_P_ARP }
	// boot gives what left until the service had tried another so many times after the boot.
	boot := func() (leaks []capture.Frame) {
		t.Helper()
		must(t, m.PowerOff())
		must(t, m.PowerOn(w.ctx))
		c := w.capture(m)
		must(t, m.Plug())
		must(t, m.AwaitBooted(w.ctx))
		first := m.count("/run/chatter")
		m.until("chattering", func() (bool, string) { n := m.count("/run/chatter"); return n > first+100, fmt.Sprint(n) })
		for _, f := range c.sofar() {
			if bad(f) {
				leaks = append(leaks, f)
			}
		}
		t.Logf("the program on the machine has sent %d times; %d packets have left", m.count("/run/chatter"), len(leaks))
		return leaks
	}
	if len(boot()) < 20 {
		t.Fatal("without the kill switch hardly anything leaves: the test sees nothing")
	}
	m.must("systemctl", "start", "warren.service")
	m.must("warren", "up", "--kill-switch")
	if leaks := boot(); len(leaks) > 0 {
		t.Errorf("%d packets have left, the first: %s", len(leaks), leaks[0])
	}
	if got := m.unit("warren-killswitch.service", "ActiveState"); got != "active" {
		t.Errorf("warren-killswitch.service is %s", got)
	}
	m.must("systemctl", "start", "warren.service")
	w.reached(p, "with the kill switch on")

	// In the order in which systemd starts them by itself nothing leaves either.
	m.must("systemctl", "enable", "warren.service")
	bad = func(f capture.Frame) bool { return f.Kind != unix.ETH_P_ARP && f.To == server.Addr }
	if leaks := boot(); len(leaks) > 0 {
		t.Errorf("with the agent %d packets have left, the first: %s", len(leaks), leaks[0])
	}
	w.reached(p, "after a boot with the kill switch on")
	m.must("systemctl", "stop", "warren.service")
	m.refused("ping", "-c1", "-W1", server.Addr.String())
	m.must("apt-get", "purge", "--quiet", "--yes", "warren")
	m.until("free of the kill switch", func() (bool, string) {
		out, err := m.Output(w.ctx, "ping", "-c1", "-W1", server.Addr.String())
		return err == nil, out
	})
}

// count reads a number from a file of the machine.
func (m *machine) count(file string) (n int) {
	out, err := m.Output(m.w.ctx, "cat", file)
	if err == nil {
		_, _ = fmt.Sscan(out, &n) // it may be empty at this moment
	}
	return n
}

// TestKillSwitchWithoutNFT: a machine without nft cannot load the kill switch before the network; the agent sets it when it starts.
func TestKillSwitchWithoutNFT(t *testing.T) {
	w := newWorld(t)
	server, err := w.Lab.Host("server", lab.None)
	must(t, err)
	m := w.machine("laptop", natmodel.Easy())
	must(t, m.Boot(w.ctx))
	m.install(*now, "warren")
	m.up()
	m.must("warren", "up", "--kill-switch")
	m.must("mv", "/usr/sbin/nft", "/usr/sbin/nft.away")
	must(t, m.Reboot(w.ctx))
	if got := m.unit("warren-killswitch.service", "ActiveState"); got != "failed" {
		t.Errorf("warren-killswitch.service is %s without nft", got)
	}
	m.address()
	m.refused("ping", "-c1", "-W1", server.Addr.String())
	began := time.Now()
	m.must("warren", "up", "--kill-switch=false")
	m.must("ping", "-c1", "-W1", server.Addr.String())
	t.Logf("lifted after %s", time.Since(began).Round(time.Millisecond))
}
