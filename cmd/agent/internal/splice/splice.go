// Package splice joins two connections of different kinds, such as one of this host and one through the tunnel, until both directions have ended or
// nothing has passed for a while. Streams is for TCP and its like, Packets for datagrams.
package splice

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// bufferSize is what is copied at once, in bytes; there is a buffer for each direction of each pair.
const bufferSize = 64 << 10

// ErrIdle says that nothing has passed for too long.
var ErrIdle = errors.New("nothing has passed for too long")

type halfCloser interface{ CloseWrite() error }

// Result is how a pair ended.
type Result struct {
	// Out is how many bytes went from a to b, In from b to a.
	Out, In int64
	Err     error // of the direction that ended first; nil: both ended as they should
}

// watch closes a pair that does nothing for the time idle.
type watch struct {
	idle  time.Duration
	last  atomic.Int64 // Unix nanoseconds
	fired atomic.Bool
	timer *time.Timer
}

// newWatch begins to watch. stop ends it.
func newWatch(idle time.Duration, shut func()) *watch {
	w := &watch{idle: idle}
	w.touch()
	set := make(chan struct{}) // the function must not run before timer is there
	w.timer = time.AfterFunc(idle, func() {
		<-set
		if left := time.Until(time.Unix(0, w.last.Load()).Add(idle)); left > 0 {
			w.timer.Reset(left)
			return
		}
		w.fired.Store(true)
		shut()
	})
	close(set)
	return w
}

func (w *watch) touch() { w.last.Store(time.Now().UnixNano()) }

func (w *watch) stop() { w.timer.Stop() }

// Streams copies both ways between a and b until both have ended, one fails, or nothing passes for the time idle. The end of one direction is passed
// on where the connections know half-closing (CloseWrite), and ends both where not. Both are closed when it returns.
func Streams(a, b net.Conn, idle time.Duration) Result {
	var once sync.Once
	shut := func() {
		once.Do(func() {
			a.Close()
			b.Close()
		})
	}
	defer shut()
	w := newWatch(idle, shut)
	defer w.stop()
	type end struct {
		out bool
		n   int64
		err error
	}
	ends := make(chan end, 2)
	way := func(to, from net.Conn, out bool) {
		n, err := pump(to, from, w)
		if h, ok := to.(halfCloser); err == nil && ok {
			err = h.CloseWrite()
		} else {
			shut()
		}
		ends <- end{out, n, err}
	}
	go way(b, a, true)
	go way(a, b, false)
	var r Result
	for range 2 {
		e := <-ends
		if e.out {
			r.Out = e.n
		} else {
			r.In = e.n
		}
		if e.err != nil {
			if r.Err == nil {
				r.Err = e.err
			}
			shut() // half of it is of no use
		}
	}
	if w.fired.Load() {
		r.Err = ErrIdle
	}
	return r
}

// pump copies until the source ends, which is no error.
func pump(to io.Writer, from io.Reader, w *watch) (total int64, err error) {
	buf := make([]byte, bufferSize)
	for {
		n, readErr := from.Read(buf)
		if n > 0 {
			w.touch()
			m, err := to.Write(buf[:n])
			total += int64(m)
			if err != nil {
				return total, err
			}
			w.touch()
		}
		switch {
		case errors.Is(readErr, io.EOF):
			return total, nil
		case readErr != nil:
			return total, readErr
		}
	}
}

// maxDatagram is the longest payload of UDP over IPv4, in bytes.
const maxDatagram = 65507

// Packets copies datagrams both ways between two connected sockets until nothing passes for the time idle, or one is closed. A datagram that
// cannot be sent is lost, as they may be. Both are closed when it returns.
func Packets(a, b net.Conn, idle time.Duration) Result {
	shut := sync.OnceFunc(func() {
		a.Close()
		b.Close()
	})
	defer shut()
	w := newWatch(idle, shut)
	defer w.stop()
	var r Result
	var group sync.WaitGroup
	way := func(to, from net.Conn, count *int64) {
		defer shut()
		buf := make([]byte, maxDatagram)
		for {
			n, err := from.Read(buf)
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) || w.fired.Load() {
				return
			}
			if err != nil && !refused(err) {
				return
			}
			if err != nil {
				continue // somebody does not listen; they may, later, and otherwise it is idle soon
			}
			w.touch()
			m, err := to.Write(buf[:n])
			if refused(err) { // an earlier one, and this one was not sent
				m, err = to.Write(buf[:n])
			}
			if err == nil {
				*count += int64(m)
			}
		}
	}
	group.Go(func() { way(b, a, &r.Out) })
	group.Go(func() { way(a, b, &r.In) })
	group.Wait()
	return r
}
