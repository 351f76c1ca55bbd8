//go:build !linux

package hostlinks

import (
	"net/netip"

	"warren/tunnel/routeplan"
)

// Read fails: only Linux has an implementation.
func (r *Reader) Read() ([]routeplan.Link, error) { return nil, ErrUnsupported }

// Neighbours fails: only Linux has an implementation.
func (r *Reader) Neighbours() ([]netip.Addr, error) { return nil, ErrUnsupported }
