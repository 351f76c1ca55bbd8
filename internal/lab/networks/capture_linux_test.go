package networks

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"warren/internal/capture"
	"warren/internal/lab"
	"warren/tunnel/router"
)

// wire records all that leaves a host by one of its links.
type wire struct {
	*capture.Capture
	w    *world
	host *lab.Host
	seen int // frames that sofar has given
}

func (w *world) capture(h *lab.Host, link string) *wire {
	w.t.Helper()
	out := &wire{w: w, host: h}
	must(w.t, h.Do(func() (err error) {
		out.Capture, err = capture.Open(link, capture.Outgoing)
		return err
	}))
	w.t.Cleanup(func() { must(w.t, out.Close()) })
	return out
}

// marker is a port that is sent to in order to see that all before it has been recorded.
const marker = 65001

// sofar gives all that has left up to now, and has it that nothing is missing.
func (w *wire) sofar() []capture.Frame {
	w.w.t.Helper()
	gateway := netip.PrefixFrom(w.host.Addr, 24).Masked().Addr().Next()
	must(w.w.t, w.host.Do(func() error {
		d := net.Dialer{Control: asAgent}
		c, err := d.Dial("udp", netip.AddrPortFrom(gateway, marker).String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("marker"))
		return err
	}))
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		all := w.Since(w.seen)
		for i, f := range all {
			if f.Port == marker && f.To == gateway {
				w.seen += i + 1
				if missing, err := w.Missing(); err != nil || missing > 0 {
					w.w.t.Fatalf("%s: of the capture %d packets are missing: %v", w.host.Name, missing, err)
				}
				return all[:i]
			}
		}
		if w.w.ctx.Err() != nil {
			w.w.t.Fatalf("%s: the capture ends without its marker", w.host.Name)
		}
		<-tick.C
	}
}

// none has it that nothing has left that is bad.
func (w *wire) none(bad func(capture.Frame) bool) {
	w.w.t.Helper()
	count := 0
	for _, f := range w.sofar() {
		if bad(f) {
			if count++; count <= 10 {
				w.w.t.Errorf("%s lets out %s", w.host.Name, f)
			}
		}
	}
	if count > 10 {
		w.w.t.Errorf("%s lets out %d such packets", w.host.Name, count)
	}
}

// asAgent marks a socket as those of the agent are.
func asAgent(_, _ string, c syscall.RawConn) error {
	var markErr error
	err := c.Control(func(fd uintptr) { markErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, router.Mark) })
	return errors.Join(err, markErr)
}
