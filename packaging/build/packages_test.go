//go:build packages

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// "make test-packages" gives both directories.
var dist, again = flag.String("dist", "", "what \"make packages\" made"), flag.String("again", "", "what it made elsewhere of the same commit")

func names(t *testing.T, dir, pattern string) (out []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		out = append(out, filepath.Base(p))
	}
	return out
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func output(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestSameBytes: two builds of one commit, at other times and in other directories, are the same.
func TestSameBytes(t *testing.T) {
	all := names(t, *dist, "*")
	if diff := cmp.Diff(all, names(t, *again, "*")); diff != "" {
		t.Fatal(diff)
	}
	if len(all) != 23 { // each program: 2 architectures of deb, rpm, apk, archive and materials, and an image; and the checksums
		t.Errorf("%d files: %v", len(all), all)
	}
	for _, name := range all {
		if !bytes.Equal(read(t, filepath.Join(*dist, name)), read(t, filepath.Join(*again, name))) {
			t.Errorf("%s differs", name)
		}
	}
}

// TestChecksums: each file but the list itself stands in it.
func TestChecksums(t *testing.T) {
	var want string
	for _, name := range names(t, *dist, "*") {
		if name != "SHA256SUMS" {
			want += fmt.Sprintf("%x  %s\n", sha256.Sum256(read(t, filepath.Join(*dist, name))), name)
		}
	}
	if diff := cmp.Diff(want, string(read(t, filepath.Join(*dist, "SHA256SUMS")))); diff != "" {
		t.Error(diff)
	}
}

// contents are files that both packages of a program must have.
var contents = map[string][]string{
	"warren": {
		"/usr/bin/warren", "/etc/warren/agent.toml", "/usr/lib/systemd/system/warren.service", "/usr/lib/systemd/system/warren-killswitch.service",
		"/usr/share/man/man1/warren.1.gz", "/usr/share/man/man1/warren-up.1.gz", "/usr/share/bash-completion/completions/warren",
		"/usr/share/fish/vendor_completions.d/warren.fish",
	},
	"warren-coordinator": {
		"/usr/bin/warren-coordinator", "/etc/warren-coordinator/coordinator.toml", "/usr/lib/systemd/system/warren-coordinator.service",
		"/usr/lib/systemd/system/warren-relay.service",
		"/usr/share/man/man1/warren-coordinator.1.gz", "/usr/share/man/man1/warren-coordinator-token-create.1.gz",
		"/usr/share/bash-completion/completions/warren-coordinator",
		"/usr/share/warren-coordinator/monitoring/alerts.yaml", "/usr/share/warren-coordinator/monitoring/dashboard.json",
	},
}

func TestContents(t *testing.T) {
	for program, want := range contents {
		debs, rpms := names(t, *dist, program+"_*.deb"), names(t, *dist, program+"-0*.rpm")
		if program == "warren-coordinator" {
			rpms = names(t, *dist, program+"-*.rpm")
		}
		if len(debs) != 2 || len(rpms) != 2 {
			t.Fatalf("%s: %v %v", program, debs, rpms)
		}
		for _, name := range debs {
			var have []string
			for line := range strings.Lines(output(t, "dpkg-deb", "--contents", filepath.Join(*dist, name))) {
				f := strings.Fields(line)
				if f[1] != "root/root" {
					t.Errorf("%s: %s", name, line)
				}
				have = append(have, strings.TrimPrefix(f[5], "."))
			}
			check(t, name, append(want, "/usr/share/zsh/vendor-completions/_"+program), have)
		}
		for _, name := range rpms {
			check(t, name, append(want, "/usr/share/zsh/site-functions/_"+program), strings.Fields(output(t, "rpm", "-qpl", filepath.Join(*dist, name))))
			output(t, "rpm", "-K", "--nosignature", filepath.Join(*dist, name))
		}
	}
}

func check(t *testing.T, name string, want, have []string) {
	t.Helper()
	for _, w := range want {
		if !slices.Contains(have, w) {
			t.Errorf("%s has no %s", name, w)
		}
	}
}

// TestLintian: Debian's own checks find nothing.
func TestLintian(t *testing.T) {
	for _, name := range names(t, *dist, "*.deb") {
		out, err := exec.Command("lintian", "--allow-root", "--fail-on", "error,warning", filepath.Join(*dist, name)).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// TestVersion: a program says the version that its package has.
func TestVersion(t *testing.T) {
	dir := t.TempDir()
	deb := names(t, *dist, "warren_*_amd64.deb")
	output(t, "dpkg-deb", "--extract", filepath.Join(*dist, deb[0]), dir)
	said := strings.Fields(output(t, filepath.Join(dir, "usr/bin/warren"), "version"))[1]
	packaged := strings.TrimSpace(output(t, "dpkg-deb", "--field", filepath.Join(*dist, deb[0]), "Version"))
	if got := strings.ReplaceAll(strings.TrimPrefix(said, "v"), "-", "."); strings.ReplaceAll(packaged, "~", ".") != got {
		t.Errorf("the program says %s, its package %s", said, packaged)
	}
}

// TestMaterials: each lists the modules that the program is known to be made of.
func TestMaterials(t *testing.T) {
	all := names(t, *dist, "*.cdx.json")
	if len(all) != 4 {
		t.Fatalf("%v", all)
	}
	for _, name := range all {
		b := read(t, filepath.Join(*dist, name))
		if !json.Valid(b) {
			t.Errorf("%s is not JSON", name)
		}
		for _, module := range []string{"std", "github.com/spf13/cobra", "google.golang.org/protobuf"} {
			if !bytes.Contains(b, []byte(`"name": "`+module+`"`)) {
				t.Errorf("%s does not list %s", name, module)
			}
		}
	}
}
