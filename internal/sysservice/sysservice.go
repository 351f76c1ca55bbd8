// Package sysservice installs a program as a service of the system, without a package: systemd or OpenRC on Linux, launchd on macOS, the service control
// manager on Windows. Detect gives the Manager of this system, which installs, starts and removes a Service; Run has a program work as a service of the one
// manager, Windows', that wants to speak to it.
//
// The texts of units and scripts are the caller's, the same as packages have: only the program's path is put in. A general library writes units of
// its own, and so would lose what confines the programs.
package sysservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Text is a unit or a script.
type Text struct {
	// Name is that of the service.
	Name string
	Text string
	// Early says that it is for the time before the network is up, and not started when it is installed.
	Early bool
}

// Settings is a file that is made where there is none, and stays.
type Settings struct{ Path, Text string }

// Service is a program that the system is to run.
type Service struct {
	// Name is the service's, and Title says what it is.
	Name, Title string
	// Packaged is the program's path in Systemd and OpenRC, each of which has the service itself first.
	Packaged        string
	Systemd, OpenRC []Text
	Settings        []Settings
	// Args are the program's, where the system has neither.
	Args []string
	// After are arguments with which the program is run when the service has been removed, to take back what may be left of it; nil: there is nothing.
	After []string
}

// Status is how a service is.
type Status struct {
	// System is the manager's name.
	System string `json:"system"`
	// File is where the manager has it from, and Program what it runs; Program is empty where a package has installed it.
	File    string `json:"file,omitempty"`
	Program string `json:"program,omitempty"`
	// Enabled says that it starts with the system.
	Enabled bool `json:"enabled"`
	Running bool `json:"running"`
}

// Installed tells whether there is such a service.
func (s Status) Installed() bool { return s.File != "" }

// Manager is what runs services on a system.
type Manager interface {
	// Install has the system run the service from now on and at each start. What is installed already in the same way stays.
	Install(ctx context.Context, s Service, program string) error
	// Uninstall stops it and removes what Install wrote.
	Uninstall(ctx context.Context, s Service) error
	Start(ctx context.Context, s Service) error
	Stop(ctx context.Context, s Service) error
	Restart(ctx context.Context, s Service) error
	Status(ctx context.Context, s Service) (Status, error)
}

// Errors that Detect and managers give, besides those of the system.
var (
	ErrNoManager    = errors.New("no service manager is known here")
	ErrNotInstalled = errors.New("the service is not installed")
	ErrForbidden    = errors.New("only an administrator may do this")
	ErrForeign      = errors.New("this file was written by somebody else")
	ErrOtherProgram = errors.New("the service is installed for another program")
	ErrUnreachable  = errors.New("the service may not read this program")
)

// Host is the system under a manager.
type Host struct {
	// Root goes before all paths: empty but in tests.
	Root string
	// Superuser says that this process may change services.
	Superuser bool
	// Command runs a program of the system and gives what it wrote.
	Command func(ctx context.Context, name string, args ...string) (string, error)
}

// Command runs a program, found as a shell does. Its error has what the program wrote.
func Command(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		if text == "" {
			text = err.Error()
		}
		return text, fmt.Errorf("%s: %s", strings.Join(append([]string{name}, args...), " "), text)
	}
	return text, nil
}

func (h Host) path(p string) string { return filepath.Join(h.Root, p) }

// run is Command for what has nothing to say.
func (h Host) run(ctx context.Context, name string, args ...string) error {
	_, err := h.Command(ctx, name, args...)
	return err
}

// marker begins the comment by which a file is known as ours; the program's path follows.
const marker = `written by "service install" for `

// file is what a manager reads.
type file struct {
	path string
	text string
	mode os.FileMode
}

// check tells whether what is to be written may be, and whether it is there already.
func (h Host) check(f file, program string) (same bool, err error) {
	b, err := os.ReadFile(h.path(f.path))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	}
	has, ours := programOf(string(b))
	switch {
	case !ours:
		return false, fmt.Errorf("%s: %w; a package, or a person, has to remove it", f.path, ErrForeign)
	case has != program:
		return false, fmt.Errorf("%s: %w, %s; run its \"service uninstall\" before, or put the new program in its place", f.path, ErrOtherProgram, has)
	}
	return string(b) == f.text, nil
}

// programOf reads the marker.
func programOf(text string) (program string, ours bool) {
	_, rest, ours := strings.Cut(text, marker)
	program, _, _ = strings.Cut(rest, "\n")
	return strings.TrimSuffix(program, " -->"), ours
}

// write puts all files in place, or none if one must not be. It tells whether anything changed.
func (h Host) write(files []file, program string) (changed bool, err error) {
	for _, f := range files {
		same, err := h.check(f, program)
		if err != nil {
			return false, err
		}
		changed = changed || !same
	}
	for _, f := range files {
		if err := writeFile(h.path(f.path), f.text, f.mode); err != nil {
			return changed, err
		}
	}
	return changed, nil
}

func writeFile(path, text string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	next := path + ".new"
	if err := os.WriteFile(next, []byte(text), mode); err != nil {
		return err
	}
	return errors.Join(os.Chmod(next, mode), os.Rename(next, path))
}

// settings makes the files that are not there.
func (h Host) settings(all []Settings) error {
	for _, s := range all {
		if _, err := os.Lstat(h.path(s.Path)); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err := writeFile(h.path(s.Path), s.Text, 0o644); err != nil {
			return fmt.Errorf("settings: %w", err)
		}
	}
	return nil
}

// ours gives the files among paths that are there; one of somebody else is an error.
func (h Host) ours(files []file) (there []file, err error) {
	for _, f := range files {
		b, err := os.ReadFile(h.path(f.path))
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		if _, ours := programOf(string(b)); !ours {
			return nil, fmt.Errorf("%s: %w; a package, or a person, has to remove it", f.path, ErrForeign)
		}
		there = append(there, f)
	}
	return there, nil
}

func (h Host) remove(files []file) (failed error) {
	for _, f := range files {
		failed = errors.Join(failed, os.Remove(h.path(f.path)))
	}
	return failed
}

// status reads which program a file is for.
func (h Host) status(system string, paths ...string) (Status, error) {
	for _, p := range paths {
		b, err := os.ReadFile(h.path(p))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return Status{}, err
		}
		program, _ := programOf(string(b))
		return Status{System: system, File: p, Program: program}, nil
	}
	return Status{System: system}, nil
}

// allowed is for what changes something.
func (h Host) allowed() error {
	if !h.Superuser {
		return ErrForbidden
	}
	return nil
}

// mayInstall is allowed, for a program that the service can run.
func (h Host) mayInstall(program string) error {
	if err := h.allowed(); err != nil {
		return err
	}
	return reachable(program)
}

// confined are where a unit with ProtectHome= and PrivateTmp= finds nothing.
var confined = [...]string{"/home", "/root", "/run/user", "/tmp", "/var/tmp"}

// reachable tells whether a program can be run by the service, and be named in its text.
func reachable(program string) error {
	if !filepath.IsAbs(program) || strings.ContainsAny(program, " \t\n\"'\\%$<>&") {
		return fmt.Errorf("%q: %w; its path has to be whole, without spaces and signs", program, ErrUnreachable)
	}
	for _, dir := range confined {
		if strings.HasPrefix(program, dir+"/") {
			return fmt.Errorf("%s: %w, since it is confined; put it elsewhere first: sudo install %s /usr/local/bin/", program, ErrUnreachable, program)
		}
	}
	return nil
}

// after runs the program once more when its service is gone.
func (h Host) after(ctx context.Context, s Service, program string) error {
	if len(s.After) == 0 || program == "" {
		return nil
	}
	return h.run(ctx, program, s.After...)
}
