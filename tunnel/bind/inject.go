package bind

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"warren/proto/key"
)

const (
	// injectMax is how many packets wait for WireGuard to take them: some of its batches. What waits behind them is the kernel's to hold.
	injectMax = 512
	// injectPatience is how long whoever brings packets is held back while the queue is full. WireGuard may be late by that much on a busy host.
	injectPatience = 100 * time.Millisecond
	// keepBuffer is the largest buffer that a slot keeps for its next packet.
	keepBuffer = 4096
)

// injectQueue holds packets that did not come from a socket, on their way to WireGuard. Its buffers are used again, so a packet costs no
// allocation.
type injectQueue struct {
	mu          sync.Mutex
	slots       []injected // a ring
	head, count int
	wake, room  chan struct{} // hold a token when there may be packets, and room for more
	closed      atomic.Pointer[<-chan struct{}]
}

type injected struct {
	endpoint *endpoint
	data     []byte
}

func (q *injectQueue) init() {
	q.slots = make([]injected, injectMax)
	q.wake, q.room = make(chan struct{}, 1), make(chan struct{}, 1)
}

// signal puts a token into a channel that holds one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// put copies a packet into a free slot. The caller holds mu.
func (q *injectQueue) put(e *endpoint, b []byte) {
	s := &q.slots[(q.head+q.count)%len(q.slots)]
	s.endpoint, s.data = e, append(s.data[:0], b...)
	q.count++
}

// fill takes as many packets as there is room for, and tells how many.
func (q *injectQueue) fill(e *endpoint, packets [][]byte) int {
	q.mu.Lock()
	n := min(len(q.slots)-q.count, len(packets))
	for _, b := range packets[:n] {
		q.put(e, b)
	}
	room := q.count < len(q.slots)
	q.mu.Unlock()
	if n > 0 {
		signal(q.wake)
	}
	if room { // others may be waiting for it
		signal(q.room)
	}
	return n
}

// force takes a packet, in place of the oldest if there is no room. It reports whether that was so.
func (q *injectQueue) force(e *endpoint, b []byte) (dropped bool) {
	q.mu.Lock()
	if q.count == len(q.slots) {
		q.head = (q.head + 1) % len(q.slots)
		q.count--
		dropped = true
	}
	q.put(e, b)
	q.mu.Unlock()
	signal(q.wake)
	return dropped
}

// await waits for room. It reports false when there will be none soon.
func (q *injectQueue) await() bool {
	closed := q.closed.Load()
	if closed == nil {
		return false
	}
	timer := time.NewTimer(injectPatience)
	defer timer.Stop()
	select {
	case <-q.room:
		return true
	case <-*closed:
	case <-timer.C:
	}
	return false
}

// pop moves packets into WireGuard's buffers.
func (q *injectQueue) pop(bufs [][]byte, sizes []int, eps []conn.Endpoint) int {
	q.mu.Lock()
	n := min(q.count, len(bufs))
	for i := range n {
		s := &q.slots[q.head]
		sizes[i] = copy(bufs[i], s.data)
		eps[i] = s.endpoint
		s.endpoint = nil
		if cap(s.data) > keepBuffer {
			s.data = nil
		}
		q.head = (q.head + 1) % len(q.slots)
	}
	q.count -= n
	q.mu.Unlock()
	if n > 0 {
		signal(q.room)
	}
	return n
}

// receiveInjected is a conn.ReceiveFunc that ends when closed is.
func (b *Bind) receiveInjected(closed <-chan struct{}) conn.ReceiveFunc {
	b.inject.closed.Store(&closed)
	return func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		for {
			select {
			case <-closed:
				return 0, net.ErrClosed
			default:
			}
			if n := b.inject.pop(bufs, sizes, eps); n > 0 {
				return n, nil
			}
			select {
			case <-closed:
			case <-b.inject.wake:
			}
		}
	}
}

// deliver has WireGuard take a packet. It never waits: when too many do already the oldest goes.
func (b *Bind) deliver(e *endpoint, m []byte) {
	if b.inject.force(e, m) {
		b.counters.injectDropped.Add(1)
	}
}

// deliverAll is deliver for many packets, which waits a while for WireGuard to take others.
func (b *Bind) deliverAll(e *endpoint, packets [][]byte) {
	for len(packets) > 0 {
		packets = packets[b.inject.fill(e, packets):]
		if len(packets) > 0 && !b.inject.await() {
			for _, m := range packets {
				b.deliver(e, m)
			}
			return
		}
	}
}

// InjectRelay takes data packets that a relay brought from a peer. What is not WireGuard, or not for a session of ours, is dropped. It copies
// the packets. When WireGuard does not keep up it holds the caller back for a tenth of a second at most, so that what comes too fast waits
// where it came from, in the kernel's buffer or at the relay, as it does on a direct path.
func (b *Bind) InjectRelay(peer key.NodePublic, packets [][]byte) {
	now, begin := b.now(), 0
	var to *endpoint // of packets from begin on
	for i, m := range packets {
		e := b.sortRelayed(peer, m, now)
		if e == to && e != nil {
			continue
		}
		if to != nil {
			b.deliverAll(to, packets[begin:i])
		}
		if to, begin = e, i; e == nil {
			begin++
		}
	}
	if to != nil {
		b.deliverAll(to, packets[begin:])
	}
}

// sortRelayed gives the endpoint of a message that goes to WireGuard now; everything else is dealt with here.
func (b *Bind) sortRelayed(peer key.NodePublic, m []byte, now int64) *endpoint {
	s := shapeOf(m)
	switch s {
	case shapeOther:
		b.counters.relayOther.Add(1)
		return nil
	case shapeInitiation:
		b.queueInitiation(source{relayed: true, id: peer.Raw()}, m)
		return nil
	}
	e := b.index.lookup(receiverIndex(s, m), now)
	if e == nil {
		b.counters.unknownIndex.Add(1)
		b.queueStray(peer)
		return nil
	}
	if s == shapeResponse {
		e.glare.answered(now)
	}
	e.lastReceived.Store(now)
	b.counters.receivedRelay.Add(uint64(len(m)))
	return e
}
