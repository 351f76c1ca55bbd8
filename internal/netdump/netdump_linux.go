package netdump

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// tries is how often a dump is begun.
const tries = 5

// Whole gives what list does. If changes go on interrupting it, that is the last list, with its gaps, and netlink.ErrDumpInterrupted.
func Whole[T any](list func() ([]T, error)) (out []T, err error) {
	for range tries {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return out, err
}
