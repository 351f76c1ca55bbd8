package cli

import (
	"fmt"
	"text/tabwriter"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"warren/cmd/internal/cmdline"
	pb "warren/proto/warrenv1"
)

// settingJSON is what --json prints of a setting; its names are an interface that stays stable.
type settingJSON struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	// Origin is empty for a default.
	Origin string `json:"origin"`
}

func settingsView(in []*pb.SettingStatus) []settingJSON {
	out := []settingJSON{}
	for _, s := range in {
		out = append(out, settingJSON{s.GetName(), s.GetValue(), s.GetOrigin()})
	}
	return out
}

func (a *app) config() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show what the daemon runs with, and where it was set",
		Long: `Shows the settings that are not as they are by default, and where each was set: by a flag of "warren daemon", by a variable of its environment, by a
line of its configuration file, or by "warren up" and "warren set". In this order one goes before the other.`,
		Args: cmdline.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.client().Status(cmd.Context(), connect.NewRequest(&pb.StatusRequest{}))
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(settingsView(r.Msg.GetSettings()))
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "SETTING\tVALUE\tSET BY")
			for _, s := range r.Msg.GetSettings() {
				if all || s.GetOrigin() != "" {
					fmt.Fprintf(w, "%s\t%s\t%s\n", s.GetName(), dash(s.GetValue()), dash(s.GetOrigin()))
				}
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "show those with their default, too")
	cmd.AddCommand(a.configCheck())
	return cmd
}

func (a *app) configCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a configuration file, without a daemon",
		Long:  `Checks a configuration file, ` + defaultConfig + ` unless another is named: syntax, names, types, ranges, and what goes together. Nothing is changed.`,
		Args:  cmdline.Args(cobra.MaximumNArgs(1)),
		RunE: func(_ *cobra.Command, given []string) error {
			file := defaultConfig
			if len(given) == 1 {
				file = given[0]
			}
			f := pflag.NewFlagSet("daemon", pflag.ContinueOnError)
			o := new(daemonOptions)
			newReloader(a, f).register(o, f)
			o.file = file
			_, err := a.load(o, f, nil)
			return err
		},
	}
}

// dash stands for nothing in a table.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
