package bind

import (
	"errors"
	"net"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"

	"warren/internal/udpbatch"
)

const (
	// reopenAfter is how many errors in a row make a socket be replaced.
	reopenAfter = 8
	// Pauses between failing receives double up to the longest, so that a broken socket costs nothing.
	pauseFirst, pauseLast = time.Millisecond, time.Second
)

// receiver turns what one socket receives into WireGuard's batches. WireGuard calls it from one goroutine.
type receiver struct {
	b      *Bind
	slot   *atomic.Pointer[udpbatch.Conn]
	sock   *udpbatch.Conn // what rx was made for
	rx     *udpbatch.Reader
	closed <-chan struct{}
	errs   int // in a row

	// What the last read brought and has not been taken yet: messages from next to count, and the rest of the one before next.
	next, count int
	rest        []byte
	segment     int
}

func newReceiver(b *Bind, slot *atomic.Pointer[udpbatch.Conn], s *udpbatch.Conn, closed <-chan struct{}) *receiver {
	return &receiver{b: b, slot: slot, sock: s, rx: udpbatch.NewReader(s), closed: closed}
}

// receive is the conn.ReceiveFunc. Its only error is net.ErrClosed: WireGuard would give a socket up after a few others.
func (r *receiver) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	for {
		if r.rest == nil && r.next == r.count {
			if err := r.fill(bufs); err != nil {
				return 0, err
			}
		}
		if n := r.drain(bufs, sizes, eps); n > 0 {
			return n, nil
		}
	}
}

// fill reads until something came.
func (r *receiver) fill(bufs [][]byte) error {
	for {
		if s := r.slot.Load(); s != nil && s != r.sock {
			r.sock, r.rx = s, udpbatch.NewReader(s)
		}
		n, err := r.rx.Read(bufs)
		if err == nil {
			r.next, r.count, r.errs = 0, n, 0
			return nil
		}
		if err := r.failed(err); err != nil {
			return err
		}
	}
}

// failed waits after an error, ever longer, and replaces the socket after many. It gives net.ErrClosed once the Bind is closed.
func (r *receiver) failed(err error) error {
	select {
	case <-r.closed:
		return net.ErrClosed
	default:
	}
	r.b.counters.receiveErrors.Add(1)
	r.errs++
	if r.errs == 1 {
		r.b.log.Debug("receive failed", "network", r.sock.Network(), "err", err)
	}
	if r.errs%reopenAfter == 0 || errors.Is(err, net.ErrClosed) {
		if r.b.reopen(r.slot, r.sock) {
			return nil
		}
	}
	pause := time.NewTimer(min(pauseFirst<<min(r.errs-1, 10), pauseLast))
	defer pause.Stop()
	select {
	case <-r.closed:
		return net.ErrClosed
	case <-pause.C:
		return nil
	}
}

// drain hands on datagrams of the last read until bufs are full or nothing is left.
func (r *receiver) drain(bufs [][]byte, sizes []int, eps []conn.Endpoint) (n int) {
	now, bytes := r.b.now(), 0
	defer func() { r.b.counters.receivedDirect.Add(uint64(bytes)) }()
	for n < len(bufs) {
		for r.rest == nil {
			if r.next == r.count {
				return n
			}
			r.rest, r.segment = r.rx.Message(r.next)
			r.next++
		}
		var datagram []byte
		datagram, r.rest = udpbatch.Cut(r.rest, r.segment)
		e := r.sort(datagram, now)
		if e == nil {
			continue
		}
		// Without GRO the kernel wrote into bufs itself: the datagram may be in its place already.
		if &bufs[n][0] != &datagram[0] {
			copy(bufs[n], datagram)
		}
		sizes[n], eps[n] = len(datagram), e
		bytes += len(datagram)
		n++
	}
	return n
}

// sort gives the endpoint of a message that goes to WireGuard now; everything else is dealt with here.
func (r *receiver) sort(m []byte, now int64) *endpoint {
	s := shapeOf(m)
	switch s {
	case shapeOther:
		if r.b.cfg.OnPacket != nil && len(m) > 0 {
			r.b.cfg.OnPacket(r.rx.Local(r.next-1), r.rx.Source(r.next-1), m)
		}
		return nil
	case shapeInitiation:
		r.b.queueInitiation(addrSource(r.rx.Source(r.next-1).Addr()), m)
		return nil
	}
	e := r.b.index.lookup(receiverIndex(s, m), now)
	if e == nil {
		r.b.counters.unknownIndex.Add(1)
		return nil
	}
	if s == shapeResponse {
		e.glare.answered(now)
	}
	e.lastReceived.Store(now)
	e.lastDirect.Store(now)
	return e
}
