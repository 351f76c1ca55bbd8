package netstack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// TestTCP: much data arrives as it was sent, over both families, in packets that fit and are right; the other direction works after the first is
// closed.
func TestTCP(t *testing.T) {
	got := make(chan sum, 1)
	l, r := pair(t, Config{OnTCP: sink(t, got)})
	block := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(block)
	for _, tc := range []struct{ to, from netip.Addr }{{right4, left4}, {right6, left6}} {
		c, err := l.DialTCP(patience(t), netip.AddrPortFrom(tc.to, 80))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		h := sha256.New()
		for range 4 {
			h.Write(block)
			if _, err := c.Write(block); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(c)
		if err != nil || string(b) != "done" {
			t.Errorf("the other end said %q, %v", b, err)
		}
		s := <-got
		if s.bytes != 4<<20 || !bytes.Equal(s.hash[:], h.Sum(nil)) || s.from.Addr() != tc.from {
			t.Errorf("%s: %d bytes from %s, equal %t", tc.to, s.bytes, s.from, bytes.Equal(s.hash[:], h.Sum(nil)))
		}
	}
	if st := r.Stats(); st.Accepted != 2 {
		t.Errorf("stats: %+v", st)
	}
}

// TestRefused: what nobody takes is refused at once, as a kernel does, and errors.Is knows why.
func TestRefused(t *testing.T) {
	l, r := newStack(t, Config{}, left4, left6), newStack(t, Config{}, right4, right6)
	unreachable := make(chan []byte, 10)
	wire(t, l, r, all)
	wire(t, r, l, func(b []byte) []byte {
		if b[0]>>4 == 4 && b[9] == 1 || b[0]>>4 == 6 && b[6] == 58 {
			unreachable <- bytes.Clone(b)
		}
		return b
	})
	for _, to := range []netip.Addr{right4, right6} {
		if _, err := l.DialTCP(patience(t), netip.AddrPortFrom(to, 80)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("TCP to %s: %v", to, err)
		}
		c, err := l.DialUDP(netip.AddrPortFrom(to, 53))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
		at, want := header.IPv4MinimumSize, [2]byte{3, 3} // RFC 792: port unreachable
		if to.Is6() {
			at, want = header.IPv6MinimumSize, [2]byte{1, 4} // RFC 4443
		}
		if b := <-unreachable; [2]byte(b[at:]) != want {
			t.Errorf("UDP to %s: answered by %x", to, b)
		}
	}
	if err := r.SetAddresses([]netip.Addr{right6}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	tired := errors.New("tired")
	cancel(tired)
	if _, err := l.DialTCP(ctx, netip.AddrPortFrom(right4, 80)); !errors.Is(err, context.Canceled) {
		t.Errorf("a dial with a context that has ended: %v", err)
	}
	if err := l.SetAddresses([]netip.Addr{left4}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.DialTCP(patience(t), netip.AddrPortFrom(right6, 80)); !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("without an address of the family: %v", err)
	}
}

// TestDialEnds: a dial to nobody ends with its context, for the reason that it gives.
func TestDialEnds(t *testing.T) {
	l := newStack(t, Config{}, left4)
	ctx, cancel := context.WithCancelCause(t.Context())
	sent, tired := make(chan struct{}), errors.New("tired")
	var once sync.Once
	wire(t, l, l, func([]byte) []byte {
		once.Do(func() { close(sent) })
		return nil
	})
	go func() {
		<-sent
		cancel(tired)
	}()
	if _, err := l.DialTCP(ctx, netip.AddrPortFrom(right4, 80)); !errors.Is(err, tired) {
		t.Errorf("DialTCP: %v", err)
	}
}

// TestUDP: datagrams go both ways, each flow to a socket of its own, also those that are longer than the MTU.
func TestUDP(t *testing.T) {
	flows := make(chan netip.AddrPort, 10)
	l, _ := pair(t, Config{OnUDP: func(to, from netip.AddrPort) func(net.Conn) {
		if to.Port() != 7 {
			return nil
		}
		flows <- from
		return func(c net.Conn) {
			defer c.Close()
			b := make([]byte, 1<<16)
			for {
				n, err := c.Read(b)
				if err != nil {
					return // the stack is closed
				}
				if _, err := c.Write(b[:n]); err != nil {
					t.Error(err)
				}
			}
		}
	}})
	for _, to := range []netip.Addr{right4, right6} {
		c, err := l.DialUDP(netip.AddrPortFrom(to, 7))
		if err != nil {
			t.Fatal(err)
		}
		echo(t, c, 10)
		echo(t, c, 5000)
		from := <-flows
		if own := c.LocalAddr().(*net.UDPAddr).AddrPort(); own.Port() != from.Port() {
			t.Errorf("from %s, seen as %s", own, from)
		}
		c.Close()
	}
	p, err := l.ListenUDP(false)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	at := net.UDPAddrFromAddrPort(netip.AddrPortFrom(right4, 7))
	if _, err := p.WriteTo([]byte("hello"), at); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	p.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, from, err := p.ReadFrom(b)
	if err != nil || string(b[:n]) != "hello" || from.String() != at.String() {
		t.Errorf("%q from %v, %v", b[:n], from, err)
	}
	select {
	case f := <-flows:
		if f.Addr() != left4 {
			t.Errorf("from %s", f)
		}
	default:
		t.Error("the socket's flow was not offered")
	}
}

func echo(t *testing.T, c net.Conn, size int) {
	t.Helper()
	want := bytes.Repeat([]byte{'x'}, size)
	if _, err := c.Write(want); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	got := make([]byte, 1<<16)
	n, err := c.Read(got)
	if err != nil || !bytes.Equal(got[:n], want) {
		t.Errorf("%d bytes came back of %d: %v", n, size, err)
	}
}

// TestMTU: a change reaches connections that are made from then on, and whoever reads the device's events.
func TestMTU(t *testing.T) {
	l := newStack(t, Config{}, left4)
	if e := <-l.Events(); e != tun.EventUp {
		t.Errorf("event %v", e)
	}
	for _, bad := range []int{0, 1279, 65536, -1} {
		if err := l.SetMTU(bad); err == nil {
			t.Errorf("MTU %d was taken", bad)
		}
		if _, err := New(Config{MTU: bad}); err == nil {
			t.Errorf("a stack with an MTU of %d was made", bad)
		}
	}
	if err := l.SetMTU(1300); err != nil {
		t.Fatal(err)
	}
	if mtu, err := l.MTU(); mtu != 1300 || err != nil {
		t.Errorf("MTU %d, %v", mtu, err)
	}
	if e := <-l.Events(); e != tun.EventMTUUpdate {
		t.Errorf("event %v", e)
	}
	got := make(chan sum, 1)
	r := newStack(t, Config{OnTCP: sink(t, got)}, right4)
	wire(t, l, r, fits(t, 1300))
	wire(t, r, l, all)
	c, err := l.DialTCP(patience(t), netip.AddrPortFrom(right4, 80))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, 100000)); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if s := <-got; s.bytes != 100000 {
		t.Errorf("%d bytes", s.bytes)
	}
}

// TestPendingBound: one address cannot have more connections undecided than MaxPendingFrom, and others are not kept out by it.
func TestPendingBound(t *testing.T) {
	asked, decide := make(chan *Request, 2*MaxPending), make(chan struct{})
	r := newStack(t, Config{OnTCP: func(q *Request) {
		asked <- q
		<-decide
		q.Refuse()
	}}, right4)
	const ports = MaxPendingFrom + 30
	for port := range ports {
		if _, err := r.Write([][]byte{syn(left4, right4, uint16(1000+port))}, 0); err != nil {
			t.Fatal(err)
		}
	}
	for range MaxPendingFrom {
		<-asked
	}
	deadline := time.After(20 * time.Second)
	for tick := time.Tick(time.Millisecond); r.Stats().PendingDropped < ports-MaxPendingFrom; {
		select {
		case <-tick:
		case <-deadline:
			t.Fatalf("%d dropped, want %d", r.Stats().PendingDropped, ports-MaxPendingFrom)
		}
	}
	other := netip.MustParseAddr("100.64.0.9")
	if _, err := r.Write([][]byte{syn(other, right4, 1)}, 0); err != nil {
		t.Fatal(err)
	}
	if q := <-asked; q.From.Addr() != other || q.To != netip.AddrPortFrom(right4, 80) {
		t.Errorf("asked about %s to %s", q.From, q.To)
	}
	close(decide)
	for range MaxPendingFrom + 1 { // each is refused with a reset
		bufs, sizes := [][]byte{make([]byte, 2000)}, make([]int, 1)
		if _, err := r.Read(bufs, sizes, 0); err != nil {
			t.Fatal(err)
		}
		if h := header.TCP(header.IPv4(bufs[0][:sizes[0]]).Payload()); h.Flags()&header.TCPFlagRst == 0 {
			t.Errorf("answered with %s", h.Flags())
		}
	}
}

func syn(from, to netip.Addr, port uint16) []byte {
	b := make([]byte, header.IPv4MinimumSize+header.TCPMinimumSize)
	ip, h := header.IPv4(b), header.TCP(b[header.IPv4MinimumSize:])
	f := addressFields(from, to)
	f.TotalLength = uint16(len(b))
	ip.Encode(&f)
	ip.SetChecksum(^ip.CalculateChecksum())
	h.Encode(&header.TCPFields{SrcPort: port, DstPort: 80, SeqNum: 1, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 1000})
	h.SetChecksum(^h.CalculateChecksum(header.PseudoHeaderChecksum(header.TCPProtocolNumber, f.SrcAddr, f.DstAddr, header.TCPMinimumSize)))
	return b
}

// TestClose: everything ends, at once, and nothing that is called later does harm.
func TestClose(t *testing.T) {
	accepted := make(chan error, 1)
	l, _ := pair(t, Config{OnTCP: func(q *Request) {
		_, err := q.Accept()
		accepted <- err
	}})
	c, err := l.DialTCP(patience(t), netip.AddrPortFrom(right4, 80))
	if err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; err != nil { // before Close resets it
		t.Fatal(err)
	}
	u, err := l.DialUDP(netip.AddrPortFrom(right4, 80))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	for _, c := range []net.Conn{c, u} {
		go func() {
			_, err := c.Read(make([]byte, 1))
			ended <- err
		}()
	}
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	u.Close() // the stack does not know of sockets without a connection
	for range 2 {
		if err := <-ended; err == nil {
			t.Error("a read went on")
		}
	}
	if _, err := l.Write([][]byte{syn(right4, left4, 1)}, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Write: %v", err)
	}
	if err := l.SetAddresses(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("SetAddresses: %v", err)
	}
	if err := l.SetMTU(1300); !errors.Is(err, net.ErrClosed) {
		t.Errorf("SetMTU: %v", err)
	}
	if _, err := l.DialTCP(patience(t), netip.AddrPortFrom(right4, 80)); err == nil {
		t.Error("a closed stack connects")
	}
	if _, ok := <-l.Events(); ok {
		if _, ok := <-l.Events(); ok {
			t.Error("events go on")
		}
	}
}

// TestInterrupt: a Read that waits returns early, and the next one waits again.
func TestInterrupt(t *testing.T) {
	s := newStack(t, Config{}, left4)
	bufs, sizes := [][]byte{make([]byte, 2000)}, make([]int, 1)
	s.Interrupt()
	s.Interrupt()
	if n, err := s.Read(bufs, sizes, room); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d, %v", n, err)
	}
	if s.Ready() {
		t.Error("ready without a packet")
	}
	c, err := s.DialUDP(netip.AddrPortFrom(right4, 7))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := fmt.Fprint(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if !s.Ready() {
		t.Error("not ready with a packet")
	}
	if n, err := s.Read(bufs, sizes, room); n != 1 || err != nil || sizes[0] != 28+5 {
		t.Errorf("%d packets, %d bytes, %v", n, sizes[0], err)
	}
}

// TestQueueBound: what the tunnel does not take is dropped, and counted.
func TestQueueBound(t *testing.T) {
	s := newStack(t, Config{}, left4)
	c, err := s.DialUDP(netip.AddrPortFrom(right4, 7))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range queueLength + 10 {
		_, _ = c.Write([]byte("hello")) // which may be told, or not
	}
	if st := s.Stats(); st.QueueDropped != 10 {
		t.Errorf("%d dropped", st.QueueDropped)
	}
}
