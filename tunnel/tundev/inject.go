package tundev

import (
	"sync"
	"sync/atomic"
)

// Bounds on packets that wait to be read although they did not come from the inner device.
const (
	maxInjected      = 1024
	maxInjectedBytes = 2 << 20
	// keptSlot is how large a buffer may be to be used again.
	keptSlot = 2048
)

// queue has such packets in a ring of buffers, which are used again.
type queue struct {
	mu      sync.Mutex
	slots   []slot // none until the first packet
	head, n int
	bytes   int
	pending atomic.Bool // there may be something in it
}

type slot struct {
	peer   *peer
	packet []byte
	made   bool // as held.made
}

// push copies b, and reports whether there was room.
func (q *queue) push(p *peer, b []byte, made bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == maxInjected || q.bytes+len(b) > maxInjectedBytes {
		return false
	}
	if q.slots == nil {
		q.slots = make([]slot, maxInjected)
	}
	s := &q.slots[(q.head+q.n)%maxInjected]
	s.peer, s.packet, s.made = p, append(s.packet[:0], b...), made
	q.n++
	q.bytes += len(b)
	return true
}

// pop gives the oldest to do, whose buffer is good until do returns, and reports whether there was one.
func (q *queue) pop(do func(s *slot)) bool {
	if q.n == 0 {
		return false
	}
	s := &q.slots[q.head]
	do(s)
	q.head = (q.head + 1) % maxInjected
	q.n--
	q.bytes -= len(s.packet)
	if s.peer = nil; cap(s.packet) > keptSlot {
		s.packet = nil
	}
	return true
}

// send has a packet that did not come from the inner device go to a peer: through Read, or once it is configured. It reports whether the packet is on
// its way. It never blocks.
func (d *Device) send(p *peer, b []byte, made bool) bool {
	if !p.direct.Load() && !d.hold(p, b, made) {
		return true
	}
	if !d.injected.push(p, b, made) {
		d.counters.injectedDropped.Add(1)
		return false
	}
	if !d.injected.pending.Swap(true) {
		d.inner.interrupt()
	}
	return true
}

// takeInjected gives packets that send has left.
func (d *Device) takeInjected(bufs [][]byte, sizes []int, offset int) (n int) {
	q := &d.injected
	q.mu.Lock()
	defer q.mu.Unlock()
	for n < len(bufs) && q.pop(func(s *slot) {
		if s.peer.direct.Load() || d.hold(s.peer, s.packet, s.made) {
			sizes[n] = copy(bufs[n][offset:], s.packet)
			n++
		}
	}) {
	}
	if q.n == 0 {
		q.pending.Store(false)
	}
	return n
}
