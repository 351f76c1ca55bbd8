package cli

import (
	"context"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"warren/cmd/internal/cmdline"
	pb "warren/proto/warrenv1"
)

func (a *app) logLevel() *cobra.Command {
	return cmdline.LogLevel("coordinator", "warren-coordinator serve", a.out, &a.json, func(ctx context.Context, level string) (string, error) {
		r, err := a.client().SetLogLevel(ctx, connect.NewRequest(&pb.SetLogLevelRequest{Level: level}))
		if err != nil {
			return "", err
		}
		return r.Msg.GetLevel(), nil
	})
}
