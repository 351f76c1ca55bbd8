package router

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"warren/internal/netdump"
)

const sysctlRoot = "/proc/sys/"

// The sysctls that are changed, as paths below sysctlRoot.
const (
	forwarding4     = "net/ipv4/ip_forward"
	forwarding6     = "net/ipv6/conf/all/forwarding"
	redirects4      = "net/ipv4/conf/all/accept_redirects"
	validMark       = "net/ipv4/conf/all/src_valid_mark"
	conf4, conf6    = "net/ipv4/conf/", "net/ipv6/conf/"
	pathFilter      = "rp_filter"
	advertisements  = "accept_ra"
	strict, loose   = "1", "2"
	untilForwarding = "1" // accept_ra: no longer when the host forwards
	always          = "2"
)

// setting is a sysctl that was set.
type setting struct {
	Path string `json:"path"`
	Was  string `json:"was"`
	Now  string `json:"now"`
	// With are others that the kernel changes along, and what they were.
	With map[string]string `json:"with,omitempty"`
	// Bridges were there when forwarding was turned on. Who makes one afterwards, as Docker does, finds it on and may rely on it.
	Bridges []string `json:"bridges,omitempty"`
}

// A sysctl's path has an interface's name in it, which is nearly arbitrary but no way out of the directory.
var sysctlPath, sysctlValue = regexp.MustCompile(`^net/ipv[46]/[^\x00]+$`), regexp.MustCompile(`^-?[0-9]{1,9}$`)

func isSysctl(path string) bool { return sysctlPath.MatchString(path) && filepath.Clean(path) == path }

// check refuses what was not written by this package.
func (s setting) check() error {
	ok := sysctlValue.MatchString(s.Was) && sysctlValue.MatchString(s.Now)
	for path, was := range s.With {
		ok = ok && isSysctl(path) && sysctlValue.MatchString(was)
	}
	if !ok || !isSysctl(s.Path) {
		return fmt.Errorf("sysctl %q was %q: not one that is ever set", s.Path, s.Was)
	}
	return nil
}

// dotted is a sysctl's path as sysctl(8) reads it.
func dotted(path string) string {
	return strings.NewReplacer("/", ".", ".", "/").Replace(path)
}

func readSysctl(path string) (string, error) {
	b, err := os.ReadFile(sysctlRoot + path)
	return strings.TrimSpace(string(b)), err
}

func writeSysctl(path, value string) error {
	err := os.WriteFile(sysctlRoot+path, []byte(value), 0)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EROFS), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("sysctl %s cannot be set to %s: %w; set it where this host or container is configured", dotted(path), value, err)
	}
	return fmt.Errorf("sysctl %s cannot be set to %s: %w", dotted(path), value, err)
}

// sysctlsFor is what s needs, in the order of setting. What this host does not have is left out.
func (r *Router) sysctlsFor(s State) (want []setting) {
	gateway := s.gateway()
	for _, a := range s.Probes {
		gateway.IPv4, gateway.IPv6 = gateway.IPv4 || a.Is4(), gateway.IPv6 || a.Is6()
	}
	if gateway.IPv4 {
		want = append(want, setting{Path: forwarding4, Now: "1"})
	}
	if gateway.IPv6 {
		// Before: turning forwarding on makes the kernel forget the routes that it has learnt where it is not to listen any longer.
		for _, path := range r.confs(conf6, advertisements, untilForwarding, always) {
			want = append(want, setting{Path: path, Now: always})
		}
		want = append(want, setting{Path: forwarding6, Now: "1"})
	}
	if !s.beyondNetwork() {
		return want
	}
	// With the default route in the tunnel, a strict reverse-path filter takes every packet of the tunnel's own for a forged one.
	if r.noSocketMatch {
		for _, path := range r.confs(conf4, pathFilter, strict, loose) {
			want = append(want, setting{Path: path, Now: loose})
		}
	} else if len(r.confs(conf4, pathFilter, strict, "")) > 0 {
		want = append(want, setting{Path: validMark, Now: "1"})
	}
	return want
}

// confs are the paths of a setting of each interface but our own where it has the value, or where we have set it to ours.
func (r *Router) confs(dir, name, value, ours string) (out []string) {
	entries, err := os.ReadDir(sysctlRoot + dir)
	if err != nil {
		return nil // no IPv6 here
	}
	for _, e := range entries {
		if e.Name() == r.name || e.Name() == "lo" {
			continue
		}
		path := dir + e.Name() + "/" + name
		has, err := readSysctl(path)
		if err == nil && (has == value || has == ours && r.journal.find(path) >= 0) {
			out = append(out, path)
		}
	}
	return out
}

func (j *journal) find(path string) int {
	return slices.IndexFunc(j.Sysctls, func(s setting) bool { return s.Path == path })
}

// applySysctls sets what s needs and takes back what it needs no longer.
func (r *Router) applySysctls(s State) error {
	want := r.sysctlsFor(s)
	var errs []error
	for _, old := range slices.Backward(slices.Clone(r.journal.Sysctls)) {
		if !slices.ContainsFunc(want, func(s setting) bool { return s.Path == old.Path }) {
			errs = append(errs, r.takeBack(old))
		}
	}
	for _, w := range want {
		errs = append(errs, r.setSysctl(w))
	}
	return errors.Join(errs...)
}

// setSysctl sets one, unless it has the value, or somebody has changed it back since we set it: that is their decision.
func (r *Router) setSysctl(s setting) error {
	was, err := readSysctl(s.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sysctl %s cannot be read: %w", dotted(s.Path), err)
	}
	if was == s.Now {
		return nil
	}
	if r.journal.find(s.Path) >= 0 {
		r.noteOnce("somebody has set %s to %s; it stays so, though this device needs %s", dotted(s.Path), was, s.Now)
		return nil
	}
	s.Was, s.With = was, along(s.Path)
	if s.Path == forwarding4 || s.Path == forwarding6 {
		s.Bridges = bridges()
	}
	r.journal.Sysctls = append(r.journal.Sysctls, s)
	if err := r.journal.save(); err != nil {
		r.journal.Sysctls = r.journal.Sysctls[:len(r.journal.Sysctls)-1]
		return err
	}
	if err := writeSysctl(s.Path, s.Now); err != nil {
		r.journal.Sysctls = r.journal.Sysctls[:len(r.journal.Sysctls)-1]
		return errors.Join(err, r.journal.save())
	}
	r.note("%s was %s and is now %s", dotted(s.Path), s.Was, s.Now)
	return nil
}

// along are the sysctls that the kernel changes when that one is written, and that would not be what they were when it is written back.
func along(path string) map[string]string {
	with := map[string]string{}
	keep := func(path string) {
		if v, err := readSysctl(path); err == nil {
			with[path] = v
		}
	}
	dir := conf4
	switch path {
	case forwarding4:
		keep(redirects4)
	case forwarding6:
		dir = conf6
	default:
		return nil
	}
	entries, _ := os.ReadDir(sysctlRoot + dir)
	for _, e := range entries {
		if e.Name() != "all" {
			keep(dir + e.Name() + "/forwarding")
		}
	}
	return with
}

// bridges are the names of this host's bridges: networks of containers and virtual machines.
func bridges() (names []string) {
	links, _ := netdump.Whole(netlink.LinkList)
	for _, l := range links {
		if l.Type() == "bridge" {
			names = append(names, l.Attrs().Name)
		}
	}
	slices.Sort(names)
	return names
}

// takeBack restores one and strikes it from the journal.
func (r *Router) takeBack(s setting) error {
	note, err := s.restore()
	if err != nil {
		return err
	}
	if note != "" {
		r.note("%s", note)
	}
	if i := r.journal.find(s.Path); i >= 0 {
		r.journal.Sysctls = slices.Delete(r.journal.Sysctls, i, i+1)
	}
	return r.journal.save()
}

// restore sets a sysctl to what it was, unless somebody has changed it since, or its interface is gone.
func (s setting) restore() (note string, err error) {
	now, err := readSysctl(s.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("sysctl %s cannot be read: %w", dotted(s.Path), err)
	case now == s.Was: // never set, or set back by somebody
		return "", nil
	case now != s.Now:
		return fmt.Sprintf("%s is %s by somebody else and stays so; it was %s", dotted(s.Path), now, s.Was), nil
	}
	if s.Path == forwarding4 || s.Path == forwarding6 {
		for _, b := range bridges() {
			if !slices.Contains(s.Bridges, b) {
				return fmt.Sprintf("%s stays %s, because %s, which was made since, may need it; it was %s", dotted(s.Path), now, b, s.Was), nil
			}
		}
	}
	if err := writeSysctl(s.Path, s.Was); err != nil {
		return "", err
	}
	var errs []error
	for _, path := range slices.Sorted(maps.Keys(s.With)) {
		if v, err := readSysctl(path); err == nil && v != s.With[path] {
			errs = append(errs, writeSysctl(path, s.With[path]))
		}
	}
	return fmt.Sprintf("%s is %s again", dotted(s.Path), s.Was), errors.Join(errs...)
}
