//go:build !unix

package cli

import (
	"errors"
	"syscall"
)

// detachable fails: a process here gets no pipe by which the new daemon could say that it is ready.
func detachable() error {
	return errors.New("no daemon runs, and on this system none can be started from here: install it with \"warren service install\", or run \"warren daemon\" in another window")
}

func detached() *syscall.SysProcAttr { return nil }
