package booted

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"warren/internal/filelock"
)

// suite is Debian's release, and packages what the root has besides what every Debian has.
const suite = "bookworm"

var packages = []string{
	"systemd", "systemd-sysv", "dbus", "init-system-helpers", "procps", "iproute2", "iputils-ping", "nftables", "ca-certificates", "curl", "netcat-openbsd", "rpm",
}

// Base gives the root directory that machines share, below dir, or the user's cache if that is empty. It is made when it is not there, which takes
// a minute or two, and nobody writes to it afterwards.
func Base(ctx context.Context, dir string) (_ string, err error) {
	if dir == "" {
		if dir, err = os.UserCacheDir(); err != nil {
			return "", fmt.Errorf("where to keep a Debian: %w", err)
		}
		dir = filepath.Join(dir, "warren")
	}
	root := filepath.Join(dir, baseName())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	release, err := filelock.Take(root + ".lock")
	if err != nil {
		return "", fmt.Errorf("another test makes %s: %w", root, err)
	}
	defer func() { err = errors.Join(err, release()) }()
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	making := root + ".making"
	if err := os.RemoveAll(making); err != nil {
		return "", err
	}
	// In a mount namespace of its own, for it mounts a few things below the root and would leave them there if it were interrupted.
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "debootstrap", "--variant=minbase", "--include="+strings.Join(packages, ","), suite, making)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, last(string(out), 2000))
	}
	if err := prepare(making); err != nil {
		return "", err
	}
	return root, os.Rename(making, root)
}

// baseName changes whenever the root does.
func baseName() string {
	var all strings.Builder
	for _, part := range [][]string{{suite}, packages, {fmt.Sprint(settings(), links)}} {
		fmt.Fprintln(&all, part)
	}
	return fmt.Sprintf("debian-%s-%x", suite, sha256.Sum256([]byte(all.String())))[:len("debian-")+len(suite)+13]
}

// settings are files of the root.
func settings() map[string]string {
	return map[string]string{
		"etc/hostname":   "booted\n",
		"etc/machine-id": "uninitialized\n",
		// What is lost when the machine that tests loses power is no loss.
		"etc/dpkg/dpkg.cfg.d/unsafe": "force-unsafe-io\n",
		"etc/apt/sources.list":       "",
		// All that a service says is there for the test, however much and whatever becomes of the machine.
		"etc/systemd/journald.conf.d/all.conf":    "[Journal]\nStorage=persistent\nRateLimitBurst=0\nSyncIntervalSec=1s\n",
		"etc/systemd/system.conf.d/patience.conf": "[Manager]\nDefaultTimeoutStopSec=20s\n",
	}
}

// links are enabled and masked units: networkd sets up the interface; timers and consoles only disturb.
var links = map[string]string{
	"etc/systemd/system/multi-user.target.wants/systemd-networkd.service": "/lib/systemd/system/systemd-networkd.service",
	"etc/systemd/system/console-getty.service":                            "/dev/null",
	"etc/systemd/system/systemd-networkd-wait-online.service":             "/dev/null",
	"etc/systemd/system/timers.target":                                    "/dev/null",
}

// prepare makes a fresh Debian one that boots in a lab.
func prepare(root string) error {
	if err := os.MkdirAll(filepath.Join(root, "var/log/journal"), 0o755); err != nil {
		return err
	}
	for name, text := range settings() {
		if err := write(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for name, to := range links {
		at := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.Symlink(to, at)); err != nil {
			return err
		}
	}
	return nil
}

func write(path string, b []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b, mode)
}

// last is the end of a long text.
func last(text string, n int) string { return text[max(0, len(text)-n):] }
