package netstack

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

func addressFields(from, to netip.Addr) header.IPv4Fields {
	return header.IPv4Fields{
		TTL: 64, Protocol: uint8(header.TCPProtocolNumber), SrcAddr: tcpip.AddrFrom4(from.As4()), DstAddr: tcpip.AddrFrom4(to.As4()),
	}
}

// large is a packet as the stack hands it to a card that segments: no checksums, lengths of the whole.
func large(v6 bool, payload []byte, mss uint16, flags header.TCPFlags) *stack.PacketBuffer {
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: 100, Payload: buffer.MakeWithData(payload)})
	h := header.TCP(p.TransportHeader().Push(header.TCPMinimumSize + 12))
	h.Encode(&header.TCPFields{SrcPort: 1, DstPort: 2, SeqNum: 1<<32 - 5000, AckNum: 7, DataOffset: header.TCPMinimumSize + 12, Flags: flags, WindowSize: 9})
	copy(h[header.TCPMinimumSize:], "\x01\x01\x08\x0aTIMESTMP")
	p.GSOOptions = stack.GSO{Type: stack.GSOTCPv4, MSS: mss, NeedsCsum: true}
	if v6 {
		p.GSOOptions.Type = stack.GSOTCPv6
		header.IPv6(p.NetworkHeader().Push(header.IPv6MinimumSize)).Encode(&header.IPv6Fields{
			PayloadLength: uint16(len(h) + len(payload)), TransportProtocol: header.TCPProtocolNumber, HopLimit: 64,
			SrcAddr: tcpip.AddrFrom16(left6.As16()), DstAddr: tcpip.AddrFrom16(right6.As16()),
		})
		return p
	}
	f := addressFields(left4, right4)
	f.TotalLength, f.ID = uint16(header.IPv4MinimumSize+len(h)+len(payload)), 65535
	header.IPv4(p.NetworkHeader().Push(header.IPv4MinimumSize)).Encode(&f)
	return p
}

// TestSegments: the pieces have the payload in order, each no longer than was said, with checksums and numbers that are right, and the flags that end
// something only on the last.
func TestSegments(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, tc := range []struct {
			payload, mss int
			want         []int
		}{{1, 1000, []int{1}}, {1000, 1000, []int{1000}}, {1001, 1000, []int{1000, 1}}, {65000, 20000, []int{20000, 20000, 20000, 5000}}, {0, 1000, []int{0}}, {10, 0, []int{10}}} {
			payload := make([]byte, tc.payload)
			for i := range payload {
				payload[i] = byte(i * 7)
			}
			p := large(v6, payload, uint16(tc.mss), header.TCPFlagAck|header.TCPFlagPsh|header.TCPFlagFin)
			var g segmenter
			g.begin(p)
			p.DecRef()
			var sizes []int
			var whole []byte
			b := make([]byte, 1<<16)
			for g.more() {
				seg := b[:g.next(b)]
				if err := checkSums(seg); err != nil {
					t.Fatalf("%+v: segment %d: %v", tc, len(sizes), err)
				}
				h := header.TCP(seg[header.IPv6MinimumSize:])
				if !v6 {
					ip := header.IPv4(seg)
					if want := uint16(65535 + len(sizes)); ip.ID() != want {
						t.Errorf("%+v: segment %d has ID %d", tc, len(sizes), ip.ID())
					}
					h = header.TCP(ip.Payload())
				}
				if want := uint32(1<<32-5000) + uint32(len(whole)); h.SequenceNumber() != want {
					t.Errorf("%+v: segment %d begins at %d, want %d", tc, len(sizes), h.SequenceNumber(), want)
				}
				if want := header.TCPFlagAck | header.TCPFlagPsh | header.TCPFlagFin; !g.more() && h.Flags() != want || g.more() && h.Flags() != header.TCPFlagAck {
					t.Errorf("%+v: segment %d has flags %s", tc, len(sizes), h.Flags())
				}
				if string(h[header.TCPMinimumSize:h.DataOffset()]) != "\x01\x01\x08\x0aTIMESTMP" || h.AckNumber() != 7 {
					t.Errorf("%+v: segment %d lacks what the whole has", tc, len(sizes))
				}
				sizes, whole = append(sizes, len(h.Payload())), append(whole, h.Payload()...)
			}
			if diff := cmp.Diff(tc.want, sizes); diff != "" || !bytes.Equal(whole, payload) {
				t.Errorf("%+v, IPv6 %t: %s, equal %t", tc, v6, diff, bytes.Equal(whole, payload))
			}
		}
	}
}

// TestWhole: packets that are not to be cut leave as they are.
func TestWhole(t *testing.T) {
	p := large(false, []byte("payload"), 3, header.TCPFlagAck)
	p.GSOOptions = stack.GSO{}
	defer p.DecRef()
	var want []byte
	for _, b := range p.AsSlices() {
		want = append(want, b...)
	}
	var g segmenter
	g.begin(p)
	b := make([]byte, 2000)
	if n := g.next(b); !bytes.Equal(b[:n], want) || g.more() {
		t.Errorf("%x, more %t", b[:n], g.more())
	}
}
