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
	// Size is that of the requests' payload, in bytes: 48 unless it is changed.
	Size int

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
	p := &Pinger{Size: 48, to: a, id: int(binary.BigEndian.Uint16(b[:]))}
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
	began := time.Now()
	if err := p.conn.SetReadDeadline(began.Add(timeout)); err != nil {
		return 0, err
	}
	if err := p.send(); err != nil {
		return 0, err
	}
	if err := p.receive(p.seq); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}

// send sends the next request.
func (p *Pinger) send() error {
	p.seq = (p.seq + 1) & 0xffff
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: p.id, Seq: p.seq, Data: make([]byte, p.Size)}}
	b, err := m.Marshal(nil)
	if err == nil {
		_, err = p.conn.WriteTo(b, &net.IPAddr{IP: p.to.AsSlice()})
	}
	return err
}

// receive waits for the answer to request seq, or any if that is negative, until the deadline.
func (p *Pinger) receive(seq int) error {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := p.conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return ErrNoAnswer
		}
		if err != nil {
			return err
		}
		got, err := icmp.ParseMessage(1, buf[:n])
		if err != nil || got.Type != ipv4.ICMPTypeEchoReply || from.String() != p.to.String() {
			continue
		}
		if e, ok := got.Body.(*icmp.Echo); ok && e.ID == p.id && (e.Seq == seq || seq < 0) {
			return nil
		}
	}
}

// First sends a request every so often, without waiting for answers to those before, until one is answered. Requests that cannot be sent,
// since there is no route yet, count as unanswered.
func (p *Pinger) First(ctx context.Context, every time.Duration) error {
	for {
		if err := p.conn.SetReadDeadline(time.Now().Add(every)); err != nil {
			return err
		}
		_ = p.send()
		if err := p.receive(-1); !errors.Is(err, ErrNoAnswer) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s does not answer: %w", p.to, err)
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
	n, took, err := Stream(ctx, from, to, address, d)
	if err != nil {
		return 0, err
	}
	return float64(n) * 8 / took.Seconds(), nil
}

// Stream is Throughput that gives how many bytes the receiver got, and in what time.
func Stream(ctx context.Context, from, to *lab.Host, address string, d time.Duration) (int64, time.Duration, error) {
	l, err := to.Listen(net.JoinHostPort(address, "0"))
	if err != nil {
		return 0, 0, err
	}
	defer l.Close()
	type result struct {
		bytes int64
		took  time.Duration
		err   error
	}
	got := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- result{err: err}
			return
		}
		defer c.Close()
		began := time.Now()
		if err := c.SetReadDeadline(began.Add(d + 10*time.Second)); err != nil {
			got <- result{err: err}
			return
		}
		n, err := io.Copy(io.Discard, c)
		got <- result{n, time.Since(began), err}
	}()
	ctx, cancel := context.WithTimeout(ctx, d+10*time.Second)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", l.Addr().String())
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	block, end := make([]byte, 128<<10), time.Now().Add(d)
	if err := c.SetWriteDeadline(end.Add(10 * time.Second)); err != nil {
		return 0, 0, err
	}
	for time.Now().Before(end) {
		if _, err := c.Write(block); err != nil {
			return 0, 0, err
		}
	}
	c.Close()
	r := <-got
	return r.bytes, r.took, r.err
}
