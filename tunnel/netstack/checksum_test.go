package netstack

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// TestDamaged: what has changed on its way is counted and dropped, and TCP mends it.
func TestDamaged(t *testing.T) {
	got := make(chan sum, 1)
	l, r := newStack(t, Config{}, left4, left6), newStack(t, Config{OnTCP: sink(t, got)}, right4, right6)
	seen, spoilt := 0, uint64(0)
	wire(t, l, r, func(b []byte) []byte {
		if seen++; seen%50 == 0 && len(b) > 1000 {
			b[len(b)-1-seen%900] ^= 4
			spoilt++
		}
		return b
	})
	wire(t, r, l, all)
	for _, to := range []netip.Addr{right4, right6} {
		c, err := l.DialTCP(patience(t), netip.AddrPortFrom(to, 80))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(bytes.Repeat([]byte("abcdefgh"), 1<<16)); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if s := <-got; s.bytes != 1<<19 {
			t.Errorf("%d bytes", s.bytes)
		}
		if _, err := io.ReadAll(c); err != nil {
			t.Error(err)
		}
		c.Close()
	}
	if d := r.Stats().Damaged; d == 0 || d != spoilt {
		t.Errorf("%d damaged, %d were", d, spoilt)
	}
}

// TestReceived: what is not as its header says is not handed on, and nothing is lost that is in order.
func TestReceived(t *testing.T) {
	good4 := syn(left4, right4, 1)
	change := func(at int, v byte) []byte {
		b := bytes.Clone(good4)
		b[at] = v
		return b
	}
	headed := func(b []byte) []byte {
		ip := header.IPv4(b)
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
		return b
	}
	fragment := headed(change(6, 0x20))
	fragment[len(fragment)-1] ^= 1
	longer := bytes.Clone(good4)
	binary.BigEndian.PutUint16(longer[2:], uint16(len(longer)+1))
	udp := udpPacket(false, 1)
	none := bytes.Clone(udp)
	binary.BigEndian.PutUint16(none[header.IPv4MinimumSize+udpChecksumAt:], 0)
	behind := udpPacket(true, 0)
	optional := append(append(bytes.Clone(behind[:header.IPv6MinimumSize]), 17, 0, 1, 4, 0, 0, 0, 0), behind[header.IPv6MinimumSize:]...)
	optional[6] = 60 // destination options, and UDP behind them
	binary.BigEndian.PutUint16(optional[4:], uint16(len(optional)-header.IPv6MinimumSize))
	spoilt := bytes.Clone(optional)
	spoilt[len(spoilt)-1] ^= 1
	none6 := bytes.Clone(behind)
	binary.BigEndian.PutUint16(none6[header.IPv6MinimumSize+udpChecksumAt:], 0)
	for name, tc := range map[string]struct {
		b    []byte
		want bool
	}{
		"TCP": {good4, true}, "with bytes behind it": {append(bytes.Clone(good4), 1, 2, 3), true}, "empty": {nil, false}, "of another version": {change(0, 0x55), false},
		"header's sum": {change(8, 1), false}, "payload's sum": {change(len(good4)-1, 1), false}, "header longer than the packet": {change(0, 0x4f), false},
		"header too short": {change(0, 0x44), false}, "longer than it is": {headed(longer), false}, "cut": {good4[:19], false}, "fragment": {fragment, true},
		"UDP": {udp, true}, "UDP without a sum": {none, true}, "UDP of another sum": {udpPacket(false, 2), false},
		"IPv6": {behind, true}, "IPv6 without a sum": {none6, false}, "IPv6 cut": {behind[:len(behind)-1], false}, "IPv6 header cut": {behind[:39], false},
		"behind options": {optional, true}, "behind options, spoilt": {spoilt, false},
	} {
		p := received(tc.b)
		if (p != nil) != tc.want {
			t.Errorf("%s: taken %t", name, p != nil)
		}
		if p != nil {
			p.DecRef()
		}
	}
}

// udpPacket is a datagram with a word of payload; a sum other than that of 1 is wrong, over IPv4.
func udpPacket(v6 bool, sum uint16) []byte {
	size := header.UDPMinimumSize + 4
	head := header.IPv4MinimumSize
	if v6 {
		head = header.IPv6MinimumSize
	}
	b := make([]byte, head+size)
	u := header.UDP(b[head:])
	u.Encode(&header.UDPFields{SrcPort: 5, DstPort: 6, Length: uint16(size)})
	copy(u.Payload(), "word")
	if v6 {
		p := large(true, nil, 1, 0)
		copy(b, p.NetworkHeader().Slice())
		p.DecRef()
		ip := header.IPv6(b)
		ip.SetPayloadLength(uint16(size))
		b[6] = 17
		u.SetChecksum(^sumOf(append(pseudo(ip.SourceAddressSlice(), ip.DestinationAddressSlice(), size), u...)))
		return b
	}
	f := addressFields(left4, right4)
	f.Protocol, f.TotalLength = 17, uint16(len(b))
	ip := header.IPv4(b)
	ip.Encode(&f)
	ip.SetChecksum(^ip.CalculateChecksum())
	u.SetChecksum(^sumOf(append(pseudo(ip.SourceAddressSlice(), ip.DestinationAddressSlice(), size), u...)) + sum - 1)
	return b
}

// pseudo is the header that is summed with UDP's (RFC 768, RFC 8200).
func pseudo(src, dst []byte, size int) []byte {
	return append(append(bytes.Clone(src), dst...), 0, 17, byte(size>>8), byte(size))
}

// FuzzWrite: whatever comes from a peer, nothing breaks, and the stack still answers.
func FuzzWrite(f *testing.F) {
	f.Add(syn(left4, right4, 1), syn(left4, right4, 2))
	f.Add(udpPacket(false, 1), udpPacket(true, 0))
	f.Add([]byte{0x60}, []byte{0x45})
	s, err := New(Config{MTU: testMTU, OnTCP: func(q *Request) { q.Refuse() }, OnUDP: func(_, _ netip.AddrPort) func(net.Conn) {
		return func(c net.Conn) { c.Close() }
	}})
	if err != nil {
		f.Fatal(err)
	}
	if err := s.SetAddresses([]netip.Addr{right4, right6}); err != nil {
		f.Fatal(err)
	}
	go func() {
		bufs, sizes := [][]byte{make([]byte, 1<<16)}, make([]int, 1)
		for {
			if _, err := s.Read(bufs, sizes, 0); err != nil {
				return
			}
			if sizes[0] == 0 || sizes[0] > testMTU {
				f.Errorf("a packet of %d bytes", sizes[0])
			}
		}
	}()
	f.Cleanup(func() { s.Close() })
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if _, err := s.Write([][]byte{a, b}, 0); err != nil {
			t.Fatal(err)
		}
	})
}
