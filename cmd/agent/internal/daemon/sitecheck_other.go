//go:build !linux

package daemon

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"warren/cmd/agent/internal/sitecheck"
)

var errNoSiteCheck = errors.New("not yet on this system")

func forwards(netip.Addr) (bool, error) { return false, errNoSiteCheck }

func echoWhole(context.Context, netip.Addr, netip.Addr, int, time.Duration) sitecheck.Sent {
	return sitecheck.Sent{Err: errNoSiteCheck}
}
