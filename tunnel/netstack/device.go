package netstack

import (
	"os"
	"sync"

	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/stack/gro"
)

// batchSize is how many packets WireGuard has the device read and write at once.
const batchSize = 128

// reader is what belongs to Read: only one may go on at a time.
type reader struct {
	wake   chan struct{} // holds a token when Read is to return early
	closed chan struct{}
	rest   segmenter // of a packet that did not fit into the last batch
	peeked *stack.PacketBuffer
}

func (r *reader) init() { r.wake, r.closed = make(chan struct{}, 1), make(chan struct{}) }

// Read implements tun.Device: it waits for one packet and takes what else is there.
func (s *Stack) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	r := &s.reader
	if !r.rest.more() && r.peeked == nil {
		select {
		case <-r.closed:
			return 0, os.ErrClosed
		default:
		}
		select {
		case <-r.closed:
			return 0, os.ErrClosed
		case <-r.wake:
			return 0, os.ErrDeadlineExceeded
		case r.peeked = <-s.link.queue:
		}
	}
	n := 0
	for n < len(bufs) {
		if !r.rest.more() && !s.begin() {
			break
		}
		sizes[n] = r.rest.next(bufs[n][offset:])
		n++
	}
	return n, nil
}

// begin takes the next packet of the stack to be cut, if there is one.
func (s *Stack) begin() bool {
	r := &s.reader
	if !s.Ready() {
		return false
	}
	r.rest.begin(r.peeked)
	r.peeked.DecRef()
	r.peeked = nil
	return true
}

// Ready reports whether there is a packet to be read. Nobody may be reading meanwhile.
func (s *Stack) Ready() bool {
	if s.reader.rest.more() || s.reader.peeked != nil {
		return true
	}
	select {
	case s.reader.peeked = <-s.link.queue:
		return true
	default:
		return false
	}
}

// Interrupt makes a Read in progress, or else the next one that would wait, return early with os.ErrDeadlineExceeded.
func (s *Stack) Interrupt() {
	select {
	case s.reader.wake <- struct{}{}:
	default:
	}
}

// merger joins segments of one connection that came together, so that the stack handles them as one.
type merger struct {
	gro gro.GRO
}

// newMergerPool keeps mergers, of which one is used by each Write at a time.
func newMergerPool() *sync.Pool {
	return &sync.Pool{New: func() any {
		m := new(merger)
		m.gro.Init(true)
		return m
	}}
}

// Write implements tun.Device: packets from the tunnel go into the stack. Several may go on at once.
func (s *Stack) Write(bufs [][]byte, offset int) (int, error) {
	to := s.link.attached()
	if to == nil {
		return 0, os.ErrClosed
	}
	m := s.mergers.Get().(*merger)
	defer s.mergers.Put(m)
	m.gro.Dispatcher = to
	for _, b := range bufs {
		p := received(b[offset:])
		if p == nil {
			s.damaged.Add(1)
			continue
		}
		m.gro.Enqueue(p)
		p.DecRef()
	}
	m.gro.Flush()
	m.gro.Dispatcher = nil
	return len(bufs), nil
}

// File implements tun.Device: there is none.
func (s *Stack) File() *os.File { return nil }

// MTU implements tun.Device.
func (s *Stack) MTU() (int, error) { return int(s.link.MTU()), nil }

// Name implements tun.Device.
func (s *Stack) Name() (string, error) { return s.cfg.Name, nil }

// Events implements tun.Device.
func (s *Stack) Events() <-chan tun.Event { return s.events }

// BatchSize implements tun.Device.
func (s *Stack) BatchSize() int { return batchSize }

// Close implements tun.Device: connections are gone, and reads end. It may be called more than once.
func (s *Stack) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.events)
	s.mu.Unlock()
	close(s.reader.closed)
	s.link.shut()
	s.stack.Destroy()
	return nil
}
