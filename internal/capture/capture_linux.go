package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// Direction is whose frames are recorded.
type Direction int

// The directions, as the host sees them whose link it is.
const (
	Incoming Direction = iota
	Outgoing
)

// patience is how long a read waits until it looks whether the capture was closed.
const patience = 20 * 1000 // µs

// Capture is a recording that goes on until it is closed.
type Capture struct {
	fd        int
	direction Direction
	stop      chan struct{}
	done      sync.WaitGroup

	mu     sync.Mutex
	frames []Frame
}

// Open records a link of the network namespace that the calling thread is in. It needs CAP_NET_RAW, and CAP_NET_ADMIN for a buffer that holds
// what comes while this program has no turn.
func Open(link string, d Direction) (*Capture, error) {
	i, err := net.InterfaceByName(link)
	if err != nil {
		return nil, fmt.Errorf("capture on %s: %w", link, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("capture on %s: %w", link, err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: patience}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swapped(unix.ETH_P_ALL), Ifindex: i.Index}))
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("capture on %s: %w", link, err)
	}
	c := &Capture{fd: fd, direction: d, stop: make(chan struct{})}
	c.done.Go(c.read)
	return c, nil
}

// swapped turns a number of the host's byte order into one of the network's, or back.
func swapped(n uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, n))
}

// Close ends the recording. What came is still there.
func (c *Capture) Close() error {
	close(c.stop)
	c.done.Wait()
	return unix.Close(c.fd)
}

func (c *Capture) read() {
	b := make([]byte, 1<<16)
	for {
		select {
		case <-c.stop:
			return
		default:
		}
		n, from, err := unix.Recvfrom(c.fd, b, 0)
		l, ok := from.(*unix.SockaddrLinklayer)
		if err != nil || !ok || (l.Pkttype == unix.PACKET_OUTGOING) != (c.direction == Outgoing) {
			continue
		}
		f := Parse(b[:n])
		f.Kind = swapped(l.Protocol)
		c.mu.Lock()
		c.frames = append(c.frames, f)
		c.mu.Unlock()
	}
}

// Since gives what has been recorded after the first n frames. What is on its way may be missing: a frame that is known, sent last of
// all, tells when everything is there.
func (c *Capture) Since(n int) []Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Frame(nil), c.frames[n:]...)
}

// Count gives how many frames have been recorded.
func (c *Capture) Count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.frames)
}

// Missing gives how many frames the kernel had no room for since the last call.
func (c *Capture) Missing() (uint32, error) {
	s, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("the capture's statistics: %w", err)
	}
	return s.Drops, nil
}
