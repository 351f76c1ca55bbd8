package cli

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"warren/cmd/coordinator/internal/config"
	"warren/cmd/internal/cmdline"
)

// defaultConfig is the file that the service reads.
const defaultConfig = "/etc/warren-coordinator/coordinator.toml"

func (a *app) config() *cobra.Command {
	return cmdline.Group("config", "Check the configuration file", &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a configuration file, without a coordinator",
		Long:  `Checks a configuration file, ` + defaultConfig + ` unless another is named: syntax, names, types, ranges, and what goes together. Nothing is changed.`,
		Args:  cmdline.Args(cobra.MaximumNArgs(1)),
		RunE: func(_ *cobra.Command, given []string) error {
			file := defaultConfig
			if len(given) == 1 {
				file = given[0]
			}
			c, err := a.settings(pflag.NewFlagSet("serve", pflag.ContinueOnError), file, config.Config{})
			if err != nil {
				return err
			}
			if err := c.Check(); err != nil {
				return cmdline.UsageError{Err: err}
			}
			return nil
		},
	})
}
