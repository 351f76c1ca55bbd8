//go:build booted

package booted

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
	"warren/internal/sim/natmodel"
)

// openrc makes a machine that OpenRC starts, and starts it.
func (w *world) openrc(debian Root, name string, nat *natmodel.Options) *machine {
	w.t.Helper()
	m := w.with(debian, name, nat)
	must(w.t, m.Write("/etc/network/interfaces", fmt.Sprintf("auto lo\niface lo inet loopback\nauto host0\niface host0 inet static\n\taddress %s\n\tgateway %s\n",
		m.Place.Addr, m.Place.Gateway)))
	// There is no syslog; what services say is for the test.
	const said = "/var/log/services"
	must(w.t, m.WriteFile("/usr/bin/logger", []byte("#!/bin/sh\nexec cat >>"+said+"\n"), 0o755))
	w.t.Cleanup(func() {
		if w.t.Failed() && m.run != nil {
			out, err := m.Command(context.Background(), "sh", "-c", "rc-status --all; ps -ef; tail -n 60 "+said).CombinedOutput()
			w.t.Logf("%s, %v:\n%s", name, err, out)
		}
	})
	m.startOpenRC()
	return m
}

// startOpenRC boots the machine and waits until OpenRC has started everything.
func (m *machine) startOpenRC() {
	m.w.t.Helper()
	must(m.w.t, m.Boot(m.w.ctx))
	m.until("in the default runlevel", func() (bool, string) {
		out, err := m.Output(m.w.ctx, "rc-status", "--runlevel")
		return err == nil && strings.TrimSpace(out) == "default", out
	})
}

// unpack puts a package for Alpine onto the machine as apk does, whose scripts the test calls: there is no apk.
func (m *machine) unpack(dir, program string) {
	m.w.t.Helper()
	m.must("sh", "-ec", "tar -xzf "+m.bring(dir, program+"_[0-9]*_x86_64.apk")+" -C / --keep-directory-symlink --exclude='.[A-Zp]*'")
}

// script runs one of the package's.
func (m *machine) script(name string) {
	m.w.t.Helper()
	path, err := filepath.Abs("../../../packaging/scripts/" + name)
	must(m.w.t, err)
	must(m.w.t, m.WriteFile("/var/tmp/"+name, []byte(read(m.w.t, path)), 0o755))
	m.must("/var/tmp/" + name)
}

// started tells whether OpenRC says that a service runs.
func (m *machine) started(service string) bool {
	m.w.t.Helper()
	out, err := m.Output(m.w.ctx, "rc-service", service, "status")
	return err == nil && strings.Contains(out, "started")
}

// awaitStarted waits for that, and that there is one process of the program below its supervisor, other than old. It gives its number.
func (m *machine) awaitStarted(service, program, old string) (pid string) {
	m.w.t.Helper()
	m.until(service+" started", func() (bool, string) {
		out, _ := m.Output(m.w.ctx, "pgrep", "-f", "^"+program+" ")
		pid = strings.TrimSpace(out)
		return m.started(service) && regexp.MustCompile(`^\d+$`).MatchString(pid) && pid != old, out
	})
	return pid
}

// restarts has OpenRC restart a service several times, also as it does while the runlevel changes, which is without regard to dependencies. After each
// it says that the service is started, at once, and there is a new process. It gives the number of the last.
func (m *machine) restarts(service, program, pid string) string {
	m.w.t.Helper()
	for i, args := range [][]string{nil, {"--nodeps"}, {"--nodeps"}, nil, nil, {"--nodeps"}} {
		m.must("rc-service", append([]string{service, "restart"}, args...)...)
		if !m.started(service) {
			m.w.t.Fatalf("%s is not started after restart %d %q", service, i+1, args)
		}
		pid = m.awaitStarted(service, program, pid)
	}
	return pid
}

// confined compares what a process may with what the script says.
func (m *machine) confined(pid, uid string, capabilities uint64) {
	m.w.t.Helper()
	status := m.must("cat", "/proc/"+pid+"/status")
	got := map[string]string{}
	for _, key := range []string{"Uid", "CapEff", "CapBnd", "NoNewPrivs", "Umask"} {
		got[key] = strings.Fields(regexp.MustCompile(`(?m)^` + key + `:\s*(.*)$`).FindStringSubmatch(status)[1])[0]
	}
	caps := fmt.Sprintf("%016x", capabilities)
	if diff := cmp.Diff(map[string]string{"Uid": uid, "CapEff": caps, "CapBnd": caps, "NoNewPrivs": "1", "Umask": "0077"}, got); diff != "" {
		m.w.t.Errorf("process %s (-want +got):\n%s", pid, diff)
	}
}

// Numbers of capabilities(7).
const (
	capChown          = 0
	capNetBindService = 10
	capNetAdmin       = 12
	capNetRaw         = 13
)

// TestOpenRC: OpenRC starts, reloads, restarts, respawns and stops the agent of the package for Alpine, also when it boots, and loads the kill switch. The
// package's scripts upgrade and remove it.
func TestOpenRC(t *testing.T) {
	debian := root(t, OpenRC())
	w := newWorld(t)
	m := w.openrc(debian, "alpine", natmodel.Easy())
	m.unpack(*now, "warren")
	for _, line := range strings.Split(replace(t, typed(t, "install.md", "sudo rc-update add warren "), " && ", "\n"), "\n") {
		m.must("sh", "-c", line)
	}
	pid := m.awaitStarted("warren", "/usr/bin/warren", "")
	m.confined(pid, "0", 1<<capChown|1<<capNetBindService|1<<capNetAdmin|1<<capNetRaw)
	m.up()
	p := w.peer(m)

	must(t, m.Write("/etc/warren/agent.toml", "advertise = [\"10.9.0.0/16\"]\n"))
	m.must("rc-service", "warren", "reload")
	m.await("advertising", func(s *warrennet.Status) bool {
		return len(s.Advertised) == 1 && s.Advertised[0].Prefix == "10.9.0.0/16"
	})
	if again := m.awaitStarted("warren", "/usr/bin/warren", ""); again != pid {
		t.Errorf("a reload made process %s of %s", again, pid)
	}
	pid = m.restarts("warren", "/usr/bin/warren", pid)
	w.reached(p, "after restarts")
	m.must("kill", "-9", pid)
	pid = m.awaitStarted("warren", "/usr/bin/warren", pid)
	w.reached(p, "after kill -9")

	m.must("rc-update", "add", "warren-killswitch", "boot")
	m.must("warren", "up", "--kill-switch")
	m.must("nft", "list", "ruleset")
	must(t, m.PowerOff())
	m.startOpenRC()
	pid = m.awaitStarted("warren", "/usr/bin/warren", "")
	w.reached(p, "after a reboot")
	if !m.started("warren-killswitch") {
		t.Error("the kill switch's service is not started")
	}

	m.unpack(*next, "warren")
	m.script("warren.apk.postupgrade")
	if again := m.awaitStarted("warren", "/usr/bin/warren", ""); again != pid {
		t.Errorf("the upgrade made process %s of %s", again, pid)
	}
	if s := m.await("up", connected); !strings.Contains(s.Version, "900.0.0") {
		t.Errorf("after an upgrade the daemon is of version %s", s.Version)
	}
	w.reached(p, "after an upgrade")

	m.must("rc-service", "warren", "stop")
	if m.started("warren") {
		t.Error("it is started after a stop")
	}
	m.refused("ip", "link", "show", "warren0")
	m.must("rc-service", "warren", "start")
	m.awaitStarted("warren", "/usr/bin/warren", "")
	m.script("warren.apk.predeinstall")
	for what, line := range map[string]string{
		"kill switch": "nft list ruleset | grep .", "interface": "ip link show warren0", "process": "pgrep -f '^/usr/bin/warren'", "runlevel": "rc-update show | grep warren",
	} {
		if out, err := m.Output(w.ctx, "sh", "-c", line); err == nil {
			t.Errorf("after removal there is still a %s: %s", what, out)
		}
	}
}

// TestOpenRCCoordinator: the same for coordinator and relay, each of which runs as a user of its own.
func TestOpenRCCoordinator(t *testing.T) {
	debian := root(t, OpenRC())
	w := newWorld(t)
	m := w.openrc(debian, "hub", nil)
	m.unpack(*now, "warren-coordinator")
	m.must("rc-update", "add", "warren-coordinator")
	m.must("rc-service", "warren-coordinator", "start")
	const program = "/usr/bin/warren-coordinator"
	pid := m.awaitStarted("warren-coordinator", program, "")
	outside, err := w.Lab.Host("outside", lab.None)
	must(t, err)
	serving := func(when string) {
		t.Helper()
		m.until("serving "+when, func() (bool, string) {
			err := healthy(w.ctx, outside, m.Place.Public.String()+":443")
			return err == nil, fmt.Sprint(err)
		})
	}
	serving("at first")
	m.confined(pid, strings.TrimSpace(m.must("id", "-u", "warren-coordinator")), 1<<capNetBindService)
	w.join(m, "laptop")
	devices := m.devices()

	must(t, m.Write("/etc/warren-coordinator/coordinator.toml", "log-level = \"debug\"\n"))
	m.must("rc-service", "warren-coordinator", "reload")
	serving("after a reload")
	if again := m.awaitStarted("warren-coordinator", program, ""); again != pid {
		t.Errorf("a reload made process %s of %s", again, pid)
	}
	pid = m.restarts("warren-coordinator", program, pid)
	serving("after restarts")
	m.must("kill", "-9", pid)
	pid = m.awaitStarted("warren-coordinator", program, pid)
	serving("after kill -9")
	must(t, m.PowerOff())
	m.startOpenRC()
	pid = m.awaitStarted("warren-coordinator", program, "")
	serving("after a reboot")
	m.unpack(*next, "warren-coordinator")
	m.script("warren-coordinator.apk.postupgrade")
	m.awaitStarted("warren-coordinator", program, pid)
	serving("after an upgrade")
	if diff := cmp.Diff(devices, m.devices()); diff != "" {
		t.Errorf("devices before and after: %s", diff)
	}

	r := w.openrc(debian, "relay", nil)
	r.unpack(*now, "warren-coordinator")
	var token struct{ Token string }
	must(t, json.Unmarshal([]byte(m.must("warren-coordinator", "token", "create", "--relay", "--json")), &token))
	must(t, r.WriteFile("/etc/conf.d/warren-relay", []byte("WARREN_TOKEN="+token.Token+"\nwarren_relay_flags=\"--region fra --name distant\"\n"), 0o600))
	r.must("rc-update", "add", "warren-relay")
	r.must("rc-service", "warren-relay", "start")
	pid = r.awaitStarted("warren-relay", program, "")
	m.until("listing the relay", func() (bool, string) {
		out := m.must("warren-coordinator", "relays", "list")
		return strings.Contains(out, "distant"), out
	})
	r.confined(pid, strings.TrimSpace(r.must("id", "-u", "warren-relay")), 1<<capNetBindService)
	r.restarts("warren-relay", program, pid)

	r.must("rc-service", "warren-relay", "stop")
	m.script("warren-coordinator.apk.predeinstall")
	for _, x := range []*machine{m, r} {
		if out, err := x.Output(w.ctx, "pgrep", "-f", program); err == nil {
			t.Errorf("on %s there is still process %s", x.Name, out)
		}
	}
}

// TestOpenRCServiceWithoutPackage: a program that was copied makes itself a service of OpenRC, and takes it back.
func TestOpenRCServiceWithoutPackage(t *testing.T) {
	debian := root(t, OpenRC())
	w := newWorld(t)
	m := w.openrc(debian, "alpine", natmodel.Easy())
	m.put("warren")
	m.put("warren-coordinator")
	scripts := func() []string { return strings.Fields(m.must("sh", "-c", "ls /etc/init.d /etc/runlevels/*")) }
	before := scripts()
	says := func(program, want string) {
		t.Helper()
		if said := m.must(program, "service", "status"); !strings.Contains(said, want) {
			t.Errorf("%s service status says %q, not %q", program, said, want)
		}
	}
	says("warren", "not installed as a service of OpenRC")
	m.must("warren", "service", "install")
	says("warren", "warren runs, and starts with the system")
	const program = "/usr/local/bin/warren"
	pid := m.awaitStarted("warren", program, "")
	m.up()
	p := w.peer(m)
	m.must("warren", "service", "restart")
	pid = m.awaitStarted("warren", program, pid)
	w.reached(p, "after service restart")
	m.must("warren", "service", "stop")
	says("warren", "warren is stopped, and starts with the system")
	must(t, m.PowerOff())
	m.startOpenRC()
	w.reached(p, "after a reboot")
	m.awaitStarted("warren", program, "")
	m.must("warren", "service", "stop")
	m.must("warren", "service", "start")
	w.reached(p, "after service start")
	m.must("warren", "up", "--kill-switch")

	m.must("warren-coordinator", "service", "install")
	says("warren-coordinator", "warren-coordinator runs, and starts with the system")
	m.until("serving", func() (bool, string) {
		out, err := m.Output(w.ctx, "warren-coordinator", "token", "create")
		return err == nil, out
	})
	m.must("warren-coordinator", "service", "uninstall")
	m.must("warren", "service", "uninstall")
	says("warren", "not installed as a service of OpenRC")
	if after := scripts(); !slices.Equal(before, after) {
		t.Errorf("scripts and runlevels before and after: %s", cmp.Diff(before, after))
	}
	for what, line := range map[string]string{"kill switch": "nft list ruleset | grep .", "interface": "ip link show warren0", "process": "pgrep -f '^/usr/local/bin/warren'"} {
		if out, err := m.Output(w.ctx, "sh", "-c", line); err == nil {
			t.Errorf("after service uninstall there is still a %s: %s", what, out)
		}
	}
	m.must("test", "-s", "/var/lib/warren/state.json")
}
