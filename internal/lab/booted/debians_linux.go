package booted

import "maps"

// common are files that each Debian has.
func common() map[string]string {
	return map[string]string{
		"etc/hostname":   "booted\n",
		"etc/machine-id": "uninitialized\n",
		// What is lost when the machine that tests loses power is no loss.
		"etc/dpkg/dpkg.cfg.d/unsafe": "force-unsafe-io\n",
		"etc/apt/sources.list":       "",
	}
}

// Systemd is a server's Debian.
func Systemd() Debian {
	d := Debian{
		Name: "debian", settings: common(), notifies: true, poweroff: "SIGRTMIN+3",
		packages: []string{
			"systemd", "systemd-sysv", "dbus", "init-system-helpers", "procps", "iproute2", "iputils-ping", "nftables", "ca-certificates", "curl", "netcat-openbsd", "rpm",
		},
		// networkd sets up the interface; timers and consoles only disturb.
		links: map[string]string{
			"etc/systemd/system/multi-user.target.wants/systemd-networkd.service": "/lib/systemd/system/systemd-networkd.service",
			"etc/systemd/system/console-getty.service":                            "/dev/null",
			"etc/systemd/system/systemd-networkd-wait-online.service":             "/dev/null",
			"etc/systemd/system/timers.target":                                    "/dev/null",
		},
	}
	maps.Copy(d.settings, map[string]string{
		// All that a service says is there for the test, however much and whatever becomes of the machine.
		"etc/systemd/journald.conf.d/all.conf":    "[Journal]\nStorage=persistent\nRateLimitBurst=0\nSyncIntervalSec=1s\n",
		"etc/systemd/system.conf.d/patience.conf": "[Manager]\nDefaultTimeoutStopSec=20s\n",
	})
	return d
}

// Tooled is Systemd's with what the pages of docs use beside Warren: a container engine, cloud-init, Ansible and PostgreSQL, none of which starts by itself.
func Tooled() Debian {
	d := Systemd()
	d.Name = "tooled"
	d.more = []string{
		"sudo", "busybox-static", "podman", "crun", "podman-compose", "netavark", "aardvark-dns", "iptables", "cloud-init", "ansible-core", "python3-apt",
		"postgresql", "postgresql-client", "libpam-systemd", "dbus-user-session",
	}
	for _, unit := range []string{"postgresql.service", "podman.socket", "podman.service", "podman-restart.service", "podman-auto-update.service"} {
		d.links["etc/systemd/system/"+unit] = "/dev/null"
	}
	// Overlays over the overlay that the machine's disk is are not to be had.
	d.settings["etc/containers/storage.conf"] = "[storage]\ndriver = \"vfs\"\nrunroot = \"/run/containers/storage\"\ngraphroot = \"/var/lib/containers/storage\"\n"
	// A root that may not raise limits cannot load the filter of devices that a group of its own has.
	d.settings["etc/containers/containers.conf"] = "[containers]\ncgroups = \"disabled\"\n[network]\nnetwork_backend = \"netavark\"\n"
	return d
}

// OpenRC is a Debian without systemd, which OpenRC starts.
func OpenRC() Debian {
	d := Debian{
		Name: "openrc", settings: common(), poweroff: "SIGTERM",
		packages: []string{"procps", "iproute2", "iputils-ping", "nftables", "ca-certificates", "curl", "netcat-openbsd"},
		more:     []string{"openrc", "initscripts", "ifupdown", "bsdutils", "sudo"},
		links:    map[string]string{"sbin/init": "openrc-init"},
	}
	return d
}
