//go:build !linux && !darwin && !windows

package hostlinks

import (
	"net/netip"

	"warren/tunnel/routeplan"
)

// Read fails: this system has no implementation.
func (r *Reader) Read() ([]routeplan.Link, error) { return nil, ErrUnsupported }

// Neighbours fails: this system has no implementation.
func (r *Reader) Neighbours() ([]netip.Addr, error) { return nil, ErrUnsupported }
