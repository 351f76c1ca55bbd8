package dnsforward

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// listener is both sockets at one address.
type listener struct {
	f      *Forwarder
	udp    *net.UDPConn
	tcp    *net.TCPListener
	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// open takes an address, or nothing.
func (f *Forwarder) open(ctx context.Context, a netip.Addr) (*listener, error) {
	at := netip.AddrPortFrom(a, f.cfg.port)
	config := net.ListenConfig{Control: f.cfg.Control}
	u, err := config.ListenPacket(ctx, "udp", at.String())
	if err != nil {
		return nil, explain(at, err)
	}
	t, err := config.Listen(ctx, "tcp", at.String())
	if err != nil {
		u.Close()
		return nil, explain(at, err)
	}
	l := &listener{f: f, udp: u.(*net.UDPConn), tcp: t.(*net.TCPListener)}
	l.ctx, l.cancel = context.WithCancel(ctx)
	l.done.Go(l.serveUDP)
	l.done.Go(l.serveTCP)
	return l, nil
}

// close ends it and waits for what it still does, which ends at once.
func (l *listener) close() {
	l.cancel()
	l.udp.Close()
	l.tcp.Close()
	l.done.Wait()
}

func (l *listener) serveUDP() {
	b := make([]byte, maxQuestion+1)
	for {
		n, from, err := l.udp.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // such as an ICMP error about an earlier answer
		}
		client := from.Addr().Unmap().WithZone("")
		release, ok := l.f.limiter.take(client)
		if !ok {
			l.f.count(dropped)
			continue
		}
		question := append([]byte(nil), b[:n]...)
		l.done.Go(func() {
			defer release()
			if answer := l.f.answer(l.ctx, "udp", client, question); answer != nil {
				_, _ = l.udp.WriteToUDPAddrPort(answer, from)
			}
		})
	}
}

func (l *listener) serveTCP() {
	for {
		c, err := l.tcp.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, say
			select {
			case <-l.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		client := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().WithZone("")
		release, ok := l.f.limiter.take(client)
		if !ok {
			l.f.count(dropped)
			c.Close()
			continue
		}
		l.done.Go(func() {
			defer release()
			l.serveConn(c, client)
		})
	}
}

// serveConn answers one question after the other.
func (l *listener) serveConn(c *net.TCPConn, client netip.Addr) {
	defer c.Close()
	stop := context.AfterFunc(l.ctx, func() { c.Close() })
	defer stop()
	for {
		if err := c.SetDeadline(time.Now().Add(idleTimeout)); err != nil {
			return
		}
		question, err := readFramed(c, maxQuestion)
		if err != nil {
			return
		}
		answer := l.f.answer(l.ctx, "tcp", client, question)
		if answer == nil {
			return
		}
		if err := c.SetDeadline(time.Now().Add(idleTimeout)); err != nil {
			return
		}
		if err := writeFramed(c, answer); err != nil {
			return
		}
	}
}

var errTooLong = errors.New("a message of more bytes than it may have")

// readFramed reads a message with its length before it (RFC 1035, section 4.2.2).
func readFramed(r io.Reader, longest int) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > longest {
		return nil, errTooLong
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

// writeFramed writes a message and its length in one segment, if it fits.
func writeFramed(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(b)), uint16(len(b))), b...))
	return err
}
