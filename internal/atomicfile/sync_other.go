//go:build !unix

package atomicfile

// syncDir does nothing: the system does not let a program sync a directory.
func syncDir(string) error { return nil }
