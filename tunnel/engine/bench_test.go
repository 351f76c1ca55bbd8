package engine

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"warren/proto/key"
	"warren/tunnel/bind"
)

// BenchmarkTunnel sends full packets through two tunnels' ends over loopback sockets: two of ours, two stock devices, and two stock devices
// with our Bind alone. The engine's TUN wrapper reads a TUN without a file one packet at a time, which a real one is spared.
func BenchmarkTunnel(b *testing.B) {
	b.Run("ours", func(b *testing.B) {
		benchTunnel(b, newNode(b, addresses[0], nil), newNode(b, addresses[1], nil))
	})
	b.Run("stock", func(b *testing.B) {
		benchTunnel(b, newStock(b, addresses[0]), newStock(b, addresses[1]))
	})
	b.Run("bind", func(b *testing.B) {
		benchTunnel(b, newBound(b, addresses[0]), newBound(b, addresses[1]))
	})
	b.Run("relayed", func(b *testing.B) {
		from, to := relayed(b, nil)
		from.ping(b, to)
		stream(b, from, to)
	})
}

// newBound is a plain device with our Bind.
func newBound(b *testing.B, addr netip.Addr) *node {
	n := &node{key: key.NewNode(), device: key.NewDevice().Public(), addr: addr, tun: newMemTUN(conn.IdealBatchSize)}
	n.bind = bind.New(bind.Config{Private: n.key, OnInitiation: func(k key.NodePublic) { n.bind.Release(k) }})
	n.bound = newWireguard(n.tun, n.bind, slog.New(slog.DiscardHandler), new(atomic.Uint64))
	if err := n.bound.up(n.key); err != nil {
		b.Fatal(err)
	}
	n.port = n.bind.LocalPort()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.bind.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		n.bound.close()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	return n
}

func benchTunnel(b *testing.B, from, to *node) {
	from.knows(b, true, to)
	to.knows(b, true, from)
	from.ping(b, to)
	stream(b, from, to)
}

// fullPacket is an IPv4 packet of 1420 bytes, the tunnel's MTU.
func fullPacket(from, to netip.Addr) []byte {
	p := append(tuntest.Ping(to, from), make([]byte, 1420)...)[:1420]
	p[2], p[3] = 1420>>8, 1420&0xff
	sum := uint32(0)
	p[10], p[11] = 0, 0
	for i := 0; i < 20; i += 2 {
		sum += uint32(p[i])<<8 | uint32(p[i+1])
	}
	sum = sum&0xffff + sum>>16
	sum = ^(sum&0xffff + sum>>16)
	p[10], p[11] = byte(sum>>8), byte(sum)
	return p
}

// stream keeps a window of packets on their way.
func stream(b *testing.B, from, to *node) {
	const window = 768
	p := fullPacket(from.addr, to.addr)
	room := make(chan struct{}, window)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		for range b.N {
			room <- struct{}{}
			from.tun.out <- p
		}
	}()
	for range b.N {
		<-to.tun.received
		<-room
	}
}
