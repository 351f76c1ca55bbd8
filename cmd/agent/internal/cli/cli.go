// Package cli is the command line of warren. Main runs one command and gives its exit status: 0 done, 1 failed, 2 wrong usage.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"warren/cmd/agent/internal/local"
	"warren/cmd/internal/cmdline"
	"warren/internal/buildversion"
	"warren/internal/publicroots"
	"warren/internal/runlog"
	"warren/proto/token"
	"warren/proto/warrenv1/warrenv1connect"
)

// flagError is a value that a flag cannot have.
type flagError struct {
	flag string
	err  error // what follows the flag's name
}

func (f flagError) Error() string { return "--" + f.flag + f.err.Error() }
func (f flagError) Unwrap() error { return f.err }

// flagf is cmdline.Usagef for the value of a flag, which may be from elsewhere than the command line.
func flagf(flag, format string, args ...any) error {
	return cmdline.UsageError{Err: flagError{flag, fmt.Errorf(format, args...)}}
}

// app is what all commands share.
type app struct {
	in       io.Reader
	out, err io.Writer
	state    string
	socket   string
	tun      string
	json     bool
	now      func() time.Time
	// begin is called once by a program that runs for long.
	begin func()
	// successor is the daemon's.
	successor successor
}

// Main runs the command that args name.
func Main(args []string, in io.Reader, out, errw io.Writer) int {
	return (&app{in: in, out: out, err: errw, now: time.Now, begin: publicroots.Use}).main(args)
}

// runAt is Main on a machine with a clock of its own.
func runAt(now func() time.Time, args []string, in io.Reader, out, errw io.Writer) int {
	return (&app{in: in, out: out, err: errw, now: now, begin: func() {}}).main(args)
}

func (a *app) main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	cmd, err := root.ExecuteContextC(ctx)
	return a.report(ctx, cmd.CommandPath(), err)
}

// report prints why the command did not succeed, and gives the exit status. A value that no state of things makes right is wrong usage, whoever
// found out: this program or the daemon.
func (a *app) report(ctx context.Context, command string, err error) int {
	var usage cmdline.UsageError
	switch {
	case err == nil:
		return cmdline.ExitDone
	case errors.As(err, &usage):
		runlog.Fatal(a.err, "warren: %v\nTry \"%s --help\".\n", err, command)
		return cmdline.ExitUsage
	case ctx.Err() != nil:
		fmt.Fprintln(a.err, "warren: interrupted")
		return cmdline.ExitFailed
	}
	runlog.Fatal(a.err, "warren: %v\n", plain(a.socket, err))
	if errors.Is(err, token.ErrMalformed) || connect.CodeOf(err) == connect.CodeInvalidArgument {
		return cmdline.ExitUsage
	}
	return cmdline.ExitFailed
}

// plain strips what only programs want to know from an error of the local API.
func plain(socket string, err error) error {
	explained := local.Explain(socket, err)
	var remote *connect.Error
	if explained == err && errors.As(err, &remote) {
		return errors.New(remote.Message())
	}
	return explained
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "warren",
		Short:         "Join this machine to a Warren network",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return cmdline.Usagef("unknown command %q", args[0])
			}
			return cmd.Help()
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.settle(cmd) },
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	f := root.PersistentFlags()
	f.StringVar(&a.state, "state", defaultState, "state `directory` of the daemon")
	f.StringVar(&a.socket, "socket", defaultSocket, "`path` of the daemon's socket")
	f.StringVar(&a.tun, "tun", defaultTUN, "`name` of the tunnel's interface, or userspace for none")
	f.BoolVar(&a.json, "json", false, "print JSON")
	root.SetFlagErrorFunc(cmdline.FlagError)
	root.AddCommand(a.daemon(), a.up(), a.set(), a.down(), a.restart(), a.leave(), a.status(), a.config(), a.ping(), a.why(), a.whoIs(), a.flows(), a.netcheck(), a.leakTest(), a.site(), a.ip(), a.cleanUp(), a.service(), a.doctor(), a.bugReport(), a.logLevel(), a.version())
	return root
}

func (a *app) client() warrenv1connect.LocalServiceClient { return local.Dial(a.socket) }

func (a *app) printJSON(v any) error {
	return cmdline.PrintJSON(a.out, v)
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  cmdline.Args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				return a.printJSON(map[string]string{"version": buildversion.Get()})
			}
			_, err := fmt.Fprintln(a.out, "warren", buildversion.Get())
			return err
		},
	}
}
