//go:build unix

package cli

import "syscall"

func detachable() error { return nil }

// detached gives a process its own session, so that it outlives the terminal.
func detached() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }
