package cli

import (
	"time"

	"github.com/spf13/cobra"
)

// Definitions are the commands and flags of warren, to be described and not to be run.
func Definitions() *cobra.Command { return (&app{now: time.Now}).root() }
