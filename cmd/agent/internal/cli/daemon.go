package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"warren/cmd/agent/internal/daemon"
	"warren/cmd/agent/internal/state"
	"warren/cmd/internal/cmdline"
	"warren/internal/privatedir"
	"warren/internal/runlog"
	"warren/internal/sysservice"
	"warren/nat/gather"
	"warren/nat/portmap"
)

// Bounds of --hard-nat-rate: faster than that, some boxes take it for an attack.
const defaultHardNATRate, maxHardNATRate = 100, 1000

// readyWord is what a detached daemon writes to its parent once it serves; anything else is why it does not.
const readyWord = "ready"

func (a *app) daemon() *cobra.Command {
	o := new(daemonOptions)
	var readyFD int
	var check bool
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Run the daemon in the foreground",
		Long: `Runs the daemon in the foreground. Each flag but --state, --socket and --config may be set in three ways: by the flag, --exit-node; by a
variable of the environment, WARREN_EXIT_NODE; by the configuration file, exit-node. The first of these counts. What they set of a device's
settings goes before what "warren up" and "warren set" have stored, and cannot be changed by them. "warren config" shows what is set, and where.

With a join token, in ` + tokenVariable + ` or a file, a device that belongs to no network joins by itself, as soon as the coordinator can be
reached. The file is removed once the device has joined. Without --token-file it is the file token beside the configuration file.

SIGHUP has it read the configuration file and the token again.`,
		Args: cmdline.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runDaemon(cmd, o, readyFD, check) },
	}
	f := cmd.Flags()
	o.register(f)
	f.IntVar(&readyFD, "ready-fd", 0, "")
	f.BoolVar(&check, "check", false, "")
	for _, name := range []string{"ready-fd", "check"} {
		if err := f.MarkHidden(name); err != nil {
			panic(err) // the flag was defined a few lines up
		}
	}
	return cmd
}

func (a *app) runDaemon(cmd *cobra.Command, o *daemonOptions, readyFD int, check bool) error {
	r := newReloader(a, cmd.Flags())
	cfg, err := r.start(o)
	if err != nil {
		return err
	}
	if check {
		return a.tellCheck()
	}
	if a.successor, err = newSuccessor(r.environ); err != nil {
		return err
	}
	cfg.StateDir, cfg.Socket, cfg.Interface, cfg.Now = a.state, a.socket, a.tun, a.now
	log := runlog.Open(a.err, o.level)
	cfg.Log, cfg.LogLevel, cfg.RecentLog = log.Logger, log.Level, log.Recent.Bytes
	r.logTo(log.Logger, log.Level)
	cfg.Inherited = inherited(log.Logger.Warn)
	a.begin()
	if readyFD > 0 {
		tell := tellParent(readyFD)
		err := r.run(cmd.Context(), cfg, a.serve, func() { tell(nil) })
		if err != nil {
			tell(err)
		}
		return err
	}
	return sysservice.Run(cmd.Context(), "warren", func(ctx context.Context) error { return a.runService(ctx, cfg, r) })
}

// maxEndpoints bounds fixed endpoints: all candidates of a device go into one message.
const maxEndpoints = 8

// natFlags checks the flags about reachability before anything is started.
func natFlags(cfg *daemon.Config, mapping string, hardNATRate int) (err error) {
	if hardNATRate < 0 || hardNATRate > maxHardNATRate {
		return flagf("hard-nat-rate", " %d: want 0 to %d", hardNATRate, maxHardNATRate)
	}
	if cfg.HardNATRate = hardNATRate; hardNATRate == 0 {
		cfg.HardNATRate = -1
	}
	if cfg.PortMapping, err = portmap.ParseProtocols(mapping); err != nil {
		return flagf("port-mapping", ": %w", err)
	}
	if len(cfg.Endpoints) > maxEndpoints {
		return flagf("endpoint", ": %d of them, at most %d", len(cfg.Endpoints), maxEndpoints)
	}
	for _, e := range cfg.Endpoints {
		if err := gather.CheckEndpoint(e); err != nil {
			return flagf("endpoint", ": %w", err)
		}
	}
	return nil
}

// tellParent gives a function that reports once on the inherited pipe.
func tellParent(fd int) func(error) {
	pipe := os.NewFile(uintptr(fd), "ready")
	return func(err error) {
		if err == nil {
			fmt.Fprintln(pipe, readyWord)
		} else {
			fmt.Fprintln(pipe, err)
		}
		pipe.Close()
	}
}

// ensureDaemon starts a daemon if none answers: the installed service, or one of our own.
func (a *app) ensureDaemon(ctx context.Context) error {
	absent, err := a.noDaemon(ctx)
	if err != nil || !absent {
		return err
	}
	if a.state == defaultState && a.socket == defaultSocket && a.tun != daemon.UserspaceName {
		if started, err := startService(ctx); started || err != nil {
			return err
		}
	}
	return a.startDetached(ctx)
}

// startService starts the installed service, if there is one. systemd returns when the daemon says that it is ready: the unit is of type notify.
func startService(ctx context.Context) (started bool, err error) {
	m, err := sysservice.Detect()
	if err != nil {
		return false, nil // no service manager, so no service
	}
	s := agentService()
	st, err := m.Status(ctx, s)
	if err != nil || !st.Installed() {
		return false, err
	}
	err = m.Start(ctx, s)
	if errors.Is(err, sysservice.ErrForbidden) {
		return false, fmt.Errorf("the service %s is stopped: %w; run this with sudo", s.Name, err)
	}
	if err != nil {
		return false, fmt.Errorf("%w; the log of the service says why", err)
	}
	return true, nil
}

// startDetached starts "warren daemon" in a session of its own and waits until it serves the socket, or says why not.
func (a *app) startDetached(ctx context.Context) error {
	if err := detachable(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := privatedir.Make(a.state); err != nil {
		return fmt.Errorf("state directory %s cannot be made: %w; choose another with --state or run with sudo", a.state, err)
	}
	logPath := state.LogFile(a.state)
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("daemon's log: %w; choose another directory with --state or run with sudo", err)
	}
	defer logFile.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.Command(self, a.daemonArgs()...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = logFile, logFile, []*os.File{w}
	cmd.SysProcAttr = detached()
	cmd.Env = withoutToken(os.Environ())
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("daemon: %w", err)
	}
	if err := awaitReady(ctx, r); err != nil {
		return err
	}
	fmt.Fprintf(a.err, "started a daemon (process %d); it logs to %s\n", cmd.Process.Pid, logPath)
	return cmd.Process.Release()
}

// daemonArgs are those of a daemon that serves this command line. The interface is named only if it was, since it may be in the configuration file.
func (a *app) daemonArgs() []string {
	args := []string{"daemon", "--ready-fd", "3", "--socket", a.socket}
	if a.state != defaultState {
		args = append(args, "--state", a.state)
	}
	if a.tun != defaultTUN {
		args = append(args, "--tun", a.tun)
	}
	return args
}

func withoutToken(env []string) []string {
	var kept []string
	for _, v := range env {
		if !strings.HasPrefix(v, tokenVariable+"=") {
			kept = append(kept, v)
		}
	}
	return kept
}

func awaitReady(ctx context.Context, r *os.File) error {
	stop := context.AfterFunc(ctx, func() { r.Close() })
	defer stop()
	line, err := bufio.NewReader(io.LimitReader(r, 4096)).ReadString('\n')
	line = strings.TrimSpace(line)
	switch {
	case line == readyWord:
		return nil
	case line != "":
		return errors.New(line)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return fmt.Errorf("the daemon ended at once: %w; see its log", err)
}
