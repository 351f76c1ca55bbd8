//go:build !unix

package inspect

import "math"

// permissions are not looked at on this system yet.
func permissions(string) error { return nil }

// freeSpace is not looked at on this system yet.
func freeSpace(string) (uint64, error) { return math.MaxUint64, nil }
