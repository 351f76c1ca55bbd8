//go:build !linux

package doctor

import (
	"errors"
	"syscall"
)

func lookAtTUN(string) *TUN { return nil }

func rightsOf(int) *Rights { return nil }

func lookAtHost(string) (*Host, error) { return nil, errors.New("not yet on this system") }

// mark does nothing: this system has no marks.
func mark(string, string, syscall.RawConn) error { return nil }
