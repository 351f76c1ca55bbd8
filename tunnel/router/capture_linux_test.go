package router

import (
	"net"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"warren/internal/capture"
)

// wire records all that comes to a station by one of its links.
type wire struct {
	*capture.Capture
	at   *station
	link string
}

func (s *station) capture(link string) *wire {
	s.t.Helper()
	w := &wire{at: s, link: link}
	s.do(func() (err error) {
		w.Capture, err = capture.Open(link, capture.Incoming)
		return err
	})
	s.t.Cleanup(func() {
		if err := w.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return w
}

// marker is a port that is sent to in order to see that all before it has arrived.
const marker = 65001

// mark has a station send a packet of the agent's, which passes everywhere, and returns how many frames had come by then.
func (w *wire) mark(from *station) int {
	w.at.t.Helper()
	own := w.address()
	before := w.Count()
	from.do(func() error {
		c, err := dialer(hurry, asAgent).Dial("udp", netip.AddrPortFrom(own, marker).String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("mark"))
		return err
	})
	for end := time.Now().Add(patience); time.Now().Before(end); {
		all := w.Since(before)
		if i := slices.IndexFunc(all, func(f capture.Frame) bool { return f.Port == marker && f.To == own }); i >= 0 {
			return before + i + 1
		}
	}
	w.at.t.Fatalf("nothing marked arrives at %s", w.at.name)
	return 0
}

// await returns the frames that fit, once there are n of them: what was received is not yet read.
func (w *wire) await(n int, fits func(capture.Frame) bool) (out []capture.Frame) {
	w.at.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		out = slices.DeleteFunc(w.Since(0), func(f capture.Frame) bool { return !fits(f) })
		if len(out) >= n {
			return out
		}
		runtime.Gosched()
	}
	w.at.t.Errorf("%s has %d of %d frames: %v", w.at.name, len(out), n, w.Since(0))
	return out
}

// address is the station's IPv4 address on the link.
func (w *wire) address() (a netip.Addr) {
	w.at.t.Helper()
	w.at.do(func() error {
		i, err := net.InterfaceByName(w.link)
		if err != nil {
			return err
		}
		all, err := i.Addrs()
		for _, n := range all {
			if p, err := netip.ParsePrefix(n.String()); err == nil && p.Addr().Is4() {
				a = p.Addr()
			}
		}
		return err
	})
	return a
}
