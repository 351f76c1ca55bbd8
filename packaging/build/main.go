// Command build makes everything that is released: packages, tar archives, container images, bills of materials and their checksums. "make packages"
// runs it at the top of a git checkout. The same commit gives the same bytes, wherever and whenever it is built with the same Go.
package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"warren/packaging/version"
)

// program is one of the two, and where its parts are.
type program struct {
	name, folder       string
	config, configPath string
	units              []string
}

var programs = []program{
	{"warren", "cmd/agent", "agent.toml", "etc/warren/agent.toml", []string{"warren-killswitch.service", "warren.service"}},
	{"warren-coordinator", "cmd/coordinator", "coordinator.toml", "etc/warren-coordinator/coordinator.toml", []string{"warren-coordinator.service", "warren-relay.service"}},
}

// release is what all steps share.
type release struct {
	out, stage, nfpm string
	as               string // a version that is not git's
	arches, kinds    []string
	some             bool // packages of these kinds only
	someImages       bool // and images
	newer            bool // the programs know a layout more than those of the checkout
	layout, schema   int  // newest that the programs know
	version          version.Version
	commit           string
	at               time.Time
}

func main() {
	r := release{}
	arches := flag.String("arch", "amd64,arm64", "`architectures`, as Go names them, with commas between")
	flag.StringVar(&r.out, "out", "dist", "`directory` for what is made; what is in it is removed")
	flag.StringVar(&r.nfpm, "nfpm", "bin/nfpm", "`path` of the nfpm program")
	flag.StringVar(&r.as, "version", "", "`version` to be built as, such as v1.2.3, for tests of upgrades; that of the tag or commit if empty")
	kinds := flag.String("only", "", "make packages of these `kinds` and nothing else: deb, rpm, apk, and oci for images, with commas between")
	flag.BoolVar(&r.newer, "newer", false, "have the programs write state that those of the checkout do not know, for tests of downgrades")
	flag.Parse()
	r.arches = strings.Split(*arches, ",")
	if r.kinds = allKinds; *kinds != "" {
		r.kinds = strings.Split(*kinds, ",")
		all := len(r.kinds)
		r.kinds = slices.DeleteFunc(r.kinds, func(k string) bool { return k == "oci" })
		r.someImages = len(r.kinds) < all
	}
	r.some = *kinds != ""
	if err := r.make(); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

func (r *release) make() (err error) {
	if r.nfpm, err = filepath.Abs(r.nfpm); err != nil {
		return err
	}
	if r.out, err = filepath.Abs(r.out); err != nil {
		return err
	}
	if r.stage, err = os.MkdirTemp("", "warren-packages-"); err != nil {
		return err
	}
	defer os.RemoveAll(r.stage)
	if err := os.RemoveAll(r.out); err != nil {
		return err
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	steps := []func() error{r.identify, r.compile, r.document, r.packages}
	if !r.some {
		steps = append(steps, r.archives)
	}
	if !r.some || r.someImages {
		steps = append(steps, r.images)
	}
	for _, step := range append(steps, r.sums) {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (r *release) binary(p program, arch string) string {
	return filepath.Join(r.stage, arch, "bin", p.name)
}

// compile builds both programs, static, for each architecture. The go command stamps no commit, which it does in some checkouts only, and not in a worktree.
func (r *release) compile() error {
	var err error
	if r.layout, r.schema, err = layouts("."); err != nil {
		return err
	}
	overlay, err := r.later()
	if err != nil {
		return err
	}
	for _, arch := range r.arches {
		for _, p := range programs {
			fmt.Printf("%s for %s\n", p.name, arch)
			cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", overlay, "-ldflags=-s -w -X=warren/internal/buildversion.stamped=v"+r.version.String(), "-o", r.binary(p, arch), "./"+p.folder)
			if err := run(cmd, "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS="); err != nil {
				return err
			}
		}
	}
	return nil
}

// identify asks git for the commit, its time and the version that they make.
func (r *release) identify() error {
	var answers []string
	for _, question := range [][]string{
		{"rev-parse", "HEAD"}, {"show", "--no-patch", "--format=%ct", "HEAD"}, {"status", "--porcelain"},
		{"tag", "--merged", "HEAD", "--sort=version:refname", "--list", "v[0-9]*"}, {"tag", "--points-at", "HEAD", "--sort=version:refname", "--list", "v[0-9]*"},
	} {
		out, err := exec.Command("git", question...).Output()
		if err != nil {
			return fmt.Errorf("git %s: %w; build in a git checkout", strings.Join(question, " "), err)
		}
		answers = append(answers, strings.TrimSpace(string(out)))
	}
	seconds, err := strconv.ParseInt(answers[1], 10, 64)
	if err != nil {
		return fmt.Errorf("time of the commit: %w", err)
	}
	r.commit, r.at = answers[0], time.Unix(seconds, 0).UTC()
	r.version, err = version.Of(version.Commit{
		Hash: answers[0], At: r.at, Changed: answers[2] != "", Before: last(answers[3]), Exact: last(answers[4]),
	})
	if r.as != "" && err == nil {
		r.version, err = version.Parse(r.as)
	}
	return err
}

// last is the last line, which is the highest version.
func last(lines string) string { return lines[strings.LastIndex(lines, "\n")+1:] }

// sums writes SHA256SUMS of all that was made.
func (r *release) sums() error {
	entries, err := os.ReadDir(r.out)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		content, err := os.ReadFile(filepath.Join(r.out, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%x  %s\n", sha256.Sum256(content), name)
	}
	return r.put("SHA256SUMS", []byte(b.String()))
}

// put writes one of the files that are released.
func (r *release) put(name string, content []byte) error {
	return os.WriteFile(filepath.Join(r.out, name), content, 0o644)
}

// run runs cmd with the variables over those of this process.
func run(cmd *exec.Cmd, env ...string) error {
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, strings.TrimSpace(string(out)))
	}
	return nil
}
