package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"warren/cmd/agent/internal/daemon"
	"warren/cmd/agent/internal/handover"
	"warren/cmd/agent/internal/state"
	"warren/cmd/internal/cmdline"
	"warren/internal/buildversion"
	"warren/internal/sdnotify"
	pb "warren/proto/warrenv1"
)

// checkPatience is how long a program may take to tell whether it can take over, killPatience what it has besides to end, and startPatience how long until
// it then answers.
const (
	checkPatience = 10 * time.Second
	killPatience  = time.Second
	startPatience = 30 * time.Second
)

// successor is the program that is to take over, and how it is started.
type successor struct {
	program string
	args    []string // the first is its name
	env     []string
}

// newSuccessor takes the environment as it was when this program began.
func newSuccessor(environ []string) (successor, error) {
	program, err := os.Executable()
	if err != nil {
		return successor{}, fmt.Errorf("this program's file is not known: %w", err)
	}
	env := slices.DeleteFunc(slices.Clone(environ), func(v string) bool { return strings.HasPrefix(v, "LISTEN_") })
	return successor{program: program, args: withoutFlags(os.Args), env: env}, nil
}

// withoutFlags leaves out what is for one process only.
func withoutFlags(args []string) (out []string) {
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "--ready-fd":
			i++
		case strings.HasPrefix(args[i], "--ready-fd="), args[i] == "--check":
		default:
			out = append(out, args[i])
		}
	}
	return out
}

// takeOverJSON is what "warren daemon --check" prints.
type takeOverJSON struct {
	Version string `json:"version"`
}

// check runs the program that is installed now, which has to read the same flags and the same state, so that a broken one does not end the tunnel.
func (s successor) check(ctx context.Context) (string, error) {
	return s.checkWithin(ctx, checkPatience)
}

func (s successor) checkWithin(ctx context.Context, patience time.Duration) (version string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer within %s", patience))
	defer cancel()
	cmd := exec.CommandContext(ctx, s.program, append(slices.Clone(s.args[1:]), "--check")...)
	cmd.Env = s.env
	cmd.WaitDelay = killPatience // what it has started may outlive it, and hold its output open
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if text := strings.TrimSpace(words.String()); text != "" {
			err = fmt.Errorf("%w: %.500s", err, text)
		}
		return "", fmt.Errorf("%s cannot take over: %w", s.program, err)
	}
	var told takeOverJSON
	if err := json.Unmarshal(out.Bytes(), &told); err != nil || told.Version == "" {
		return "", fmt.Errorf("%s cannot take over: it says %.80q and no version", s.program, out.String())
	}
	return told.Version, nil
}

// tellCheck is the other side of check, after the flags were read.
func (a *app) tellCheck() error {
	if err := state.Check(a.state); err != nil {
		return err
	}
	return a.printJSON(takeOverJSON{Version: buildversion.Get()})
}

// inherited are files of a daemon before this one, by whichever way they come.
func inherited(warn func(msg string, args ...any)) handover.Files {
	kept, err := sdnotify.Inherited()
	if err != nil {
		warn("not all that the service manager kept can be used", "err", err)
	}
	files, unwanted := handover.Take(kept)
	if len(unwanted) > 0 {
		warn("files of the service manager are of no use", "names", unwanted)
	}
	own, err := handover.Inherited()
	if err != nil {
		warn("not all that the daemon before had open can be used", "err", err)
	}
	for name, f := range own {
		if old := files[name]; old != nil {
			old.Close()
		}
		files[name] = f
	}
	return files
}

// serve runs the daemon, and has the program that is installed take over when it is to be replaced.
func (a *app) serve(ctx context.Context, cfg daemon.Config, ready func()) error {
	next := a.successor
	cfg.Check, cfg.Replace = next.check, replaceSignal()
	ready = sync.OnceFunc(ready)
	for {
		err := daemon.Run(ctx, cfg, ready)
		var made *daemon.HandedOver
		if !errors.As(err, &made) {
			return err
		}
		// It returns only if there is no such program.
		err = handover.Replace(next.program, next.args, next.env, made.Files)
		cfg.Log.Error("the daemon goes on as it is", "err", err)
		cfg.Inherited = made.Files
	}
}

func (a *app) restart() *cobra.Command {
	return &cobra.Command{
		Use:   "restart",
		Short: "Have the daemon replaced by the program that is installed now, without ending the tunnel",
		Long: `Has the daemon replaced by the program that is installed now, for example after an upgrade. The tunnel's interface, its addresses and routes, the
firewall and the keys stay as they are; connections through the tunnel go on after a moment. The new program is tried first: if it cannot
read the daemon's flags or its state, the daemon goes on as it is. Where systemd runs the daemon, "systemctl restart warren" does the same and
has its unit read anew.`,
		Args: cmdline.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runRestart(cmd.Context()) },
	}
}

func (a *app) runRestart(ctx context.Context) error {
	client := a.client()
	r, err := client.Restart(ctx, connect.NewRequest(&pb.RestartRequest{}))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := client.Status(ctx, connect.NewRequest(&pb.StatusRequest{}))
		if err == nil && !st.Msg.GetStarted().AsTime().Equal(r.Msg.GetStarted().AsTime()) {
			return a.printRestarted(st.Msg.GetVersion(), r.Msg.GetVersion())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the daemon was to be replaced by version %s and does not answer; see its log, and start it with \"warren up\" if it has ended",
				r.Msg.GetVersion())
		}
	}
}

func (a *app) printRestarted(version, wanted string) error {
	if version != wanted {
		return fmt.Errorf("the daemon was to be replaced by version %s, and is %s still; see its log", wanted, version)
	}
	if a.json {
		return a.printJSON(takeOverJSON{Version: version})
	}
	_, err := fmt.Fprintln(a.out, "the daemon is version", version, "now")
	return err
}
