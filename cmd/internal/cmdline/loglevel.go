package cmdline

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"warren/internal/runlog"
)

// LogLevelUsage tells of the flag --log-level.
const LogLevelUsage = "log what is at least of this `level`: debug, info, warn or error"

// LogLevel is the command "log-level" of a program whose long-running part is called what, and is started by start. set changes the level there, unless that
// is empty, and gives the one in use.
func LogLevel(what, start string, out io.Writer, asJSON *bool, set func(context.Context, string) (string, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "log-level [LEVEL]",
		Short: "Show or change how much the running " + what + " logs",
		Long: "Shows the level of the " + what + "'s log, or changes it at once: debug, info, warn or error. A " + what + " that starts, or reads its settings\n" +
			"again, takes the level of \"" + start + " --log-level\" or of its settings.",
		Args:      Args(cobra.MaximumNArgs(1)),
		ValidArgs: runlog.Levels(),
		RunE: func(cmd *cobra.Command, given []string) error {
			level := ""
			if len(given) > 0 {
				if _, err := runlog.ParseLevel(given[0]); err != nil {
					return UsageError{err}
				}
				level = given[0]
			}
			level, err := set(cmd.Context(), level)
			if err != nil {
				return err
			}
			if *asJSON {
				return PrintJSON(out, map[string]string{"level": level})
			}
			_, err = fmt.Fprintln(out, level)
			return err
		},
	}
}
