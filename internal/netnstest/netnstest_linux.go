package netnstest

import (
	"fmt"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Run calls f in a new namespace, of which nothing is left when f returns but what goroutines and sockets of f's still hold.
func Run(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done) // also after t.Fatal
		if err := Enter(); err != nil {
			t.Error(err)
			return
		}
		f(t)
	}()
	<-done
}

// Enter moves the calling goroutine into a new namespace for good. Its thread stays locked and dies with it, and what other goroutines do is not
// concerned: sockets must be opened by this one.
func Enter() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("making a network namespace: %w (are we root?)", err)
	}
	return nil
}
