package tundev

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/tun"
)

// reader reads from the inner device in a way that can be interrupted.
type reader interface {
	read(bufs [][]byte, sizes []int, offset int) (int, error)
	// ready reports whether a read would end at once. Nobody may be reading meanwhile.
	ready() bool
	// interrupt makes a read in progress, or else the next one, return early with os.ErrDeadlineExceeded.
	interrupt()
	// close ends what the reader keeps running, once the inner device is closed.
	close()
}

// interruptible is a device that is a reader by itself.
type interruptible interface {
	tun.Device
	// Ready and Interrupt are reader's ready and interrupt.
	Ready() bool
	Interrupt()
}

func newReader(inner tun.Device) reader {
	if r, ok := inner.(interruptible); ok {
		return directReader{r}
	}
	if f := inner.File(); f != nil && f.SetReadDeadline(time.Time{}) == nil {
		return &fileReader{inner, f}
	}
	return newPumpReader(inner)
}

// fileReader interrupts by a deadline that has passed, for devices that read from a pollable file, as Linux' does.
type fileReader struct {
	inner tun.Device
	file  *os.File
}

func (r *fileReader) read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n, err := r.inner.Read(bufs, sizes, offset)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if reset := r.file.SetReadDeadline(time.Time{}); reset != nil {
			return n, reset
		}
	}
	return n, err
}

func (r *fileReader) ready() bool { return readable(r.file) }

func (r *fileReader) interrupt() {
	// Fails only on a closed file, and then the read has ended anyway.
	_ = r.file.SetReadDeadline(time.Unix(1, 0))
}

func (r *fileReader) close() {}

// directReader is for devices that have no file and can be interrupted all the same, as package netstack's.
type directReader struct{ inner interruptible }

func (r directReader) read(bufs [][]byte, sizes []int, offset int) (int, error) {
	return r.inner.Read(bufs, sizes, offset)
}

func (r directReader) ready() bool { return r.inner.Ready() }
func (r directReader) interrupt()  { r.inner.Interrupt() }
func (r directReader) close()      {}

// pumpReader reads in a goroutine of its own and copies: for devices without a file, which are those of tests and of systems to come.
type pumpReader struct {
	packets chan []byte
	peeked  []byte // by ready
	wake    chan struct{}
	done    chan struct{} // closed by close
	once    sync.Once
	ended   chan struct{} // closed when the inner device gives no more, for the reason in err
	err     error
}

func newPumpReader(inner tun.Device) *pumpReader {
	r := &pumpReader{packets: make(chan []byte), wake: make(chan struct{}, 1), done: make(chan struct{}), ended: make(chan struct{})}
	go r.pump(inner)
	return r
}

func (r *pumpReader) pump(inner tun.Device) {
	const headroom = 64
	defer close(r.ended)
	bufs, sizes := make([][]byte, inner.BatchSize()), make([]int, inner.BatchSize())
	for i := range bufs {
		bufs[i] = make([]byte, 65535+headroom)
	}
	for {
		n, err := inner.Read(bufs, sizes, headroom)
		for i := range n {
			select {
			case r.packets <- append([]byte(nil), bufs[i][headroom:headroom+sizes[i]]...):
			case <-r.done:
				r.err = os.ErrClosed
				return
			}
		}
		if err != nil && !errors.Is(err, tun.ErrTooManySegments) {
			r.err = err
			return
		}
	}
}

func (r *pumpReader) ready() bool {
	if r.peeked == nil {
		select {
		case r.peeked = <-r.packets:
		default:
		}
	}
	return r.peeked != nil
}

func (r *pumpReader) read(bufs [][]byte, sizes []int, offset int) (int, error) {
	if r.peeked != nil {
		sizes[0] = copy(bufs[0][offset:], r.peeked)
		r.peeked = nil
		return 1, nil
	}
	select {
	case b := <-r.packets:
		sizes[0] = copy(bufs[0][offset:], b)
		return 1, nil
	case <-r.ended:
		return 0, r.err
	case <-r.wake:
		return 0, os.ErrDeadlineExceeded
	}
}

func (r *pumpReader) interrupt() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *pumpReader) close() { r.once.Do(func() { close(r.done) }) }
