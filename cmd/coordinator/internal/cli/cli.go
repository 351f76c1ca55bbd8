// Package cli is the command line of warren-coordinator. Main runs one command and gives its exit status: 0 done, 1 failed, 2 wrong usage.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"warren/cmd/coordinator/internal/serve"
	"warren/cmd/internal/cmdline"
	"warren/internal/buildversion"
	"warren/internal/runlog"
	"warren/proto/token"
	"warren/proto/warrenv1/warrenv1connect"
)

const rootState = "/var/lib/warren-coordinator"

// app is what all commands share.
type app struct {
	out, err io.Writer
	state    string
	json     bool
}

// Main runs the command that args name.
func Main(args []string, out, errw io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{out: out, err: errw}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errw)
	cmd, err := root.ExecuteContextC(ctx)
	return a.report(cmd.CommandPath(), err)
}

// report prints why the command did not succeed, and gives the exit status. A value that no state of things makes right is wrong usage, whoever
// found out: this program or the running coordinator.
func (a *app) report(command string, err error) int {
	var usage cmdline.UsageError
	switch {
	case err == nil:
		return cmdline.ExitDone
	case errors.As(err, &usage):
		runlog.Fatal(a.err, "warren-coordinator: %v\nTry \"%s --help\".\n", err, command)
		return cmdline.ExitUsage
	}
	runlog.Fatal(a.err, "warren-coordinator: %v\n", a.plain(err))
	if errors.Is(err, token.ErrMalformed) || connect.CodeOf(err) == connect.CodeInvalidArgument {
		return cmdline.ExitUsage
	}
	return cmdline.ExitFailed
}

// plain turns an error of the administrators' API into a sentence.
func (a *app) plain(err error) error {
	socket := filepath.Join(a.state, serve.SocketName)
	switch {
	case errors.Is(err, fs.ErrNotExist) && errors.Is(err, errSocket), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no coordinator runs on the state directory %s; start \"warren-coordinator serve\", or name the directory with --state", a.state)
	case errors.Is(err, fs.ErrPermission) && errors.Is(err, errSocket):
		return fmt.Errorf("socket %s: you may not use it; run as root or as the coordinator's own user", socket)
	}
	var remote *connect.Error
	if errors.As(err, &remote) {
		return errors.New(remote.Message())
	}
	return err
}

// defaultState is the system's directory for root, and one of the user's own otherwise.
func defaultState() string {
	if os.Geteuid() == 0 {
		return rootState
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "warren-coordinator")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "warren-coordinator")
	}
	return rootState
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "warren-coordinator",
		Short:         "Coordinate a Warren network",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, given []string) error {
			if len(given) > 0 {
				return cmdline.Usagef("unknown command %q", given[0])
			}
			return cmd.Help()
		},
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.PersistentFlags().StringVar(&a.state, "state", defaultState(), "state `directory` of the coordinator")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	root.SetFlagErrorFunc(cmdline.FlagError)
	root.AddCommand(a.serve(), a.config(), a.relay(), a.token(), a.device(), a.route(), a.policy(), a.why(), a.flows(), a.relays(), a.status(), a.service(), a.logLevel(), a.bugReport(),
		a.backup(), a.restore(), a.check(), a.version())
	return root
}

// errSocket marks a failure to reach the administrators' socket.
var errSocket = errors.New("administrators' socket")

func (a *app) client() warrenv1connect.AdminServiceClient {
	path := filepath.Join(a.state, serve.SocketName)
	return warrenv1connect.NewAdminServiceClient(&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, "unix", path)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errSocket, err)
			}
			return c, nil
		},
	}}, "http://coordinator.local")
}

func (a *app) printJSON(v any) error {
	return cmdline.PrintJSON(a.out, v)
}

// terminal reports whether w is one.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
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
			_, err := fmt.Fprintln(a.out, "warren-coordinator", buildversion.Get())
			return err
		},
	}
}
