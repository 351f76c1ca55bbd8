// Package version puts a version of Go's form, such as v1.2.3-rc.1 or v0.0.0-20261126022149-4d0929331512+dirty, into the forms that the kinds of
// packages compare: Debian and RPM call the same string the same version, Alpine needs one of its own.
package version

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

var (
	form   = regexp.MustCompile(`^v([0-9]+\.[0-9]+\.[0-9]+)(?:-([0-9A-Za-z.-]+))?(?:\+([0-9A-Za-z.-]+))?$`)
	staged = regexp.MustCompile(`^(alpha|beta|rc)\.?([0-9]*)$`)
	commit = regexp.MustCompile(`(?:^|\.)([0-9]{14})-[0-9a-f]{12}$`)
)

// Version is one, taken apart.
type Version struct{ release, before, built string }

// Parse takes a version as the go command stamps it.
func Parse(text string) (Version, error) {
	m := form.FindStringSubmatch(text)
	if m == nil {
		return Version{}, fmt.Errorf("version %q is not of the form v1.2.3[-PRERELEASE][+BUILD]; tag releases so", text)
	}
	return Version{m[1], m[2], m[3]}, nil
}

// Commit is what git knows of one.
type Commit struct {
	Hash string
	At   time.Time
	// Changed says that files differ from it.
	Changed bool
	// Exact is the commit's own tag, if it has one, and Before the highest tag that led to it.
	Exact, Before string
}

// Of is the version of a commit: its tag's, or else, as the go command has it, one that comes before the next release, or before the first.
func Of(c Commit) (Version, error) {
	if len(c.Hash) < 12 {
		return Version{}, fmt.Errorf("commit %q is too short to be one", c.Hash)
	}
	suffix := fmt.Sprintf("%s-%s", c.At.UTC().Format("20060102150405"), c.Hash[:12])
	v, err := Version{release: "0.0.0", before: suffix}, error(nil)
	switch {
	case c.Exact != "":
		v, err = Parse(c.Exact)
	case c.Before != "":
		if v, err = Parse(c.Before); v.before != "" {
			v.before += ".0." + suffix
		} else if err == nil {
			major, minor, patch := 0, 0, 0
			_, err = fmt.Sscanf(v.release, "%d.%d.%d", &major, &minor, &patch)
			v = Version{release: fmt.Sprintf("%d.%d.%d", major, minor, patch+1), before: "0." + suffix}
		}
	}
	if c.Changed {
		v.built = "dirty"
	}
	return v, err
}

// String is the version as people read it, without the v.
func (v Version) String() string {
	s := v.release
	if v.before != "" {
		s += "-" + v.before
	}
	return v.withBuild(s)
}

// Package is the version for deb and rpm: a tilde sorts before the release, and a hyphen would begin a packager's revision.
func (v Version) Package() string {
	s := v.release
	if v.before != "" {
		s += "~" + strings.ReplaceAll(v.before, "-", ".")
	}
	return v.withBuild(s)
}

func (v Version) withBuild(s string) string {
	if v.built != "" {
		s += "+" + strings.ReplaceAll(v.built, "-", ".")
	}
	return s
}

// Alpine is the version for apk, which knows no letters but in a few suffixes: the time of a commit stands for it, and what is built besides is lost.
func (v Version) Alpine() string {
	if m := staged.FindStringSubmatch(v.before); m != nil {
		return v.release + "_" + m[1] + m[2]
	}
	if m := commit.FindStringSubmatch(v.before); m != nil {
		return v.release + "_pre" + m[1]
	}
	if v.before != "" {
		return v.release + "_pre"
	}
	return v.release
}
