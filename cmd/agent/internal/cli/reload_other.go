//go:build !unix

package cli

import "os"

// reloadSignals are none: this system has no such thing.
func reloadSignals() []os.Signal { return nil }
