package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// HTTPServer makes a server for long streams: it bounds headers, pings HTTP/2 connections to find dead ones, and leaves bodies alone.
func HTTPServer(h http.Handler, tlsConfig *tls.Config, log *slog.Logger) *http.Server {
	s := &http.Server{
		Handler: h, TLSConfig: tlsConfig, ReadHeaderTimeout: headerTimeout, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		HTTP2:    &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second, MaxConcurrentStreams: 100},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	s.Protocols = new(http.Protocols)
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(tlsConfig != nil)
	s.Protocols.SetUnencryptedHTTP2(tlsConfig == nil)
	return s
}

// ServeHTTP serves until ctx ends. stop then ends the streams that would never end by themselves. What has connected by then is answered, within
// stopTimeout; what connects later is left to whoever has the socket next.
func ServeHTTP(ctx context.Context, s *http.Server, l net.Listener, stop func()) error {
	open := &connections{busy: map[net.Conn]struct{}{}, changed: make(chan struct{}, 1)}
	s.ConnState = open.note
	done := make(chan error, 1)
	go func() {
		if s.TLSConfig != nil {
			done <- s.ServeTLS(l, "", "")
		} else {
			done <- s.Serve(l)
		}
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	l.Close()
	err := <-done
	s.SetKeepAlivesEnabled(false)
	stop()
	open.quiet(grace) // Shutdown hangs up on a connection that has not been heard of yet
	if s.Shutdown(grace) != nil {
		s.Close()
	}
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// connections are those of a server which are being answered, or are to send a request yet.
type connections struct {
	mu      sync.Mutex
	busy    map[net.Conn]struct{}
	changed chan struct{} // has a word when there is one less
}

// note is the server's ConnState.
func (c *connections) note(conn net.Conn, s http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s == http.StateNew || s == http.StateActive {
		c.busy[conn] = struct{}{}
		return
	}
	delete(c.busy, conn)
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// quiet returns when there is none, or ctx ends.
func (c *connections) quiet(ctx context.Context) {
	for {
		c.mu.Lock()
		n := len(c.busy)
		c.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-c.changed:
		case <-ctx.Done():
			return
		}
	}
}
