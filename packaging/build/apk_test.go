//go:build packages

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// entry is one of a tar archive.
type entry struct {
	*tar.Header
	content []byte
}

// segments takes an apk apart: gzip streams one after the other, of which the first holds what apk must know and the second the files. A signed one has
// a signature before both; ours are not.
func segments(t *testing.T, b []byte) (raw [][]byte, plain [][]byte) {
	t.Helper()
	in := bytes.NewReader(b)
	for in.Len() > 0 {
		at := len(b) - in.Len()
		z, err := gzip.NewReader(in)
		if err != nil {
			t.Fatal(err)
		}
		z.Multistream(false)
		text, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		raw, plain = append(raw, b[at:len(b)-in.Len()]), append(plain, text)
	}
	if len(raw) != 2 {
		t.Fatalf("%d gzip streams, want 2", len(raw))
	}
	return raw, plain
}

// untar reads an archive, which may lack its end.
func untar(t *testing.T, b []byte) (out []entry) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, entry{h, content})
	}
}

// apkVersion is what apk can compare: numbers, and few words for what comes before them.
var apkVersion = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*(_(alpha|beta|pre|rc)[0-9]*)?(-r[0-9]+)?$`)

// needed is what the packages for Alpine depend on. Its setpriv is a package of its own; busybox has one that cannot take rights away.
var needed = map[string][]string{"warren": {"nftables", "setpriv"}, "warren-coordinator": {"setpriv"}}

// TestAPK reads the packages for Alpine as apk-tools does, by their format: there is no apk to be had on other systems.
func TestAPK(t *testing.T) {
	all := names(t, *dist, "*.apk")
	if len(all) != 4 {
		t.Fatalf("%v", all)
	}
	for _, name := range all {
		t.Run(name, func(t *testing.T) {
			raw, plain := segments(t, read(t, filepath.Join(*dist, name)))
			if bytes.HasSuffix(plain[0], make([]byte, 1024)) {
				t.Error("the control archive has an end, after which apk would not read the files")
			}
			control := map[string][]byte{}
			for _, e := range untar(t, plain[0]) {
				control[e.Name] = e.content
			}
			info := map[string][]string{}
			for line := range strings.Lines(string(control[".PKGINFO"])) {
				if key, value, ok := strings.Cut(strings.TrimSpace(line), " = "); ok {
					info[key] = append(info[key], value)
				}
			}
			program, arch, _ := strings.Cut(strings.TrimSuffix(name, ".apk"), "_")
			arch = arch[strings.LastIndex(strings.Replace(arch, "x86_64", "x86-64", 1), "_")+1:]
			want := map[string]string{"pkgname": program, "arch": arch, "datahash": fmt.Sprintf("%x", sha256.Sum256(raw[1])), "license": "BSD-3-Clause"}
			for key, value := range want {
				if !slices.Equal(info[key], []string{value}) {
					t.Errorf("%s is %q, want %q", key, info[key], value)
				}
			}
			if diff := cmp.Diff(needed[program], info["depend"]); diff != "" {
				t.Errorf("what it depends on (-want +got): %s", diff)
			}
			if v := info["pkgver"]; len(v) != 1 || !apkVersion.MatchString(v[0]) {
				t.Errorf("version %q", v)
			}
			for script, text := range control {
				if script != ".PKGINFO" && !bytes.HasPrefix(text, []byte("#!/bin/sh\n")) {
					t.Errorf("script %s begins with %q", script, text[:min(len(text), 20)])
				}
			}
			checkAPKFiles(t, program, untar(t, plain[1]))
		})
	}
}

// checkAPKFiles has it that each file is root's and has the checksum that apk verifies.
func checkAPKFiles(t *testing.T, program string, files []entry) {
	t.Helper()
	var have []string
	for _, f := range files {
		have = append(have, "/"+f.Name)
		if f.Uid != 0 || f.Gid != 0 || strings.HasPrefix(f.Name, "/") {
			t.Errorf("%s belongs to %d:%d", f.Name, f.Uid, f.Gid)
		}
		if sum := sha1.Sum(f.content); f.Typeflag == tar.TypeReg && f.PAXRecords["APK-TOOLS.checksum.SHA1"] != hex.EncodeToString(sum[:]) {
			t.Errorf("%s has the checksum %q", f.Name, f.PAXRecords["APK-TOOLS.checksum.SHA1"])
		}
	}
	want := []string{"/usr/share/zsh/site-functions/_" + program}
	for _, file := range contents[program] {
		if !strings.Contains(file, "/systemd/") {
			want = append(want, file)
		}
	}
	check(t, program, want, have)
}
