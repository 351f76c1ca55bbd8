package cli

import (
	"context"
	"log/slog"

	"connectrpc.com/connect"

	"warren/cmd/coordinator/internal/handover"
	"warren/internal/publicroots"
	"warren/internal/sdnotify"
	pb "warren/proto/warrenv1"
)

// asService runs a server and tells systemd how it is, if that wants to know. The watchdog gets a word for as long as check, which may be nil, finds
// nothing wrong. run is given what systemd kept of the process before.
func (a *app) asService(ctx context.Context, log *slog.Logger, check func(context.Context) error, run func(context.Context, handover.Service, func()) error) error {
	publicroots.Use()
	kept, err := sdnotify.Inherited()
	if err != nil {
		log.Warn("not all that the process before left can be used", "err", err)
	}
	manager := sdnotify.FromEnvironment()
	return manager.Run(ctx, sdnotify.Service{
		Status: "serving", Check: check,
		Failed: func(err error) { log.Warn("service manager not told that all is well", "err", err) },
	}, func(ctx context.Context, ready func()) error {
		return run(ctx, handover.Service{Manager: manager, Kept: kept}, ready)
	})
}

// answers gives a check that asks the running coordinator for what it needs the database for.
func (a *app) answers() func(context.Context) error {
	client := a.client() // one for all checks, which share its connection
	return func(ctx context.Context) error {
		_, err := client.ServerStatus(ctx, connect.NewRequest(&pb.ServerStatusRequest{}))
		return err
	}
}
