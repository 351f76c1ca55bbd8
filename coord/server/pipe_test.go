package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
)

// served is a handler that a client of its own reaches.
type served struct {
	client *http.Client
	url    string
	close  func()
}

// listen serves h on loopback by HTTP/2 and TLS, or, with piped, by HTTP/1.1 over pipes.
func (c *coordinator) listen(h http.Handler) served {
	if !c.piped {
		s := httptest.NewUnstartedServer(h)
		s.EnableHTTP2 = true
		s.StartTLS()
		return served{s.Client(), s.URL, s.Close}
	}
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	transport := &http.Transport{DialContext: l.dial}
	s := &http.Server{Handler: h}
	var done sync.WaitGroup
	done.Go(func() { s.Serve(l) })
	return served{&http.Client{Transport: transport}, "http://coordinator.example", func() {
		s.Close()
		transport.CloseIdleConnections()
		done.Wait()
	}}
}

// pipes is a listener without a socket.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "pipe"} }
