package cli

import "github.com/spf13/cobra"

// Definitions are the commands and flags of warren-coordinator as root sees them, to be described and not to be run.
func Definitions() *cobra.Command {
	root := (&app{}).root()
	root.PersistentFlags().Lookup("state").DefValue = rootState
	return root
}
