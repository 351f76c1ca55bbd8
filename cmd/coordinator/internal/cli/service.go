package cli

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"connectrpc.com/connect"

	"warren/cmd/coordinator/internal/handover"
	"warren/internal/publicroots"
	"warren/internal/sdnotify"
	"warren/internal/sysservice"
	pb "warren/proto/warrenv1"
)

// service is what a server has of the manager that started it.
type service struct {
	ready func()
	// handover has what the manager kept of the process before.
	handover handover.Service
	// reload calls its argument whenever the settings are to be taken anew, until its context ends.
	reload func(context.Context, func()) error
}

// asService runs a server and tells systemd how it is, if that wants to know. The watchdog gets a word for as long as check, which may be nil, finds
// nothing wrong.
func (a *app) asService(ctx context.Context, log *slog.Logger, check func(context.Context) error, run func(context.Context, service) error) error {
	publicroots.Use()
	kept, err := sdnotify.Inherited()
	if err != nil {
		log.Warn("not all that the process before left can be used", "err", err)
	}
	manager := sdnotify.FromEnvironment()
	failed := func(err error) { log.Warn("service manager not told that all is well", "err", err) }
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP) // from the beginning: one that comes before anybody waits for it must not end the process
	defer signal.Stop(hangups)
	reload := func(ctx context.Context, take func()) error {
		return onEach(ctx, hangups, func() {
			if err := manager.Reload(take); err != nil {
				failed(err)
			}
		})
	}
	return sysservice.Run(ctx, "warren-coordinator", func(ctx context.Context) error {
		return manager.Run(ctx, sdnotify.Service{Status: "serving", Check: check, Failed: failed}, func(ctx context.Context, ready func()) error {
			return run(ctx, service{ready, handover.Service{Manager: manager, Kept: kept}, reload})
		})
	})
}

// onEach calls do for each signal until ctx ends.
func onEach(ctx context.Context, signals <-chan os.Signal, do func()) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-signals:
			do()
		}
	}
}

// answers gives a check that asks the running coordinator for what it needs the database for.
func (a *app) answers() func(context.Context) error {
	client := a.client() // one for all checks, which share its connection
	return func(ctx context.Context) error {
		_, err := client.ServerStatus(ctx, connect.NewRequest(&pb.ServerStatusRequest{}))
		return err
	}
}
