package bind

import (
	"net"
	"sync"

	"golang.zx2c4.com/wireguard/conn"

	"warren/proto/key"
)

const (
	// injectMax is how many packets wait for WireGuard to take them: 1.5 MB of full ones.
	injectMax = 1024
	// keepBuffer is the largest buffer that a slot keeps for its next packet.
	keepBuffer = 4096
)

// injectQueue holds packets that did not come from a socket, on their way to WireGuard. When it is full the oldest goes. Its buffers
// are used again, so a packet costs no allocation.
type injectQueue struct {
	mu          sync.Mutex
	slots       []injected // a ring
	head, count int
	wake        chan struct{} // holds a token when there may be packets
}

type injected struct {
	endpoint *endpoint
	data     []byte
}

func (q *injectQueue) init() {
	q.slots = make([]injected, injectMax)
	q.wake = make(chan struct{}, 1)
}

// push copies b. It reports whether an older packet had to go.
func (q *injectQueue) push(e *endpoint, b []byte) (dropped bool) {
	q.mu.Lock()
	if q.count == len(q.slots) {
		q.head = (q.head + 1) % len(q.slots)
		q.count--
		dropped = true
	}
	s := &q.slots[(q.head+q.count)%len(q.slots)]
	s.endpoint, s.data = e, append(s.data[:0], b...)
	q.count++
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return dropped
}

// pop moves packets into WireGuard's buffers.
func (q *injectQueue) pop(bufs [][]byte, sizes []int, eps []conn.Endpoint) int {
	q.mu.Lock()
	defer q.mu.Unlock()
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
	return n
}

// receiveInjected is a conn.ReceiveFunc that ends when closed is.
func (b *Bind) receiveInjected(closed <-chan struct{}) conn.ReceiveFunc {
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

func (b *Bind) deliver(e *endpoint, m []byte) {
	if b.inject.push(e, m) {
		b.counters.injectDropped.Add(1)
	}
}

// InjectRelay takes a data packet that a relay brought from a peer. What is not WireGuard, or not for a session of ours, is dropped.
// It copies m and never blocks.
func (b *Bind) InjectRelay(peer key.NodePublic, m []byte) {
	switch s := shapeOf(m); s {
	case shapeOther:
		b.counters.relayOther.Add(1)
	case shapeInitiation:
		b.queueInitiation(source{relayed: true, id: peer.Raw()}, m)
	default:
		now := b.now()
		e := b.index.lookup(receiverIndex(s, m), now)
		if e == nil {
			b.counters.unknownIndex.Add(1)
			b.queueStray(peer)
			return
		}
		if s == shapeResponse {
			e.glare.answered()
		}
		e.lastReceived.Store(now)
		b.counters.receivedRelay.Add(uint64(len(m)))
		b.deliver(e, m)
	}
}
