package networks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"warren/internal/lab"
	"warren/tunnel/router"
)

// frame is what is looked at of a packet that leaves a host.
type frame struct {
	kind     uint16 // ETH_P_*
	from, to netip.Addr
	protocol byte
	source   uint16 // port, or type and code of ICMP
	port     uint16 // destination
	hops     byte
	// later says that it is a fragment but the first, and has no ports.
	later bool
}

func (f frame) String() string {
	return fmt.Sprintf("%#04x %s:%d -> %s:%d, protocol %d", f.kind, f.from, f.source, f.to, f.port, f.protocol)
}

// wire records all that leaves a host by one of its links, below any firewall.
type wire struct {
	w    *world
	host *lab.Host
	fd   int

	mu     sync.Mutex
	frames []frame
}

func (w *world) capture(h *lab.Host, link string) *wire {
	w.t.Helper()
	out := &wire{w: w, host: h}
	must(w.t, h.Do(func() error {
		i, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		// A lot may come while this program has no turn.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			return err
		}
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}); err != nil {
			return err
		}
		out.fd = fd
		stop := make(chan struct{})
		var done sync.WaitGroup
		w.t.Cleanup(func() { close(stop); done.Wait(); unix.Close(fd) })
		done.Go(func() { out.read(stop) })
		return nil
	}))
	return out
}

func (w *wire) read(stop chan struct{}) {
	b := make([]byte, 65536)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, from, err := unix.Recvfrom(w.fd, b, 0)
		if err != nil {
			continue
		}
		if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype == unix.PACKET_OUTGOING {
			f := parseFrame(b[:n])
			f.kind = binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, l.Protocol))
			w.mu.Lock()
			w.frames = append(w.frames, f)
			w.mu.Unlock()
		}
	}
}

func parseFrame(b []byte) (f frame) {
	var rest []byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		f.from, _ = netip.AddrFromSlice(b[12:16])
		f.to, _ = netip.AddrFromSlice(b[16:20])
		f.protocol, f.hops, rest = b[9], b[8], b[min(len(b), int(b[0]&15)*4):]
		f.later = binary.BigEndian.Uint16(b[6:])&0x1fff > 0
	case len(b) >= 40 && b[0]>>4 == 6:
		f.from, _ = netip.AddrFromSlice(b[8:24])
		f.to, _ = netip.AddrFromSlice(b[24:40])
		f.protocol, f.hops, rest = b[6], b[7], b[40:]
		if f.protocol == unix.IPPROTO_FRAGMENT && len(rest) >= 8 {
			f.protocol, f.later, rest = rest[0], binary.BigEndian.Uint16(rest[2:])>>3 > 0, rest[8:]
		}
	}
	if len(rest) >= 4 && !f.later {
		f.source, f.port = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
	}
	return f
}

// marker is a port that is sent to in order to see that all before it has been recorded.
const marker = 65001

// sofar gives all that has left up to now, and has it that nothing is missing.
func (w *wire) sofar() []frame {
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
		w.mu.Lock()
		all := w.frames
		w.mu.Unlock()
		for i, f := range all {
			if f.port == marker && f.to == gateway {
				w.mu.Lock()
				w.frames = w.frames[i+1:]
				w.mu.Unlock()
				if s, err := unix.GetsockoptTpacketStats(w.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err != nil || s.Drops > 0 {
					w.w.t.Fatalf("%s: of the capture %d packets are missing: %v", w.host.Name, s.Drops, err)
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
func (w *wire) none(bad func(frame) bool) {
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
