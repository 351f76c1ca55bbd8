package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"warren/packaging/archive"
)

// share is the directory with what of a program goes below /usr/share.
func (r *release) share(p program) string { return filepath.Join(r.stage, "share", p.name) }

// document writes manual pages, compressed as packages have them, and completions.
func (r *release) document() error {
	for _, p := range programs {
		if err := run(exec.Command("go", "run", "./"+p.folder+"/internal/gendoc", r.share(p)), "CGO_ENABLED=0"); err != nil {
			return err
		}
		pages, err := filepath.Glob(filepath.Join(r.share(p), "man", "man1", "*.1"))
		if err != nil {
			return err
		}
		for _, page := range pages {
			if err := compress(page); err != nil {
				return err
			}
		}
	}
	if err := r.monitoring(); err != nil {
		return err
	}
	return r.plain(filepath.Join(r.stage, "share"))
}

// monitoring has what Prometheus and Grafana are given go with the coordinator.
func (r *release) monitoring() error {
	const coordinator = "warren-coordinator"
	to := filepath.Join(r.stage, "share", coordinator, coordinator, "monitoring")
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"prometheus.yaml", "alerts.yaml", "dashboard.json"} {
		b, err := os.ReadFile(filepath.Join("packaging", "monitoring", name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// plain gives directories and files the modes that they have in packages, whatever this process's umask is, and the time of the commit: nfpm takes
// those of files below a tree, and the time of an apk's scripts, from the disk.
func (r *release) plain(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if d.IsDir() {
			mode = 0o755
		}
		return errors.Join(os.Chmod(path, mode), os.Chtimes(path, r.at, r.at))
	})
}

// compress replaces a file by a gzipped one.
func compress(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if b, err = archive.Gzip(b); err != nil {
		return err
	}
	if err := os.WriteFile(path+".gz", b, 0o644); err != nil {
		return err
	}
	return os.Remove(path)
}

// allKinds are the kinds of packages, as nfpm names them.
var allKinds = []string{"deb", "rpm", "apk"}

// packages has nfpm make a deb, an rpm and an apk of each program for each architecture, in directories that hold all their files.
func (r *release) packages() error {
	for _, arch := range r.arches {
		dir := filepath.Join(r.stage, arch)
		for _, part := range []string{"config", "systemd", "openrc", "scripts", "debian"} {
			if err := os.CopyFS(filepath.Join(dir, part), os.DirFS(filepath.Join("packaging", part))); err != nil {
				return err
			}
		}
		if err := r.stamp(filepath.Join(dir, "scripts")); err != nil {
			return err
		}
		if err := r.plain(filepath.Join(dir, "scripts")); err != nil {
			return err
		}
		license, err := os.ReadFile("LICENSE")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "LICENSE"), license, 0o644); err != nil {
			return err
		}
		if err := os.Symlink(filepath.Join(r.stage, "share"), filepath.Join(dir, "share")); err != nil {
			return err
		}
		for _, p := range programs {
			if err := r.nfpmAll(p, arch, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *release) nfpmAll(p program, arch, dir string) error {
	log, err := archive.Gzip([]byte(r.changelog(p)))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "debian", p.name+".changelog.gz"), log, 0o644); err != nil {
		return err
	}
	recipe, err := filepath.Abs(filepath.Join("packaging", "nfpm", p.name+".yaml"))
	if err != nil {
		return err
	}
	for _, kind := range r.kinds {
		v := r.version.Package()
		if kind == "apk" {
			v = r.version.Alpine()
		}
		cmd := exec.Command(r.nfpm, "package", "--config", recipe, "--packager", kind, "--target", r.out+"/")
		cmd.Dir = dir
		if err := run(cmd, "VERSION="+v, "ARCH="+arch, "SOURCE_DATE_EPOCH="+strconv.FormatInt(r.at.Unix(), 10)); err != nil {
			return err
		}
	}
	return nil
}

// changelog is one in Debian's form, of this version alone: the history is git's.
func (r *release) changelog(p program) string {
	return fmt.Sprintf("%s (%s) unstable; urgency=medium\n\n  * Built from commit %s.\n\n -- The Warren Authors <maintainers@warren.example>  %s\n",
		p.name, r.version.Package(), r.commit, r.at.UTC().Format(time.RFC1123Z))
}
