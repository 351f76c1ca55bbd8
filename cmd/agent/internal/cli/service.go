package cli

import (
	"context"

	"connectrpc.com/connect"

	"warren/cmd/agent/internal/daemon"
	"warren/internal/sdnotify"
	"warren/internal/unitjob"
	pb "warren/proto/warrenv1"
)

// runService runs the daemon and tells systemd how it is, if that wants to know. The watchdog gets a word for as long as the local API answers.
func (a *app) runService(ctx context.Context, cfg daemon.Config, r *reloader) error {
	client := a.client() // one for all checks, which share its connection
	manager := sdnotify.FromEnvironment()
	if manager.Present() {
		cfg.Keeper, cfg.Restarts = manager, unitjob.Restarting
	}
	r.announce = manager.Reload
	return manager.Run(ctx, sdnotify.Service{
		Status: "answering on " + cfg.Socket,
		Check: func(ctx context.Context) error {
			_, err := client.Status(ctx, connect.NewRequest(&pb.StatusRequest{}))
			return err
		},
		Failed: func(err error) { cfg.Log.Warn("service manager not told that all is well", "err", err) },
	}, func(ctx context.Context, ready func()) error { return r.run(ctx, cfg, a.serve, ready) })
}
