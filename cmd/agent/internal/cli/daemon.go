package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"warren/cmd/agent/internal/daemon"
	"warren/cmd/agent/internal/state"
	"warren/internal/runlog"
	"warren/nat/gather"
	"warren/nat/portmap"
	"warren/tunnel/router"
)

// serviceUnit is the systemd unit that the packages install.
const serviceUnit = "warren.service"

// Bounds of --hard-nat-rate: faster than that, some boxes take it for an attack.
const defaultHardNATRate, maxHardNATRate = 100, 1000

// readyWord is what a detached daemon writes to its parent once it serves; anything else is why it does not.
const readyWord = "ready"

func (a *app) daemon() *cobra.Command {
	var cfg daemon.Config
	var readyFD int
	var mapping, levelName string
	var flows flowOptions
	hardNATRate := defaultHardNATRate
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Run the daemon in the foreground",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			level, err := runlog.ParseLevel(levelName)
			if err != nil {
				return usagef("--log-level: %w", err)
			}
			if err := router.CheckName(a.tun); err != nil {
				return usagef("--tun: %w", err)
			}
			if err := natFlags(&cfg, mapping, hardNATRate); err != nil {
				return err
			}
			if err := flows.apply(&cfg); err != nil {
				return err
			}
			cfg.StateDir, cfg.Socket, cfg.Interface, cfg.Now = a.state, a.socket, a.tun, a.now
			log := runlog.Open(a.err, level)
			cfg.Log, cfg.LogLevel, cfg.RecentLog = log.Logger, log.Level, log.Recent.Bytes
			if readyFD > 0 {
				tell := tellParent(readyFD)
				err := daemon.Run(cmd.Context(), cfg, func() { tell(nil) })
				if err != nil {
					tell(err)
				}
				return err
			}
			return a.runService(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&levelName, "log-level", "info", logLevelUsage)
	f.Uint16Var(&cfg.Port, "port", 0, "UDP `port`; 0 keeps the one of the last run")
	f.StringVar(&cfg.Metrics, "metrics", "", "serve Prometheus metrics on this `address`")
	f.StringVar(&cfg.Proxy, "proxy", "", "reach coordinator and relays through this HTTP proxy `URL`, or off (default: HTTPS_PROXY of the environment)")
	f.StringArrayVar(&cfg.Endpoints, "endpoint", nil, "tell peers that this device can be reached at `HOST:PORT` too; may be repeated")
	f.StringVar(&mapping, "port-mapping", "pcp,nat-pmp,upnp", "have the gateway map the port by these `protocols`, or off")
	f.BoolVar(&cfg.DisableGSO, "disable-gso", false, "send UDP without segmentation offload")
	f.BoolVar(&cfg.DisableGRO, "disable-gro", false, "receive UDP without receive offload")
	f.IntVar(&hardNATRate, "hard-nat-rate", hardNATRate, "`ports` of a peer's hard NAT to try in a second when traffic wants a direct path; 0 tries none")
	flows.register(f)
	f.StringVar(&cfg.WhoIsGroup, "whois-group", "", "let this `group` ask who is behind an address, and nothing else, on whois.sock beside the daemon's socket")
	f.IntVar(&readyFD, "ready-fd", 0, "")
	if err := f.MarkHidden("ready-fd"); err != nil {
		panic(err) // the flag was defined two lines up
	}
	return cmd
}

// maxEndpoints bounds fixed endpoints: all candidates of a device go into one message.
const maxEndpoints = 8

// natFlags checks the flags about reachability before anything is started.
func natFlags(cfg *daemon.Config, mapping string, hardNATRate int) (err error) {
	if hardNATRate < 0 || hardNATRate > maxHardNATRate {
		return usagef("--hard-nat-rate %d: want 0 to %d", hardNATRate, maxHardNATRate)
	}
	if cfg.HardNATRate = hardNATRate; hardNATRate == 0 {
		cfg.HardNATRate = -1
	}
	if cfg.PortMapping, err = portmap.ParseProtocols(mapping); err != nil {
		return usagef("--port-mapping: %w", err)
	}
	if len(cfg.Endpoints) > maxEndpoints {
		return usagef("--endpoint: %d of them, at most %d", len(cfg.Endpoints), maxEndpoints)
	}
	for _, e := range cfg.Endpoints {
		if err := gather.CheckEndpoint(e); err != nil {
			return usagef("--endpoint: %w", err)
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
	if a.state == defaultState && a.socket == defaultSocket && serviceInstalled() {
		return startService(ctx)
	}
	return a.startDetached(ctx)
}

func serviceInstalled() bool {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return false
	}
	for _, dir := range []string{"/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"} {
		if _, err := os.Stat(filepath.Join(dir, serviceUnit)); err == nil {
			return true
		}
	}
	return false
}

// startService returns when the daemon says that it is ready: the unit is of type notify.
func startService(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "systemctl", "start", serviceUnit).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl start %s: %w: %s; see \"journalctl -u warren\"", serviceUnit, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// startDetached starts "warren daemon" in a session of its own and waits until it serves the socket, or says why not.
func (a *app) startDetached(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(a.state, 0o700); err != nil {
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
	cmd := exec.Command(self, "daemon", "--state", a.state, "--socket", a.socket, "--tun", a.tun, "--ready-fd", "3")
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
