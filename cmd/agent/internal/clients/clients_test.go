package clients

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// listener gives what it is sent, and errors between.
type listener struct {
	conns  chan net.Conn // nil: an error
	closed chan struct{}
	times  atomic.Int32 // it was closed
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		if c == nil {
			return nil, errors.New("too many open files")
		}
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	if l.times.Add(1) == 1 {
		close(l.closed)
	}
	return nil
}

func (l *listener) Addr() net.Addr { return nil }

// TestServe: never more than are allowed at a time, a failed Accept is told and tried again after a while, and the end waits for those who are served.
func TestServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := &listener{conns: make(chan net.Conn, 10), closed: make(chan struct{})}
		var serving, failures atomic.Int32
		end, ended := make(chan struct{}), make(chan struct{})
		go func() {
			Serve(ctx, l, 2, func(error) { failures.Add(1) }, func(c net.Conn) {
				serving.Add(1)
				<-end
				c.Close()
				serving.Add(-1)
			})
			close(ended)
		}()
		for range 3 {
			_, c := net.Pipe()
			l.conns <- c
		}
		synctest.Wait()
		if serving.Load() != 2 || len(l.conns) != 1 {
			t.Errorf("%d are served, %d wait", serving.Load(), len(l.conns))
		}
		end <- struct{}{}
		synctest.Wait()
		if serving.Load() != 2 || len(l.conns) != 0 {
			t.Errorf("after the end of one %d are served, %d wait", serving.Load(), len(l.conns))
		}
		end <- struct{}{}
		synctest.Wait()
		began := time.Now()
		l.conns <- nil
		l.conns <- nil
		_, c := net.Pipe()
		l.conns <- c
		for serving.Load() < 2 {
			<-time.After(time.Millisecond) // of the bubble's clock
		}
		if took := time.Since(began); failures.Load() != 2 || took < 2*pause || took > 2*pause+2*time.Millisecond {
			t.Errorf("%d failures, served after %s", failures.Load(), took)
		}
		cancel()
		synctest.Wait()
		select {
		case <-ended:
			t.Error("ended before those that it serves")
		default:
		}
		if l.times.Load() == 0 {
			t.Error("the listener is open")
		}
		close(end)
		<-ended
	})
}

// TestClosed: a listener that somebody else has closed ends it.
func TestClosed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	Serve(t.Context(), l, 1, func(err error) { t.Error(err) }, func(net.Conn) { t.Error("served") })
}
