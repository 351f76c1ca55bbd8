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

// suite is Debian's release.
const suite = "bookworm"

// Debian says what a root directory has besides what every Debian has.
type Debian struct {
	// Name is in the directory's.
	Name string
	// packages come with debootstrap, and more afterwards by apt, which finds its way where packages replace one another.
	packages, more []string
	// settings are files, and links enabled and masked units.
	settings, links map[string]string
	// notifies: its first process tells systemd-nspawn when everything is started.
	notifies bool
	// poweroff has its first process shut down in an orderly way.
	poweroff string
}

// Root is a root directory that machines share. Nobody writes to it.
type Root struct {
	Dir string
	Debian
}

// Base gives a Debian's root directory, below dir, or the user's cache if that is empty. It is made when it is not there, which takes a minute or two.
func Base(ctx context.Context, dir string, d Debian) (Root, error) {
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return Root{}, fmt.Errorf("where to keep a Debian: %w", err)
		}
		dir = filepath.Join(cache, "warren")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Root{}, err
	}
	root := filepath.Join(dir, d.dirName())
	return Root{root, d}, d.make(ctx, root)
}

// make has the root directory be there.
func (d Debian) make(ctx context.Context, root string) (err error) {
	release, err := filelock.Take(root + ".lock")
	if err != nil {
		return fmt.Errorf("another test makes %s: %w", root, err)
	}
	defer func() { err = errors.Join(err, release()) }()
	if _, err := os.Stat(root); err == nil {
		return nil
	}
	making := root + ".making"
	if err := os.RemoveAll(making); err != nil {
		return err
	}
	// In a mount namespace of its own, for it mounts a few things below the root and would leave them there if it were interrupted.
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "debootstrap", "--variant=minbase", "--include="+strings.Join(d.packages, ","), suite, making)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, last(string(out), 2000))
	}
	if err := d.installMore(ctx, making); err != nil {
		return err
	}
	if err := d.prepare(making); err != nil {
		return err
	}
	return os.Rename(making, root)
}

// dirName changes whenever the root does.
func (d Debian) dirName() string {
	var all strings.Builder
	for _, part := range [][]string{{suite}, d.packages, {fmt.Sprint(d.settings, d.links)}} {
		fmt.Fprintln(&all, part)
	}
	if len(d.more) > 0 {
		fmt.Fprintln(&all, d.more)
	}
	name := d.Name + "-" + suite + "-"
	return fmt.Sprintf("%s%x", name, sha256.Sum256([]byte(all.String())))[:len(name)+12]
}

// installMore has apt install, with nothing started, in a root directory whose network is the host's.
func (d Debian) installMore(ctx context.Context, root string) error {
	if len(d.more) == 0 {
		return nil
	}
	cmd := exec.CommandContext(ctx, "unshare", append([]string{"--mount", "sh", "-c", installMore, "sh", root}, d.more...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("packages %s: %w\n%s", strings.Join(d.more, " "), err, last(string(out), 2000))
	}
	return nil
}

const installMore = `set -e
root=$1; shift
printf '#!/bin/sh\nexit 101\n' >$root/usr/sbin/policy-rc.d
chmod 755 $root/usr/sbin/policy-rc.d
mount -t proc proc $root/proc
chroot $root apt-get install --quiet --yes --no-install-recommends --option Dpkg::Options::=--force-unsafe-io "$@"
chroot $root apt-get clean
rm $root/usr/sbin/policy-rc.d
`

// prepare makes a fresh Debian one that boots in a lab.
func (d Debian) prepare(root string) error {
	if err := os.MkdirAll(filepath.Join(root, "var/log/journal"), 0o755); err != nil {
		return err
	}
	for name, text := range d.settings {
		if err := write(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for name, to := range d.links {
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
