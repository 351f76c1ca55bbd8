//go:build unix

package cli

import (
	"os"
	"os/signal"
	"syscall"
)

// replaceSignal tells of each SIGUSR2.
func replaceSignal() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR2)
	return c
}
