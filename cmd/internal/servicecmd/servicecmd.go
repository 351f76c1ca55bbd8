// Package servicecmd is the command "service" that both programs have: it makes a program a service of the system, and starts, stops and removes it. New is
// all there is to call.
package servicecmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"warren/cmd/internal/cmdline"
	"warren/internal/sysservice"
)

// Options are what differs between the programs.
type Options struct {
	// Service tells what is to be a service, once flags have been read.
	Service func() sysservice.Service
	// Program is the name of the program.
	Program string
	Out     io.Writer
	JSON    *bool
	// Detect and Executable are sysservice.Detect and os.Executable, but in tests.
	Detect     func() (sysservice.Manager, error)
	Executable func() (string, error)
}

// New makes the command.
func New(o Options) *cobra.Command {
	if o.Detect == nil {
		o.Detect = sysservice.Detect
	}
	if o.Executable == nil {
		o.Executable = executable
	}
	return cmdline.Group("service", "Run "+o.Program+" as a service of this system, without a package",
		o.verb("install", "Have the system run it, now and whenever it starts", "runs as a service, and starts with the system", o.install),
		o.verb("uninstall", "Stop it and have the system forget it; settings and state stay", "is no service any more; its settings and state stay", sysservice.Manager.Uninstall),
		o.verb("start", "Start the service", "is started", sysservice.Manager.Start),
		o.verb("stop", "Stop the service until it is started, or the system is", "is stopped", sysservice.Manager.Stop),
		o.verb("restart", "Restart the service, after its program was replaced", "is restarted", sysservice.Manager.Restart),
		o.status(),
	)
}

// executable is the file of this program, which the service is to run.
func executable() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("the path of this program is not known: %w", err)
	}
	return filepath.EvalSymlinks(path)
}

func (o Options) install(m sysservice.Manager, ctx context.Context, s sysservice.Service) error {
	program, err := o.Executable()
	if err != nil {
		return err
	}
	return m.Install(ctx, s, program)
}

// verb is a command that changes something.
func (o Options) verb(use, short, done string, do func(sysservice.Manager, context.Context, sysservice.Service) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cmdline.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := o.Detect()
			if err != nil {
				return o.explain(use, err)
			}
			s := o.Service()
			if err := do(m, cmd.Context(), s); err != nil {
				return o.explain(use, err)
			}
			_, err = fmt.Fprintln(o.Out, s.Name, done)
			return err
		},
	}
}

// explain says what to do about an error.
func (o Options) explain(verb string, err error) error {
	s := o.Service()
	switch {
	case errors.Is(err, sysservice.ErrForbidden) && runtime.GOOS == "windows":
		return fmt.Errorf("%w; open a terminal by \"Run as administrator\"", err)
	case errors.Is(err, sysservice.ErrForbidden):
		return fmt.Errorf("%w; run it with sudo: sudo %s service %s", err, o.Program, verb)
	case errors.Is(err, sysservice.ErrNotInstalled):
		return fmt.Errorf("%s: %w; \"%s service install\" does that", s.Name, err, o.Program)
	case errors.Is(err, sysservice.ErrNoManager):
		return fmt.Errorf("%w; have whatever starts programs here run \"%s\"", err, o.line(s))
	}
	return err
}

// line is how the service's program is run by hand.
func (o Options) line(s sysservice.Service) string {
	out := o.Program
	for _, a := range s.Args {
		out += " " + a
	}
	return out
}

func (o Options) status() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show whether the service is installed and runs", Args: cmdline.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := o.Detect()
			if err != nil {
				return o.explain("status", err)
			}
			s := o.Service()
			st, err := m.Status(cmd.Context(), s)
			if err != nil {
				return o.explain("status", err)
			}
			if *o.JSON {
				return cmdline.PrintJSON(o.Out, struct {
					Name      string `json:"name"`
					Installed bool   `json:"installed"`
					sysservice.Status
				}{s.Name, st.Installed(), st})
			}
			_, err = fmt.Fprintln(o.Out, o.describe(s, st))
			return err
		},
	}
}

func (o Options) describe(s sysservice.Service, st sysservice.Status) string {
	if !st.Installed() {
		return fmt.Sprintf("%s is not installed as a service of %s", s.Name, st.System)
	}
	runs, starts := "is stopped", "does not start with the system"
	if st.Running {
		runs = "runs"
	}
	if st.Enabled {
		starts = "starts with the system"
	}
	from := "by a package"
	if st.Program != "" {
		from = "for " + st.Program
	}
	return fmt.Sprintf("%s %s, and %s\ninstalled %s: %s (%s)", s.Name, runs, starts, from, st.File, st.System)
}
