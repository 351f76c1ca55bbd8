package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
)

// Bounds of the state directory's file system. The map of a large network takes a few megabytes, and is written beside the one before.
const (
	minFree  = 16 << 20
	lowFree  = 64 << 20
	lowFiles = 100
)

// notNeeded is for checks of what a tunnel without an interface does without.
func notNeeded(name string) []Finding {
	return fine(name, "not needed: the tunnel has no interface")
}

const askRoot = "run \"warren doctor\" with sudo"

// hidden reports whether this user may learn neither from the daemon nor from the state directory what the device is.
func (f Facts) hidden() bool { return !f.Daemon.Running && (f.Daemon.Denied || f.State.Denied) }

// before is what has to be done before something can be known of the network.
func (f Facts) before() string {
	if f.hidden() {
		return askRoot
	}
	return "\"warren up\" first"
}

func tun(f Facts) []Finding {
	const name = "tun"
	t := f.TUN
	switch {
	case f.userspace():
		return notNeeded(name)
	case t == nil:
		return unknown(name, "", "how a tunnel is made on %s is not checked yet", f.OS)
	case t.Err == nil:
		return fine(name, "%s can be opened", t.Path)
	case errors.Is(t.Err, fs.ErrNotExist), errors.Is(t.Err, syscall.ENODEV), errors.Is(t.Err, syscall.ENXIO):
		return one(name, Failed, "load it by \"modprobe tun\", or give the container that device (--device /dev/net/tun)", "%s is missing: %v", t.Path, t.Err)
	case errors.Is(t.Err, fs.ErrPermission) && f.UID != 0:
		return unknown(name, askRoot, "%s is there; whether the daemon may open it is not known", t.Path)
	case errors.Is(t.Err, fs.ErrPermission):
		return one(name, Failed, "allow the device to the container or service (--device /dev/net/tun, DeviceAllow=/dev/net/tun rw)", "%s may not be opened: %v", t.Path, t.Err)
	case errors.Is(t.Err, errNoDevice):
		return one(name, Failed, "remove it and make it anew: mknod "+t.Path+" c 10 200", "%s is not the TUN device: %v", t.Path, t.Err)
	}
	return one(name, Failed, "see what is there by \"ls -l "+t.Path+"\"", "%s: %v", t.Path, t.Err)
}

// errNoDevice says that something else has the device's name.
var errNoDevice = errors.New("no character device 10, 200")

func rights(f Facts) []Finding {
	const name = "rights"
	r := f.Rights
	switch {
	case f.userspace():
		return notNeeded(name)
	case r == nil:
		return unknown(name, "", "the daemon's rights are not known")
	case len(r.Missing) == 0 && r.Daemon:
		return fine(name, "the daemon has the capabilities that it needs")
	case len(r.Missing) == 0:
		return fine(name, "a daemon that is started from here has the capabilities that it needs")
	case r.Daemon:
		return one(name, Failed, "start it as root, or by a unit or container with these capabilities (AmbientCapabilities=, --cap-add)",
			"the daemon lacks %s", strings.Join(r.Missing, ", "))
	case f.UID != 0:
		return unknown(name, askRoot, "user %d has no %s, and a daemon would need that", f.UID, strings.Join(r.Missing, ", "))
	}
	return one(name, Failed, "give the container these capabilities (--cap-add NET_ADMIN --cap-add NET_RAW)", "root lacks %s here", strings.Join(r.Missing, ", "))
}

func stateDir(f Facts) (out []Finding) {
	const name = "state"
	s := f.State
	switch {
	case s.Absent:
		return fine(name, "%s is not there yet; \"warren up\" makes it", s.Dir)
	case s.Mode.Perm()&0o077 != 0:
		out = one(name, Failed, "chmod 700 "+s.Dir, "%s holds the device's keys and is open to others: mode %04o", s.Dir, s.Mode.Perm())
	}
	switch {
	case s.Err != nil:
		out = append(out, one(name, Failed, "", "%v", s.Err)...)
	case s.Space == nil:
	case s.Space.ReadOnly:
		out = append(out, one(name, Failed, "mount it writable, or name another directory with --state", "%s is on a file system that is mounted read-only", s.Dir)...)
	case s.Space.FreeBytes < minFree:
		out = append(out, one(name, Failed, "make room: neither settings nor the network map can be kept", "%s has %s left", s.Dir, size(s.Space.FreeBytes))...)
	case s.Space.Files > 0 && s.Space.FreeFiles < lowFiles:
		out = append(out, one(name, Failed, "remove files that nobody needs: no new one can be made", "%s is on a file system with room for %d files more", s.Dir, s.Space.FreeFiles)...)
	case s.Space.FreeBytes < lowFree:
		out = append(out, one(name, Warning, "make room before it is full", "%s has %s left", s.Dir, size(s.Space.FreeBytes))...)
	}
	switch {
	case len(out) > 0:
		return out
	case s.Denied:
		return unknown(name, askRoot, "%s is there, and root's alone, as it ought to be; what is in it is not known", s.Dir)
	case s.Space == nil:
		return fine(name, "%s is private", s.Dir)
	}
	return fine(name, "%s is private, writable and has %s left", s.Dir, size(s.Space.FreeBytes))
}

func size(n uint64) string {
	if n < 1<<30 {
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

func daemon(f Facts) []Finding {
	const name = "daemon"
	d := f.Daemon
	switch {
	case d.Denied:
		return unknown(name, askRoot+", or let an administrator run \"warren set --operator USER\"", "a daemon runs; you may not ask it (socket %s)", d.Socket)
	case !d.Running:
		return one(name, Warning, "what is told below was found without it", "%v", d.Err)
	case d.Version != f.Version:
		return one(name, Warning, "have it replaced: \"sudo warren restart\", without an interface by restarting it", "the daemon (process %d) is of version %s, this command of %s", d.PID, d.Version, f.Version)
	}
	return fine(name, "version %s runs as process %d", d.Version, d.PID)
}

func service(f Facts) []Finding {
	const name, unit = "service", "warren.service"
	s := f.Service
	switch {
	case s.Manager == "":
		return fine(name, "this host has no service manager that is known here; see that the daemon starts with the host")
	case s.Load != "loaded":
		return one(name, Warning, "install the package, or \"warren service install\"", "there is no %s (%s): the daemon does not start with the host", unit, s.Load)
	case s.Active == "failed":
		return one(name, Failed, "journalctl -u warren -n 50; then systemctl restart warren", "%s has failed: %s", unit, s.Result)
	case s.Sub == "auto-restart" || s.Active == "activating" && s.Restarts > 2:
		return one(name, Failed, "journalctl -u warren -n 50", "%s does not stay up: systemd has restarted it %d times, the last result was %s", unit, s.Restarts, s.Result)
	case s.Active == "active" && s.Enabled != "enabled" && s.Enabled != "static" && s.Enabled != "enabled-runtime":
		return one(name, Warning, "systemctl enable warren", "%s runs, but will not start with the host (%s)", unit, s.Enabled)
	case s.Active == "active":
		return fine(name, "%s is %s and %s", unit, s.Active, s.Enabled)
	case f.Daemon.Running || f.Daemon.Denied:
		return one(name, Warning, "end it by hand, then \"systemctl enable --now warren\"", "%s is %s; the daemon that runs is not the service", unit, s.Active)
	}
	return one(name, Warning, "systemctl enable --now warren", "%s is %s", unit, s.Active)
}

func settings(f Facts) []Finding {
	const name = "settings"
	s := f.Settings
	switch {
	case errors.Is(s.Err, fs.ErrPermission):
		return unknown(name, askRoot, "%v", s.Err)
	case s.Err != nil:
		return one(name, Failed, "\"warren config check\" checks it after a change; then systemctl reload warren", "%v", s.Err)
	case s.File == "":
		return fine(name, "there is no configuration file, and none is needed")
	}
	return fine(name, "%s is right", s.File)
}

func membership(f Facts) []Finding {
	const name = "membership"
	m := f.Member
	switch {
	case m == nil && f.hidden():
		return unknown(name, askRoot, "whether this device belongs to a network is not known")
	case m == nil && f.State.Err != nil:
		return unknown(name, "", "whether this device belongs to a network is not known: its state cannot be read")
	case m == nil:
		return one(name, Warning, "\"sudo warren up TOKEN\", with a token of \"warren-coordinator token create\"", "this device has joined no network")
	case m.State == "rejected":
		return one(name, Failed, "\"warren up TOKEN\" with a new token", "the coordinator does not want this device: %s", strings.Join(m.Warnings, "; "))
	case !m.Up:
		return one(name, Warning, "\"warren up\"", "the tunnel is down, as \"warren down\" has left it")
	case m.State == "down":
		return one(name, Failed, "see what is told below, and the daemon's log", "the tunnel is wanted and not up: %s", strings.Join(m.Warnings, "; "))
	case m.State == "":
		return fine(name, "this device belongs to a network; the tunnel comes up when the daemon runs")
	case len(m.Warnings) > 0:
		return one(name, Warning, "", "%s", strings.Join(m.Warnings, "; "))
	}
	return fine(name, "the tunnel is %s", m.State)
}
