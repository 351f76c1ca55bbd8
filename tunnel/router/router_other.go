//go:build !linux

package router

import "fmt"

type platform struct{}

// Open fails: only Linux has an implementation.
func Open(cfg Config) (*Router, error) {
	return nil, fmt.Errorf("interface %s: %w: the tunnel runs on Linux only", cfg.Name, ErrUnsupported)
}

// CheckName has nothing to say: Open fails anyway.
func CheckName(string) error { return nil }

// Apply fails: only Linux has an implementation.
func (r *Router) Apply(State) error { return ErrUnsupported }

// Close does nothing.
func (r *Router) Close() error { return nil }
