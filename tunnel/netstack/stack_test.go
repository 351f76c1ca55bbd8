package netstack

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	room    = 16 // in front of packets, as WireGuard asks for
	testMTU = 1420
)

var (
	left4, right4 = netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("100.64.0.2")
	left6, right6 = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
)

func patience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// wire carries packets from one stack to the other and sees all of them. What see gives in place of a packet goes on; nil: nothing.
func wire(t testing.TB, from, to *Stack, see func([]byte) []byte) {
	t.Helper()
	var group sync.WaitGroup
	t.Cleanup(group.Wait)
	t.Cleanup(func() { from.Close() })
	group.Go(func() {
		bufs, sizes := make([][]byte, batchSize), make([]int, batchSize)
		for i := range bufs {
			bufs[i] = make([]byte, 1<<16)
		}
		for {
			n, err := from.Read(bufs, sizes, room)
			if err != nil {
				if !errors.Is(err, os.ErrClosed) {
					t.Errorf("Read: %v", err)
				}
				return
			}
			var out [][]byte
			for i := range n {
				b := bufs[i][:room+sizes[i]]
				if p := see(b[room:]); p != nil {
					out = append(out, append(b[:room:room], p...))
				}
			}
			if len(out) > 0 {
				if _, err := to.Write(out, room); err != nil && !errors.Is(err, os.ErrClosed) {
					t.Errorf("Write: %v", err)
				}
			}
		}
	})
}

func all(b []byte) []byte { return b }

// fits fails the test for a packet that is longer than the MTU or has a wrong checksum.
func fits(t testing.TB, mtu int) func([]byte) []byte {
	return func(b []byte) []byte {
		if len(b) > mtu {
			t.Errorf("a packet of %d bytes, more than %d", len(b), mtu)
		}
		if err := checkSums(b); err != nil {
			t.Errorf("a packet of %d bytes: %v", len(b), err)
		}
		return b
	}
}

func checkSums(b []byte) error {
	if b[0]>>4 == 4 {
		ip := header.IPv4(b)
		if !ip.IsValid(len(b)) || !ip.IsChecksumValid() {
			return errors.New("IPv4 header")
		}
		if ip.TransportProtocol() == header.TCPProtocolNumber {
			return checkTCP(header.TCP(ip.Payload()), func(h header.TCP, sum uint16, n uint16) bool {
				return h.IsChecksumValid(ip.SourceAddress(), ip.DestinationAddress(), sum, n)
			})
		}
		return nil
	}
	ip := header.IPv6(b)
	if !ip.IsValid(len(b)) || int(ip.PayloadLength())+header.IPv6MinimumSize != len(b) {
		return errors.New("IPv6 header")
	}
	if ip.TransportProtocol() == header.TCPProtocolNumber {
		return checkTCP(header.TCP(ip.Payload()), func(h header.TCP, sum uint16, n uint16) bool {
			return h.IsChecksumValid(ip.SourceAddress(), ip.DestinationAddress(), sum, n)
		})
	}
	return nil
}

func checkTCP(h header.TCP, valid func(header.TCP, uint16, uint16) bool) error {
	if len(h) < header.TCPMinimumSize || int(h.DataOffset()) > len(h) {
		return errors.New("TCP header")
	}
	payload := h[h.DataOffset():]
	if !valid(h, sumOf(payload), uint16(len(payload))) {
		return errors.New("TCP checksum")
	}
	return nil
}

// sumOf is RFC 1071's sum, as plainly as can be.
func sumOf(b []byte) uint16 {
	var sum uint32
	for i, v := range b {
		if i%2 == 0 {
			sum += uint32(v) << 8
		} else {
			sum += uint32(v)
		}
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func newStack(t testing.TB, cfg Config, addrs ...netip.Addr) *Stack {
	t.Helper()
	if cfg.MTU == 0 {
		cfg.MTU = testMTU
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.SetAddresses(addrs); err != nil {
		t.Fatal(err)
	}
	return s
}

// pair makes two stacks back to back. What the right one does is in its configuration.
func pair(t testing.TB, right Config) (l, r *Stack) {
	t.Helper()
	l, r = newStack(t, Config{}, left4, left6), newStack(t, right, right4, right6)
	wire(t, l, r, fits(t, testMTU))
	wire(t, r, l, fits(t, testMTU))
	return l, r
}

// sink takes every connection and gives the sum and the number of what it read.
type sum struct {
	hash  [sha256.Size]byte
	bytes int64
	from  netip.AddrPort
}

func sink(t testing.TB, out chan<- sum) func(*Request) {
	return func(r *Request) {
		c, err := r.Accept()
		if err != nil {
			t.Errorf("Accept: %v", err)
			return
		}
		go func() {
			defer c.Close()
			h := sha256.New()
			n, err := io.Copy(h, c)
			if err != nil {
				t.Errorf("after %d bytes: %v", n, err)
			}
			if _, err := io.WriteString(c, "done"); err != nil {
				t.Error(err)
			}
			out <- sum{[sha256.Size]byte(h.Sum(nil)), n, r.From}
		}()
	}
}
