//go:build !linux

package daemon

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"syscall"

	"golang.zx2c4.com/wireguard/tun"

	"warren/tunnel/loopguard"
	"warren/tunnel/netstack"
)

const firewallMark = 0

// guarded keeps what the tunnel's own sockets send out of the tunnel, in place of marks. Into the userspace one nothing of the host's goes.
func guarded(t tun.Device, port func() uint16) tun.Device {
	if _, userspace := t.(*netstack.Stack); userspace {
		return t
	}
	return loopguard.Wrap(t, port)
}

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
