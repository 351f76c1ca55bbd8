package router

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// frame is what is looked at of a packet on a wire.
type frame struct {
	from, to netip.Addr
	protocol byte
	port     uint16 // destination, of UDP and TCP
	segment  uint16 // a TCP connection's maximum segment size where it is opened
}

func (f frame) IsValid() bool                { return f.to.IsValid() }
func (f frame) contains(p netip.Prefix) bool { return p.Contains(f.to) }
func (f frame) String() string {
	return fmt.Sprintf("%s -> %s:%d, protocol %d", f.from, f.to, f.port, f.protocol)
}

// wire records all that comes to a station by one of its links, below any firewall.
type wire struct {
	at   *station
	link string

	mu     sync.Mutex
	frames []frame
}

func (s *station) capture(link string) *wire {
	s.t.Helper()
	w := &wire{at: s, link: link}
	s.do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		i, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}); err != nil {
			return err
		}
		stop := make(chan struct{})
		var done sync.WaitGroup
		s.t.Cleanup(func() { close(stop); done.Wait(); unix.Close(fd) })
		done.Go(func() { w.read(fd, stop) })
		return nil
	})
	return w
}

func (w *wire) read(fd int, stop chan struct{}) {
	b := make([]byte, 65536)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, from, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			continue
		}
		if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype != unix.PACKET_OUTGOING {
			w.mu.Lock()
			w.frames = append(w.frames, parse(b[:n]))
			w.mu.Unlock()
		}
	}
}

func parse(b []byte) (f frame) {
	var rest []byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		f.from, _ = netip.AddrFromSlice(b[12:16])
		f.to, _ = netip.AddrFromSlice(b[16:20])
		f.protocol, rest = b[9], b[min(len(b), int(b[0]&15)*4):]
	case len(b) >= 40 && b[0]>>4 == 6:
		f.from, _ = netip.AddrFromSlice(b[8:24])
		f.to, _ = netip.AddrFromSlice(b[24:40])
		f.protocol, rest = b[6], b[40:]
	}
	if (f.protocol == unix.IPPROTO_UDP || f.protocol == unix.IPPROTO_TCP) && len(rest) >= 4 {
		f.port = binary.BigEndian.Uint16(rest[2:])
	}
	const syn, maxseg = 2, 2
	if f.protocol == unix.IPPROTO_TCP && len(rest) >= 24 && rest[13]&syn != 0 && rest[20] == maxseg { // Linux puts it first
		f.segment = binary.BigEndian.Uint16(rest[22:])
	}
	return f
}

// marker is a port that is sent to in order to see that all before it has arrived.
const marker = 65001

// mark has a station send a packet of the agent's, which passes everywhere, and returns how many frames had come by then.
func (w *wire) mark(from *station) int {
	w.at.t.Helper()
	own := w.address()
	before := w.count()
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
		all := w.since(before)
		if i := slices.IndexFunc(all, func(f frame) bool { return f.port == marker && f.to == own }); i >= 0 {
			return before + i + 1
		}
	}
	w.at.t.Fatalf("nothing marked arrives at %s", w.at.name)
	return 0
}

// await returns the frames that fit, once there are n of them: what was received is not yet read.
func (w *wire) await(n int, fits func(frame) bool) (out []frame) {
	w.at.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		out = slices.DeleteFunc(w.since(0), func(f frame) bool { return !fits(f) })
		if len(out) >= n {
			return out
		}
		runtime.Gosched()
	}
	w.at.t.Errorf("%s has %d of %d frames: %v", w.at.name, len(out), n, w.since(0))
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

func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.frames)
}

func (w *wire) since(n int) []frame {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.frames[n:])
}
