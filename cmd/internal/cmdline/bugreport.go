package cmdline

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// BugReport is the command "bugreport" of a program. create writes the report, as long tells, to a file.
func BugReport(
	program, long string, out io.Writer, asJSON *bool, clock func() time.Time,
	create func(ctx context.Context, file string, redact bool, now time.Time) error,
) *cobra.Command {
	var output string
	var redact bool
	cmd := &cobra.Command{Use: "bugreport", Short: "Put what somebody needs who is to help into one file", Long: long, Args: Args(cobra.NoArgs)}
	cmd.Flags().StringVarP(&output, "output", "o", "", "`file` to be made (default "+program+"-bugreport-TIME.tar.gz, here)")
	cmd.Flags().BoolVar(&redact, "redact", false, "replace names, public addresses and keys")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		now := clock()
		if output == "" {
			output = program + "-bugreport-" + now.UTC().Format("20060102-150405") + ".tar.gz"
		}
		if err := create(cmd.Context(), output, redact, now); err != nil {
			return err
		}
		if *asJSON {
			return PrintJSON(out, map[string]string{"file": output})
		}
		_, err := fmt.Fprintf(out, "%s\nLook at it before you pass it on: tar -xzf %s\n", output, output)
		return err
	}
	return cmd
}
