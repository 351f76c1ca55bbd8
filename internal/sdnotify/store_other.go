//go:build !linux

package sdnotify

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

// Keep does nothing on this system, which has no systemd.
func (n Notifier) Keep(name string, _ ...syscall.Conn) error { return checkName(name) }

// Barrier returns at once on this system, which has no systemd.
func (n Notifier) Barrier(context.Context) error { return nil }

func inherit(int, string) (*os.File, error) { return nil, errors.ErrUnsupported }

func monotonic() (time.Duration, error) { return 0, errors.ErrUnsupported }
