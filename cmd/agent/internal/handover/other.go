//go:build !linux

package handover

import (
	"errors"
	"os"
	"syscall"
)

var errSystem = errors.New("not yet on this system: one process taking over from another")

// Inherited gives nothing.
func Inherited() (Files, error) { return nil, nil }

// Replace fails.
func Replace(string, []string, []string, Files) error { return errSystem }

// Duplicate fails.
func Duplicate(string, syscall.Conn) (*os.File, error) { return nil, errSystem }

// Now fails.
func Now() (Moment, error) { return Moment{}, errSystem }

// Seal fails.
func Seal([]byte) (*os.File, error) { return nil, errSystem }

// Open fails.
func Open(*os.File) ([]byte, error) { return nil, errSystem }
