//go:build !unix

package cli

import "os"

// replaceSignal tells nothing: there is no such signal on this system.
func replaceSignal() <-chan os.Signal { return nil }
