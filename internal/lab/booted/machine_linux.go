package booted

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// Machine is a Debian of its own at a site. Its disk outlives its runs.
type Machine struct {
	Name string
	// Place is where it is plugged in at the site, with its addresses.
	Place *lab.Guest

	router  *lab.Host
	base    Root
	dir     string
	mounted bool
	run     *run // nil while it is off
}

// run is one from power on to power off.
type run struct {
	nspawn *warrennet.Daemon
	notes  *net.UnixConn
	leader int
	net    *os.File
}

// New makes a machine that is off and has never booted. Names have at most 11 characters. What it writes is kept below dir, which must be on a file
// system that an overlay can use.
func New(site *lab.Site, name string, base Root, dir string) (*Machine, error) {
	m := &Machine{Name: name, router: site.Router(), base: base, dir: dir}
	if len(m.port()) > 15 {
		return nil, fmt.Errorf("machine %s: a name of more than 11 characters", name)
	}
	var err error
	if m.Place, err = site.Guest(); err != nil {
		return nil, err
	}
	for _, part := range []string{"root", "changes", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, part), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(filepath.Join(dir, "changes"), 0o755); err != nil {
		return nil, err
	}
	network := fmt.Sprintf("[Match]\nName=host0\n[Network]\nAddress=%s\nGateway=%s\nLinkLocalAddressing=no\nIPv6AcceptRA=no\nLLMNR=no\nMulticastDNS=no\n",
		m.Place.Addr, m.Place.Gateway)
	return m, errors.Join(m.Write("/etc/systemd/network/10-lab.network", network), m.Write("/etc/hostname", name+"\n"))
}

// port is the router's end of the machine's cable, as systemd-nspawn names it.
func (m *Machine) port() string { return "ve-" + m.Name }

// Write puts a file of root's, which others may read, onto the machine's disk. It may be on or off.
func (m *Machine) Write(path, text string) error { return m.WriteFile(path, []byte(text), 0o644) }

// WriteFile is Write for any bytes and mode.
func (m *Machine) WriteFile(path string, b []byte, mode os.FileMode) error {
	if m.run != nil {
		return write(fmt.Sprintf("/proc/%d/root%s", m.run.leader, path), b, mode)
	}
	return write(filepath.Join(m.dir, "changes", path), b, mode)
}

// Boot starts the machine with its cable plugged in, and waits until systemd says that it has booted.
func (m *Machine) Boot(ctx context.Context) error {
	if err := m.PowerOn(ctx); err != nil {
		return err
	}
	if err := m.Plug(); err != nil {
		return err
	}
	return m.AwaitBooted(ctx)
}

// PowerOn starts the machine with no cable plugged in, and waits until its first process is there.
func (m *Machine) PowerOn(ctx context.Context) error {
	if m.run != nil {
		return fmt.Errorf("machine %s runs already", m.Name)
	}
	if err := m.mount(ctx); err != nil {
		return err
	}
	socket := filepath.Join(m.dir, "notify")
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	notes, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	cmd := m.router.Command(context.Background(), "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot",
		fmt.Sprintf("--notify-ready=%t", m.base.notifies), "--kill-signal="+m.base.poweroff,
		"--directory="+filepath.Join(m.dir, "root"), "--machine="+m.Name, "--network-veth", "--bind=/dev/net/tun", "--console=read-only",
		"--link-journal=no", "--resolv-conf=off", "--timezone=off")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+socket, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1", "SYSTEMD_NSPAWN_LOCK=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	nspawn, err := warrennet.StartCommand(cmd)
	if err != nil {
		return errors.Join(err, notes.Close())
	}
	m.run = &run{nspawn: nspawn, notes: notes}
	text, err := m.await(ctx, leaderNote)
	if err == nil {
		m.run.leader, err = strconv.Atoi(text)
	}
	if err == nil {
		m.run.net, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", m.run.leader))
	}
	return err
}

// mount lays the machine's own changes over the base, in the router's mount namespace.
func (m *Machine) mount(ctx context.Context) error {
	if m.mounted {
		return nil
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", m.base.Dir, filepath.Join(m.dir, "changes"), filepath.Join(m.dir, "work"))
	out, err := m.router.Command(ctx, "mount", "-t", "overlay", "overlay", "-o", options, filepath.Join(m.dir, "root")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("machine %s: disk: %w: %s", m.Name, err, out)
	}
	m.mounted = true
	return nil
}

// unmount has Write see the disk while the machine is off.
func (m *Machine) unmount() error {
	out, err := m.router.Command(context.Background(), "umount", filepath.Join(m.dir, "root")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("machine %s: disk: %w: %s", m.Name, err, out)
	}
	m.mounted = false
	return nil
}

// Notes of systemd-nspawn, in the form of sd_notify(3).
const (
	leaderNote = "X_NSPAWN_LEADER_PID="
	readyNote  = "READY="
)

// AwaitBooted waits until systemd says that it has started everything. Another first process says nothing: that it is there is all that is waited for.
func (m *Machine) AwaitBooted(ctx context.Context) error {
	_, err := m.await(ctx, readyNote)
	return err
}

// await reads notes until there is one of the kind, and gives what it says.
func (m *Machine) await(ctx context.Context, kind string) (string, error) {
	r := m.run
	stop := context.AfterFunc(ctx, func() { r.notes.SetReadDeadline(time.Now()) })
	defer stop()
	b := make([]byte, 4096)
	for {
		if err := r.notes.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return "", err
		}
		n, err := r.notes.Read(b)
		for line := range strings.Lines(string(b[:n])) {
			if said, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), kind); ok {
				return said, nil
			}
		}
		switch {
		case r.nspawn.Ended() || ctx.Err() != nil:
			return "", fmt.Errorf("machine %s does not get to %q: %w; its console:\n%s", m.Name, kind, context.Cause(ctx), last(r.nspawn.Log(), 4000))
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return "", err
		}
	}
}

// Unplug takes the machine's cable out.
func (m *Machine) Unplug() error { return m.Place.Unplug(m.port()) }

// Plug puts the machine's cable in.
func (m *Machine) Plug() error { return m.Place.Plug(m.port()) }

// PowerOff shuts the machine down in an orderly way.
func (m *Machine) PowerOff() error { return m.end(syscall.SIGTERM) }

// Cut takes the power away.
func (m *Machine) Cut() error { return m.end(syscall.SIGKILL) }

func (m *Machine) end(sig syscall.Signal) error {
	r := m.run
	if r == nil {
		return nil
	}
	m.run = nil
	if sig == syscall.SIGKILL && r.leader > 0 {
		// The first process takes all others with it.
		_ = syscall.Kill(r.leader, sig)
	}
	_ = r.nspawn.Signal(sig)
	if r.net != nil {
		r.net.Close()
	}
	return errors.Join(r.notes.Close(), m.unmount())
}

// Reboot shuts the machine down and boots it. Its kernel forgets everything, as network namespaces do.
func (m *Machine) Reboot(ctx context.Context) error { return errors.Join(m.PowerOff(), m.Boot(ctx)) }

// environment is what programs have on the machine.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root", "DEBIAN_FRONTEND=noninteractive", "TERM=dumb"}

// Command makes a command that runs on the machine, as root.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	leader := strconv.Itoa(m.run.leader)
	argv := slices.Concat([]string{"--target", leader, "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd=/", "env", "-i", "-C", "/root"},
		environment, []string{name}, args)
	return exec.CommandContext(ctx, "nsenter", argv...)
}

// Output runs a command and gives what it says.
func (m *Machine) Output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := m.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("on %s: %s %s: %w\n%s", m.Name, name, strings.Join(args, " "), err, last(string(out), 4000))
	}
	return string(out), nil
}

// Do runs f on a thread inside the machine's network namespace, as lab.Host.Do does.
func (m *Machine) Do(f func() error) error { return lab.Within(m.run.net, f) }

// Journal is what was said on the machine since it was made, read from its disk: it may be on or off, or out of order.
func (m *Machine) Journal(ctx context.Context, args ...string) string {
	dirs, err := filepath.Glob(filepath.Join(m.dir, "changes/var/log/journal/*"))
	if err != nil || len(dirs) == 0 {
		return "no journal"
	}
	args = append([]string{"--directory=" + dirs[0], "--no-pager", "--output=short-precise"}, args...)
	out, err := exec.CommandContext(ctx, "journalctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("journalctl %v: %v: %s", args, err, out)
	}
	return string(out)
}
