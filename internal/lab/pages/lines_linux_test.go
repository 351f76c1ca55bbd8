//go:build pages

package pages

import (
	"archive/tar"
	"compress/gzip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"warren/internal/lab"
)

// elsewhere are commands of docs/install.md and docs/operations.md that a lab without systemd, dpkg and the like cannot run, by how they begin, and who does.
var elsewhere = map[string]string{
	"sudo apt install ":    "internal/lab/booted installs the packages by apt",
	"sudo dnf install ":    "packaging/build has rpm look at them: there is no dnf",
	"sudo apk add ":        "internal/lab/booted unpacks them: there is no apk",
	"sudo rc-update ":      "internal/lab/booted has OpenRC run it",
	"sudo warren service ": "internal/lab/booted does it under systemd and OpenRC",
	"podman ":              "internal/lab/booted has podman do it",
	"skopeo copy ":         "packaging/ocilayout checks the layout: there is no skopeo",
	"make build":           "it is how the programs of this test were made",
}

// follows does the commands of a page in order, each on the host whose program or service it is about.
func (r *reader) follows(page string, hostOf func(command string) string) {
	r.t.Helper()
	b, err := os.ReadFile("../../../docs/" + page)
	must(r.t, err)
	count := 0
	for _, s := range Lines(string(b)) {
		if because(s.Command) != "" {
			continue
		}
		count++
		s.Command = strings.NewReplacer(
			"VERSION", "1.2.3", "wrn1…", "TOKEN",
			"warren doctor", "warren doctor || test $? = 1", // the page shows one that finds faults
		).Replace(s.Command)
		h := r.hosts[hostOf(s.Command)]
		if m := serving.FindStringSubmatch(s.Command); m != nil {
			s.Command = strings.NewReplacer("COMMAND", m[0], "SERVICE", strings.Replace(m[1], "warren daemon", "warren", 1), "ADDRESS", m[2]).Replace(inService)
		}
		if out, err := r.follow(h, s); err != nil {
			r.t.Fatalf("%s:%d: %s on %s: %v\n%s", page, s.Line, s.Command, h.Name, err, out)
		}
		r.t.Logf("%s:%d: %s on %s", page, s.Line, s.Command, h.Name)
	}
	if count < 5 {
		r.t.Errorf("%d commands of %s were run", count, page)
	}
}

// serving is a program that does not end, and inService has it run in place of the service, until its metrics are there.
var serving = regexp.MustCompile(`^(warren-coordinator|warren daemon)(?: serve)? --metrics (\S+)$`)

const inService = `systemctl stop SERVICE
eval "exec setsid COMMAND" >>/run/SERVICE.log 2>&1 </dev/null & echo $! >/run/SERVICE.pid
until curl --silent --fail http://ADDRESS/metrics | grep -q ^go_; do kill -0 $(cat /run/SERVICE.pid) || exit 1; sleep 0.05; done`

// because says why a command is not run here; empty: it is.
func because(command string) string {
	for begin, why := range elsewhere {
		if strings.HasPrefix(command, begin) {
			return why
		}
	}
	return ""
}

// coordinators are commands about the coordinator; all others are typed on the laptop.
func coordinators(command string) string {
	if strings.Contains(command, "warren-coordinator") {
		return "coord"
	}
	return "laptop"
}

// TestOperations does what docs/operations.md says, in a network of two.
func TestOperations(t *testing.T) {
	r := newReader(t)
	r.host(r.site("coordinator", lab.None).Host("coord"))("warren-coordinator")
	r.host(r.site("desk", lab.Easy).Host("desk"))("warren")
	r.host(r.site("laptop", lab.Easy).Host("laptop"))("warren")
	r.do("coord", "warren-coordinator token create --reusable --user ann")
	for _, name := range []string{"desk", "laptop"} {
		r.do(name, "warren up TOKEN --name "+name)
	}
	r.do("laptop", "warren status | grep -q desk")
	r.follows("operations.md", coordinators)
}

// TestInstall does what docs/install.md says of the archive, beside what the packages' own tests do.
func TestInstall(t *testing.T) {
	r := newReader(t)
	r.host(r.site("coordinator", lab.None).Host("coord"))("warren-coordinator")
	laptop := r.host(r.site("laptop", lab.Easy).Host("laptop"))("")
	r.do("laptop", "mount -t tmpfs tmpfs /usr/local/bin")
	dir := filepath.Join(r.tools, laptop.Name)
	must(t, archive(filepath.Join(dir, "warren_1.2.3_linux_amd64.tar.gz"), filepath.Join(bin, "warren"), "warren_1.2.3_linux_amd64/bin/warren"))
	r.do("laptop", "sha256sum *.tar.gz >SHA256SUMS")
	r.follows("install.md", coordinators)
	r.do("laptop", "test -x /usr/local/bin/warren && warren status | grep -q up")
}

// do types a command of the test's own.
func (r *reader) do(host, command string) {
	r.t.Helper()
	if out, err := r.follow(r.hosts[host], Step{Command: command}); err != nil {
		r.t.Fatalf("%s: %s: %v\n%s", host, command, err, out)
	}
}

// archive makes a tar archive with one program.
func archive(path, program, name string) error {
	b, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return err
	}
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(b))}); err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	for _, c := range []interface{ Close() error }{w, z, f} {
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}
