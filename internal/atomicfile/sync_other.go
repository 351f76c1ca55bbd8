//go:build !unix && !windows

package atomicfile

import "os"

func replace(from, to string) error { return os.Rename(from, to) }

// syncDir does nothing: the system does not let a program sync a directory.
func syncDir(string) error { return nil }
