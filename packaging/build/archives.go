package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"warren/packaging/archive"
	"warren/packaging/bom"
	"warren/packaging/ocilayout"
)

// archives writes a tar archive and a bill of materials of each program for each architecture.
func (r *release) archives() error {
	for _, p := range programs {
		for _, arch := range r.arches {
			name := fmt.Sprintf("%s_%s_linux_%s", p.name, r.version, arch)
			files, err := r.archiveFiles(p, arch, name)
			if err != nil {
				return err
			}
			b, err := archive.Tar(files, r.at)
			if err != nil {
				return err
			}
			if b, err = archive.Gzip(b); err != nil {
				return err
			}
			if err := r.put(name+".tar.gz", b); err != nil {
				return err
			}
			if err := r.materials(p, arch, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// archiveFiles are the program, what goes below share, its units, its configuration, and the license, in a directory of their own.
func (r *release) archiveFiles(p program, arch, top string) ([]archive.File, error) {
	exe, err := os.ReadFile(r.binary(p, arch))
	if err != nil {
		return nil, err
	}
	files := []archive.File{{Name: path.Join(top, "bin", p.name), Mode: 0o755, Content: exe}}
	for _, u := range p.units {
		if files, err = addFile(files, path.Join(top, "lib/systemd/system", u), "packaging/systemd/"+u); err != nil {
			return nil, err
		}
	}
	if files, err = addFile(files, path.Join(top, p.configPath), "packaging/config/"+p.config); err != nil {
		return nil, err
	}
	if files, err = addFile(files, path.Join(top, "LICENSE"), "LICENSE"); err != nil {
		return nil, err
	}
	share := r.share(p)
	err = filepath.WalkDir(share, func(from string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(share, from)
		if err == nil {
			files, err = addFile(files, path.Join(top, "share", filepath.ToSlash(rel)), from)
		}
		return err
	})
	return files, err
}

func addFile(files []archive.File, name, from string) ([]archive.File, error) {
	b, err := os.ReadFile(from)
	return append(files, archive.File{Name: name, Content: b}), err
}

func (r *release) materials(p program, arch, name string) error {
	exe, err := os.ReadFile(r.binary(p, arch))
	if err != nil {
		return err
	}
	info, err := buildinfo.ReadFile(r.binary(p, arch))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(exe)
	b, err := bom.Make(info, p.name, r.version.String(), hex.EncodeToString(sum[:]), r.at)
	if err != nil {
		return err
	}
	return r.put(name+".cdx.json", append(b, '\n'))
}

// containerUser is the user of the coordinator in its image, as in other images without a system.
const containerUser = 65532

// images writes an OCI image layout of each program, for all architectures.
func (r *release) images() error {
	for _, p := range programs {
		im := ocilayout.Image{
			// Engines take it for the image's name, in which + is not allowed.
			Name: p.name + ":" + strings.ReplaceAll(r.version.String(), "+", "-"), Created: r.at, Entrypoint: []string{"/usr/bin/" + p.name}, Volumes: []string{"/var/lib/" + p.name},
			Labels: map[string]string{
				"org.opencontainers.image.title": p.name, "org.opencontainers.image.version": r.version.String(),
				"org.opencontainers.image.revision": r.commit, "org.opencontainers.image.licenses": "BSD-3-Clause",
			},
		}
		owner := 0
		if im.Command = []string{"daemon"}; p.name == "warren-coordinator" {
			owner, im.User, im.Ports = containerUser, fmt.Sprint(containerUser), []string{"443/tcp", "3478/udp", "3479/udp"}
			im.Command = []string{"serve"}
			// Whose own state directory, also that of commands in the container, is so the volume.
			im.Env = []string{"XDG_STATE_HOME=/var/lib"}
		}
		var variants []ocilayout.Variant
		for _, arch := range r.arches {
			exe, err := os.ReadFile(r.binary(p, arch))
			if err != nil {
				return err
			}
			variants = append(variants, ocilayout.Variant{Arch: arch, Root: []archive.File{
				{Name: "tmp/", Mode: 0o1777}, {Name: "usr/bin/" + p.name, Mode: 0o755, Content: exe}, {Name: "var/lib/" + p.name + "/", Mode: 0o700, Owner: owner},
			}})
		}
		files, err := ocilayout.Files(im, variants)
		if err != nil {
			return err
		}
		b, err := archive.Tar(files, r.at)
		if err != nil {
			return err
		}
		if err := r.put(fmt.Sprintf("%s_%s_oci.tar", p.name, r.version), b); err != nil {
			return err
		}
	}
	return nil
}
