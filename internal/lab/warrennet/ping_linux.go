package warrennet

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"warren/internal/lab"
)

// Pinger sends ICMP echo requests from a host to one IPv4 address.
type Pinger struct {
	conn *icmp.PacketConn
	to   netip.Addr
	id   int
	seq  int
}

// NewPinger opens a socket on the host.
func NewPinger(h *lab.Host, to string) (*Pinger, error) {
	a, err := netip.ParseAddr(to)
	if err != nil {
		return nil, err
	}
	var b [2]byte
	rand.Read(b[:])
	p := &Pinger{to: a, id: int(binary.BigEndian.Uint16(b[:]))}
	err = h.Do(func() (err error) {
		p.conn, err = icmp.ListenPacket("ip4:icmp", "0.0.0.0")
		return err
	})
	return p, err
}

// Close closes the socket.
func (p *Pinger) Close() { p.conn.Close() }

// ErrNoAnswer says that a ping was not answered in time.
var ErrNoAnswer = errors.New("no answer")

// Ping sends one request and waits for its answer.
func (p *Pinger) Ping(timeout time.Duration) (time.Duration, error) {
	p.seq = (p.seq + 1) & 0xffff
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: p.id, Seq: p.seq, Data: make([]byte, 48)}}
	b, err := m.Marshal(nil)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := p.conn.SetReadDeadline(began.Add(timeout)); err != nil {
		return 0, err
	}
	if _, err := p.conn.WriteTo(b, &net.IPAddr{IP: p.to.AsSlice()}); err != nil {
		return 0, err
	}
	buf := make([]byte, 1500)
	for {
		n, from, err := p.conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, ErrNoAnswer
		}
		if err != nil {
			return 0, err
		}
		got, err := icmp.ParseMessage(1, buf[:n])
		if err != nil || got.Type != ipv4.ICMPTypeEchoReply || from.String() != p.to.String() {
			continue
		}
		if e, ok := got.Body.(*icmp.Echo); ok && e.ID == p.id && e.Seq == p.seq {
			return time.Since(began), nil
		}
	}
}

// Until pings until an answer comes.
func (p *Pinger) Until(ctx context.Context, each time.Duration) (time.Duration, error) {
	for {
		rtt, err := p.Ping(each)
		switch {
		case err == nil:
			return rtt, nil
		case ctx.Err() != nil:
			return 0, fmt.Errorf("%s does not answer: %w", p.to, err)
		case !errors.Is(err, ErrNoAnswer):
			// Such as no route yet; the socket itself does not block then.
			select {
			case <-ctx.Done():
			case <-time.After(each):
			}
		}
	}
}

// Throughput sends one TCP stream from one host to an address of another for a while and gives bits per second, as the receiver saw it.
func Throughput(ctx context.Context, from, to *lab.Host, address string, d time.Duration) (float64, error) {
	l, err := to.Listen(net.JoinHostPort(address, "0"))
	if err != nil {
		return 0, err
	}
	defer l.Close()
	type result struct {
		bits float64
		err  error
	}
	got := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- result{0, err}
			return
		}
		defer c.Close()
		began := time.Now()
		n, err := io.Copy(io.Discard, c)
		got <- result{float64(n) * 8 / time.Since(began).Seconds(), err}
	}()
	ctx, cancel := context.WithTimeout(ctx, d+10*time.Second)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", l.Addr().String())
	if err != nil {
		return 0, err
	}
	defer c.Close()
	block, end := make([]byte, 128<<10), time.Now().Add(d)
	if err := c.SetWriteDeadline(end.Add(10 * time.Second)); err != nil {
		return 0, err
	}
	for time.Now().Before(end) {
		if _, err := c.Write(block); err != nil {
			return 0, err
		}
	}
	c.Close()
	r := <-got
	return r.bits, r.err
}
