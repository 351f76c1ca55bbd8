package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// firewallMark is on every socket of the agent, so that a default route through the tunnel never carries the tunnel itself.
const firewallMark = 0x77617272

// segment is TCP's maximum segment size to coordinator and relays, in both directions: what IPv6's least MTU leaves. A way that loses longer
// packets without a word would let a connection stand and carry nothing.
const segment = 1280 - 40 - 20

// dialer marks the connections it makes.
type dialer struct {
	net  net.Dialer
	once sync.Once
	log  *slog.Logger
}

func markedDialer(log *slog.Logger) *dialer {
	d := &dialer{log: log}
	d.net.Control = func(network, _ string, c syscall.RawConn) error {
		var markErr error
		if err := c.Control(func(fd uintptr) {
			if strings.HasPrefix(network, "tcp") {
				// Where it is refused, the kernel's own choice has to do.
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, segment)
			}
			markErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, firewallMark)
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

// relayTimeout is how long TCP to a relay may go unacknowledged: another relay stands by, so there is no point in hoping. With the time to
// doubt a UDP path before, packets flow again within 2 s of a relay's death.
const relayTimeout = 1200 * time.Millisecond

// hasten makes a connection to a relay fail soon.
func hasten(conn net.Conn) {
	if c, ok := conn.(*net.TCPConn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			// Where it is refused, the relay's pings notice, later.
			_ = raw.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(relayTimeout.Milliseconds()))
			})
		}
	}
}

// DialContext connects with the mark set.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d.net.DialContext(ctx, network, address)
}
