package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
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

// ServeHTTP serves until ctx ends. stop then ends the streams that would never end by themselves; other calls get a moment.
func ServeHTTP(ctx context.Context, s *http.Server, l net.Listener, stop func()) error {
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
	stop()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := s.Shutdown(grace); err != nil {
		s.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
