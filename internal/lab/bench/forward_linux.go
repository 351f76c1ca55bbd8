package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"

	"github.com/coder/websocket"

	"warren/internal/udpbatch"
)

// Ports of the bare forwarders, which know neither keys nor devices: what the left device sends to its port leaves from the right one's, to
// wherever the right device was last heard from, and the other way about.
const (
	bareLeft  = 40001
	bareRight = 40002
	bareHTTPS = 40003
)

// forwarding is what a bare forwarder says once it works.
const forwarding = "forwarding"

// forward is the program that runs beside the relay, to be compared with it.
func forward(ctx context.Context, transport string) error {
	switch transport {
	case "udp":
		return forwardUDP(ctx)
	case "websocket":
		return forwardWebSocket(ctx)
	}
	return fmt.Errorf("there is no bare forwarder for %q: udp, websocket", transport)
}

// bareEnd is one of the two sockets of the UDP forwarder.
type bareEnd struct {
	conn *udpbatch.Conn
	to   atomic.Pointer[udpbatch.Route] // the device
}

func forwardUDP(ctx context.Context) error {
	var ends [2]bareEnd
	for i, port := range []int{bareLeft, bareRight} {
		var err error
		if ends[i].conn, err = udpbatch.Listen("udp4", ":"+strconv.Itoa(port), udpbatch.Options{GSO: true, GRO: true, Whole: true}); err != nil {
			return err
		}
		defer ends[i].conn.Close()
	}
	done := make(chan error, len(ends))
	for i := range ends {
		go func() { done <- ends[i].copyTo(&ends[1-i]) }()
	}
	slog.Info(forwarding)
	select {
	case <-ctx.Done():
		return nil
	case err := <-done:
		return err
	}
}

// copyTo passes on what comes, batch by batch.
func (e *bareEnd) copyTo(other *bareEnd) error {
	rx := udpbatch.NewReader(e.conn)
	bufs := rx.Own()
	if bufs == nil {
		for range udpbatch.BatchSize {
			bufs = append(bufs, make([]byte, 1<<16))
		}
	}
	var out [][]byte
	var last netip.AddrPort
	for {
		n, err := rx.Read(bufs)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		out = out[:0]
		for i := range n {
			if from := rx.Source(i); from != last {
				last = from
				e.to.Store(e.conn.NewRoute(netip.Addr{}, from))
			}
			for data, segment := rx.Message(i); data != nil; {
				var d []byte
				d, data = udpbatch.Cut(data, segment)
				out = append(out, d)
			}
		}
		if to := other.to.Load(); to != nil && len(out) > 0 {
			other.conn.Send(out, to) // what is not sent is lost, as in any network
		}
	}
}

// bareMessage bounds a message of a bare WebSocket, in bytes: a batch of full packets.
const bareMessage = udpbatch.BatchSize * 2048

// forwardWebSocket passes whole messages on between the connections of /left and /right.
func forwardWebSocket(ctx context.Context) error {
	config, err := bareTLS()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp4", ":"+strconv.Itoa(bareHTTPS))
	if err != nil {
		return err
	}
	var ends [2]atomic.Pointer[websocket.Conn]
	mux := http.NewServeMux()
	for i, path := range []string{"/left", "/right"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
			if err != nil {
				return
			}
			defer c.CloseNow()
			ends[i].Store(c)
			copyMessages(ctx, c, &ends[1-i])
		})
	}
	s := &http.Server{Handler: mux, TLSConfig: config}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	slog.Info(forwarding)
	if err := s.ServeTLS(l, "", ""); ctx.Err() == nil {
		return err
	}
	return nil
}

func copyMessages(ctx context.Context, from *websocket.Conn, other *atomic.Pointer[websocket.Conn]) {
	from.SetReadLimit(bareMessage)
	buf := make([]byte, bareMessage)
	for {
		m, err := readBare(ctx, from, buf)
		if err != nil {
			return
		}
		if to := other.Load(); to != nil {
			if err := to.Write(ctx, websocket.MessageBinary, m); err != nil {
				return
			}
		}
	}
}

// readBare reads a whole message into buf.
func readBare(ctx context.Context, c *websocket.Conn, buf []byte) ([]byte, error) {
	_, in, err := c.Reader(ctx)
	if err != nil {
		return nil, err
	}
	n := 0
	for {
		m, err := in.Read(buf[n:])
		n += m
		if errors.Is(err, io.EOF) {
			return buf[:n], nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// bareTLS makes a certificate of the same kind as a relay's, which nobody checks.
func bareTLS() (*tls.Config, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: k}}, NextProtos: []string{"http/1.1"}}, nil
}
