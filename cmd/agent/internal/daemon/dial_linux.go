package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"warren/tunnel/router"
)

// firewallMark is on every socket of the agent, so that a default route through the tunnel never carries the tunnel itself.
const firewallMark = router.Mark

// guarded has nothing to do: marked packets never enter the tunnel.
func guarded(t tun.Device, _ func() uint16) tun.Device { return t }

// segment is TCP's maximum segment size to coordinator and relays, in both directions: what IPv6's least MTU leaves. A way that loses longer
// packets without a word would let a connection stand and carry nothing.
const segment = 1280 - 40 - 20

// dialer marks the connections it makes.
type dialer struct {
	net  net.Dialer
	once sync.Once
	log  *slog.Logger
}

// markedDialer gives one whose connections have a firewall mark; 0: none.
func markedDialer(log *slog.Logger, mark uint32) *dialer {
	d := &dialer{log: log}
	d.net.Control = func(network, _ string, c syscall.RawConn) error {
		var markErr error
		if err := c.Control(func(fd uintptr) {
			if strings.HasPrefix(network, "tcp") {
				// Where it is refused, the kernel's own choice has to do.
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, segment)
			}
			if mark != 0 {
				markErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark))
			}
		}); err != nil {
			return err
		}
		if errors.Is(markErr, unix.EPERM) {
			// A user namespace refuses marks. Nothing but an exit node needs them.
			d.once.Do(func() { d.log.Warn("the kernel refuses firewall marks here; no exit node can be used") })
			return nil
		}
		return markErr
	}
	return d
}

// onlyFrom has a socket take only what comes by an interface.
func onlyFrom(name string) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var bindErr error
		err := c.Control(func(fd uintptr) { bindErr = unix.BindToDevice(int(fd), name) })
		return errors.Join(err, bindErr)
	}
}

// Bounds of how long TCP to a relay may go unacknowledged. Another relay stands by, so there is no point in hoping: with the time to doubt a UDP
// path before, the least has packets flow again within 2 s of a relay's death. Up to 70 ms of round trip it is the least that counts.
const (
	relayTimeout        = 900 * time.Millisecond
	longestRelayTimeout = 6 * time.Second
)

// relayPatience is what a connection with this retransmission time-out and round trip gets: enough for a segment and its first retransmission to
// be lost (they are RTO and twice that apart from the next, RFC 6298), so that a poor link is not taken for a dead relay.
func relayPatience(rto, rtt time.Duration) time.Duration {
	return min(max(3*rto+rtt, relayTimeout), longestRelayTimeout)
}

// hasten makes a connection to a relay fail soon, by what its kernel has measured of the way there. What waits in its buffer, and however long,
// does not matter while any of it gets through.
func hasten(conn net.Conn) {
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	// Where it is refused, the relay's pings notice, later.
	_ = raw.Control(func(fd uintptr) {
		patience := relayTimeout
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			patience = relayPatience(time.Duration(info.Rto)*time.Microsecond, time.Duration(info.Rtt)*time.Microsecond)
		}
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(patience.Milliseconds()))
	})
}

// DialContext connects with the mark set.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d.net.DialContext(ctx, network, address)
}

// resolve asks the host's resolvers past tunnel and kill switch, and otherwise as any program does.
func (d *dialer) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	own := net.Resolver{PreferGo: true, Dial: d.DialContext}
	if addrs, err := own.LookupNetIP(ctx, "ip", host); err == nil {
		return addrs, nil
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}
