// Package filelock keeps two processes from using one state directory. Take is the only call.
package filelock

import "errors"

// ErrHeld says that another process holds the lock.
var ErrHeld = errors.New("lock is held by another process")

// Take locks the file at path, which it makes if need be, without waiting. The system drops the lock when the process ends, however it
// ends. The error wraps ErrHeld if another process has it.
func Take(path string) (release func() error, err error) { return take(path) }
