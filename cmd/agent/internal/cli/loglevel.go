package cli

import (
	"fmt"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"warren/internal/runlog"
	pb "warren/proto/warrenv1"
)

// logLevelUsage tells of the flag.
const logLevelUsage = "log what is at least of this `level`: debug, info, warn or error"

func (a *app) logLevel() *cobra.Command {
	return &cobra.Command{
		Use:   "log-level [LEVEL]",
		Short: "Show or change how much the running daemon logs",
		Long: `Shows the level of the daemon's log, or changes it at once: debug, info, warn or error. A daemon that starts, or reads its settings again,
takes the level of "warren daemon --log-level" or of its settings.`,
		Args:      args(cobra.MaximumNArgs(1)),
		ValidArgs: runlog.Levels(),
		RunE: func(cmd *cobra.Command, given []string) error {
			req := new(pb.LogLevelRequest)
			if len(given) > 0 {
				if _, err := runlog.ParseLevel(given[0]); err != nil {
					return usageError{err}
				}
				req.Level = given[0]
			}
			r, err := a.client().LogLevel(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]string{"level": r.Msg.GetLevel()})
			}
			_, err = fmt.Fprintln(a.out, r.Msg.GetLevel())
			return err
		},
	}
}
