//go:build packages

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// shells are those that run scripts of packages: dash on Debian, bash on Fedora; busybox' on Alpine is close to the former.
var shells = []string{"dash", "bash"}

// TestScripts: every script of a package can be read by the shells that run it.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("../scripts/*")
	if err != nil || len(scripts) < 10 {
		t.Fatalf("%v, %v", scripts, err)
	}
	for _, script := range scripts {
		for _, shell := range shells {
			output(t, shell, "-n", script)
		}
	}
	for _, name := range names(t, *dist, "*.rpm") {
		said := output(t, "rpm", "-qp", "--nosignature", "--scripts", filepath.Join(*dist, name))
		for _, part := range []string{"postinstall scriptlet (using /bin/sh)", "preuninstall scriptlet (using /bin/sh)", "postuninstall scriptlet (using /bin/sh)"} {
			if !strings.Contains(said, part) {
				t.Errorf("%s has no %s:\n%s", name, part, said)
			}
		}
	}
}

// TestRPMFields: what rpm tells of the packages, and that they ask for nothing that there is not.
func TestRPMFields(t *testing.T) {
	all := names(t, *dist, "*.rpm")
	if len(all) != 4 {
		t.Fatalf("%v", all)
	}
	for _, name := range all {
		said := output(t, "rpm", "-qp", "--nosignature", "--queryformat", "%{NAME} %{ARCH} %{OS} %{LICENSE} %{RELEASE} %{BUILDHOST}", filepath.Join(*dist, name))
		program, _, _ := strings.Cut(name, "-0")
		arch := strings.TrimSuffix(name, ".rpm")
		arch = arch[strings.LastIndex(arch, ".")+1:]
		if want := program + " " + arch + " linux BSD-3-Clause 1 warren"; !strings.HasPrefix(name, program) || said != want {
			t.Errorf("%s: %q, want %q", name, said, want)
		}
		for need := range strings.Lines(output(t, "rpm", "-qp", "--nosignature", "--requires", filepath.Join(*dist, name))) {
			switch need = strings.TrimSpace(need); {
			case need == "systemd", need == "nftables", need == "/bin/sh", strings.HasPrefix(need, "rpmlib("):
			default:
				t.Errorf("%s needs %q", name, need)
			}
		}
		config := output(t, "rpm", "-qp", "--nosignature", "--configfiles", filepath.Join(*dist, name))
		if len(strings.Fields(config)) == 0 {
			t.Errorf("%s marks no file as configuration", name)
		}
	}
}

// TestForeignArchitecture: what is packaged for arm64 runs there, as far as an emulator of the processor tells.
func TestForeignArchitecture(t *testing.T) {
	for _, program := range []string{"warren", "warren-coordinator"} {
		debs := names(t, *dist, program+"_*_arm64.deb")
		if len(debs) != 1 {
			t.Fatalf("%v", debs)
		}
		deb, dir := filepath.Join(*dist, debs[0]), t.TempDir()
		if got := strings.TrimSpace(output(t, "dpkg-deb", "--field", deb, "Architecture")); got != "arm64" {
			t.Errorf("%s is for %s", debs[0], got)
		}
		output(t, "dpkg-deb", "--extract", deb, dir)
		cmd := exec.Command("qemu-aarch64-static", filepath.Join(dir, "usr/bin", program), "version")
		cmd.Env = append(os.Environ(), "QEMU_CPU=cortex-a53")
		said, err := cmd.CombinedOutput()
		if err != nil || !strings.HasPrefix(string(said), program+" ") {
			t.Errorf("%s says %q, %v", program, said, err)
		}
	}
}
