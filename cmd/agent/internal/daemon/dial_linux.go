package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"

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

// DialContext connects with the mark set.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d.net.DialContext(ctx, network, address)
}
