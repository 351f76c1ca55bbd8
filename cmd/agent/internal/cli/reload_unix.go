//go:build unix

package cli

import (
	"os"
	"syscall"
)

// reloadSignals have the daemon read its configuration again.
func reloadSignals() []os.Signal { return []os.Signal{syscall.SIGHUP} }
