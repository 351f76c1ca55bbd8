//go:build !linux

package daemon

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
)

const firewallMark = 0

type dialer struct{ net net.Dialer }

func markedDialer(*slog.Logger, uint32) *dialer { return new(dialer) }

// onlyFrom does nothing here.
func onlyFrom(string) func(network, address string, c syscall.RawConn) error { return nil }

// hasten does nothing here: the relay's pings notice.
func hasten(net.Conn) {}

// DialContext connects; this system has no marks.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d.net.DialContext(ctx, network, address)
}

// resolve asks the system's resolver.
func (d *dialer) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}
