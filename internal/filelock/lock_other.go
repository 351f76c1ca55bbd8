//go:build !unix && !windows

package filelock

import "errors"

func take(string) (func() error, error) {
	return nil, errors.New("files cannot be locked on this system yet")
}
