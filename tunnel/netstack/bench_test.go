package netstack

import (
	"net/netip"
	"testing"
)

// BenchmarkTCP is one connection between two stacks without a tunnel between them; each operation is 64 KiB.
func BenchmarkTCP(b *testing.B) {
	got := make(chan sum, 1)
	l, r := newStack(b, Config{}, left4), newStack(b, Config{OnTCP: sink(b, got)}, right4)
	wire(b, l, r, all)
	wire(b, r, l, all)
	c, err := l.DialTCP(b.Context(), netip.AddrPortFrom(right4, 80))
	if err != nil {
		b.Fatal(err)
	}
	block := make([]byte, 64<<10)
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		if _, err := c.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	if err := c.CloseWrite(); err != nil {
		b.Fatal(err)
	}
	<-got
}
