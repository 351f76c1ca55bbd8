//go:build !linux && !darwin && !windows

package sysservice

import "context"

// Detect finds out what manages the services of this system.
func Detect() (Manager, error) { return nil, ErrNoManager }

// Run calls run.
func Run(ctx context.Context, _ string, run func(context.Context) error) error { return run(ctx) }
