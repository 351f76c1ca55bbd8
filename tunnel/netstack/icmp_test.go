package netstack

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// TestPing: echo requests are answered, and answers given to whoever asked.
func TestPing(t *testing.T) {
	l, _ := pair(t, Config{})
	for _, tc := range []struct {
		to         netip.Addr
		ask, reply icmp.Type
		proto      int
	}{{right4, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply, 1}, {right6, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58}} {
		c, err := l.DialPing(tc.to)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		m := icmp.Message{Type: tc.ask, Body: &icmp.Echo{Seq: 3, Data: []byte("data")}}
		b, err := m.Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		in := make([]byte, 1500)
		n, err := c.Read(in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := icmp.ParseMessage(tc.proto, in[:n])
		if err != nil || got.Type != tc.reply {
			t.Fatalf("%+v, %v", got, err)
		}
		if e := got.Body.(*icmp.Echo); e.Seq != 3 || string(e.Data) != "data" {
			t.Errorf("%+v", e)
		}
	}
}

// TestSmallerPath: a router on the way that tells of a smaller MTU is believed, by connections that are open.
func TestSmallerPath(t *testing.T) {
	const narrow = 1300
	got := make(chan sum, 1)
	l, r := newStack(t, Config{}, left4), newStack(t, Config{OnTCP: sink(t, got)}, right4)
	answers := make(chan []byte, 1000)
	refused := 0
	wire(t, l, r, func(b []byte) []byte {
		if len(b) <= narrow {
			return b
		}
		refused++
		select {
		case answers <- tooBig(b, narrow):
		default:
		}
		return nil
	})
	wire(t, r, l, all)
	done := make(chan struct{})
	var group sync.WaitGroup
	defer group.Wait()
	defer close(done)
	group.Go(func() {
		for {
			select {
			case b := <-answers:
				l.Write([][]byte{b}, 0)
			case <-done:
				return
			}
		}
	})
	c, err := l.DialTCP(patience(t), netip.AddrPortFrom(right4, 80))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if s := <-got; s.bytes != 1<<20 || refused == 0 {
		t.Errorf("%d bytes, %d packets refused", s.bytes, refused)
	}
}

// tooBig is what a router sends about an IPv4 packet (RFC 1191).
func tooBig(b []byte, mtu uint16) []byte {
	m := icmp.Message{Type: ipv4.ICMPTypeDestinationUnreachable, Code: 4, Body: &icmp.RawBody{Data: append([]byte{0, 0, byte(mtu >> 8), byte(mtu)}, b[:28]...)}}
	body, err := m.Marshal(nil)
	if err != nil {
		panic(err)
	}
	out := make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+len(body))
	ip := header.IPv4(out)
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(cap(out)), TTL: 64, Protocol: 1, SrcAddr: header.IPv4(b).DestinationAddress(), DstAddr: header.IPv4(b).SourceAddress(),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	return append(out, body...)
}
