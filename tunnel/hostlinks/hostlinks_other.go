//go:build !linux

package hostlinks

import "warren/tunnel/routeplan"

// Read fails: only Linux has an implementation.
func (r *Reader) Read() ([]routeplan.Link, error) { return nil, ErrUnsupported }
