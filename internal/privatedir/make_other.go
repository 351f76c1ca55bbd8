//go:build !windows

package privatedir

import "os"

func makeDir(path string) error { return os.MkdirAll(path, 0o700) }
