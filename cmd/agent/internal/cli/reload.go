package cli

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/pflag"

	"warren/cmd/agent/internal/config"
	"warren/cmd/agent/internal/daemon"
	"warren/internal/unitjob"
)

// reloader reads the daemon's configuration, again whenever it is told to.
type reloader struct {
	a       *app
	given   *pflag.FlagSet // as the command line was
	environ []string
	log     *slog.Logger
	level   *slog.LevelVar
	running *loaded
	changes chan daemon.Change
	// announce tells the service manager that the daemon reads its configuration anew while its argument runs.
	announce func(func()) error
}

func newReloader(a *app, given *pflag.FlagSet) *reloader {
	return &reloader{a: a, given: given, environ: os.Environ(), changes: make(chan daemon.Change), announce: func(do func()) error { do(); return nil }}
}

// start reads it for the first time, into o.
func (r *reloader) start(o *daemonOptions) (daemon.Config, error) {
	flags := r.given
	r.given = pflag.NewFlagSet("daemon", pflag.ContinueOnError)
	r.register(new(daemonOptions), r.given)
	if err := config.Copy(r.given, flags); err != nil {
		return daemon.Config{}, err
	}
	l, err := r.a.load(o, flags, r.environ)
	if err != nil {
		return daemon.Config{}, err
	}
	os.Unsetenv(tokenVariable) // programs that the daemon starts need not know
	r.running = l
	l.cfg.Options, l.cfg.Changes = l.options(), r.changes
	return l.cfg, nil
}

// register puts the flags of o into f, and those of every command that a file may set.
func (r *reloader) register(o *daemonOptions, f *pflag.FlagSet) {
	o.register(f)
	f.String("tun", r.a.tun, "")
}

// logTo says where to log, and what to say of the first reading.
func (r *reloader) logTo(log *slog.Logger, level *slog.LevelVar) {
	r.log, r.level = log, level
	for _, name := range r.running.from.Unknown {
		if name != "WARREN_DAEMON_FLAGS" && name != unitjob.Variable { // which the service's unit reads and sets
			log.Warn("there is no setting of this name", "variable", name)
		}
	}
}

// run runs the daemon, and reads its configuration again at each SIGHUP.
func (r *reloader) run(ctx context.Context, cfg daemon.Config, run func(context.Context, daemon.Config, func()) error, ready func()) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	hangups := make(chan os.Signal, 1)
	if signals := reloadSignals(); len(signals) > 0 {
		signal.Notify(hangups, signals...)
		defer signal.Stop(hangups)
	}
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
				if err := r.announce(func() { r.reload(ctx) }); err != nil {
					r.log.Warn("service manager not told of the reload", "err", err)
				}
			}
		}
	}()
	return run(ctx, cfg, ready)
}

// reload reads the configuration again. What is wrong in it is logged, and nothing is changed then.
func (r *reloader) reload(ctx context.Context) {
	next, err := r.read()
	if err == nil {
		err = r.tell(ctx, next)
	}
	if err != nil {
		r.log.Error("configuration not taken over; all stays as it was", "err", err)
		return
	}
	r.level.Set(next.level)
	if names := next.needRestart(r.running); len(names) > 0 {
		r.log.Warn("these settings count from the next start: systemctl restart warren", "settings", strings.Join(names, ", "))
	}
	r.log.Info("configuration read again", "file", next.source.File)
}

func (r *reloader) read() (*loaded, error) {
	o, f := new(daemonOptions), pflag.NewFlagSet("daemon", pflag.ContinueOnError)
	r.register(o, f)
	if err := config.Copy(f, r.given); err != nil {
		return nil, err
	}
	return r.a.load(o, f, r.environ)
}

// tell hands what has changed to the daemon and waits for what it says.
func (r *reloader) tell(ctx context.Context, next *loaded) error {
	answer := make(chan error, 1)
	c := daemon.Change{Managed: next.cfg.Managed, Join: next.cfg.Join, Options: next.counting(r.running), Done: answer}
	select {
	case r.changes <- c:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
