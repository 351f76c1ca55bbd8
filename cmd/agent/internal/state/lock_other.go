//go:build !unix

package state

import "errors"

func lock(string) (func() error, error) {
	return nil, errors.New("warren does not run on this system yet")
}
