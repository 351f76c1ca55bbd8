//go:build !linux

package diskspace

import "errors"

// Of is not there yet on this system.
func Of(string) (Space, error) { return Space{}, errors.New("not yet on this system") }
