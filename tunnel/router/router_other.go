//go:build !linux && !darwin && !windows

package router

import (
	"context"
	"fmt"
	"net/netip"
)

type platform struct{}

// Open fails: this system has no implementation.
func Open(cfg Config) (*Router, error) {
	return nil, fmt.Errorf("interface %s: %w: the tunnel runs on Linux, macOS and Windows", cfg.Name, ErrUnsupported)
}

// CheckName has nothing to say: Open fails anyway.
func CheckName(string) error { return nil }

// Apply fails: this system has no implementation.
func (r *Router) Apply(State) error { return ErrUnsupported }

// Watch waits for ctx to end: there is nothing to lose.
func (r *Router) Watch(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}

// Notes has nothing to tell.
func (r *Router) Notes() []string { return nil }

// Close does nothing.
func (r *Router) Close() error { return nil }

// CleanUp does nothing: nothing was changed.
func CleanUp(string) ([]string, error) { return nil, nil }

// KillSwitchOn reports false: this system has none yet.
func KillSwitchOn() (bool, error) { return false, nil }

// HoldKillSwitch fails: this system has no implementation.
func HoldKillSwitch(string) (bool, error) {
	return false, fmt.Errorf("kill switch: %w", ErrUnsupported)
}

// LiftKillSwitch does nothing: there is none to lift.
func LiftKillSwitch() error { return nil }

// WriteKillSwitch fails: this system has no implementation.
func WriteKillSwitch(path, name string, _ []netip.Prefix) error {
	return fmt.Errorf("kill switch of %s in %s: %w", name, path, ErrUnsupported)
}
