package netstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/header/parse"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Where headers have what is looked at here, in bytes.
const (
	fragmentAt, fragmentMask = 6, 0x3fff // more fragments, and the offset
	udpChecksumAt            = 6
)

// received gives a packet from the tunnel to be handed to the stack; nil for one that is damaged. Segments can be joined only where the
// stack leaves checksums to its card, so that those of IPv4, TCP and UDP are looked at here: WireGuard vouches for what the peer sent, but that may come from
// a LAN behind it. Those of ICMP the stack sees to. A datagram in fragments has no sum of each.
func received(b []byte) *stack.PacketBuffer {
	switch {
	case len(b) >= header.IPv4MinimumSize && b[0]>>4 == 4:
		head := int(b[0]&0xf) * 4
		if head < header.IPv4MinimumSize || len(b) < head || checksum.Checksum(b[:head], 0) != 0xffff {
			return nil
		}
		size := int(binary.BigEndian.Uint16(b[2:]))
		if size < head || size > len(b) {
			return nil
		}
		fragment := binary.BigEndian.Uint16(b[fragmentAt:])&fragmentMask != 0
		if !fragment && !soundPayload(tcpip.TransportProtocolNumber(b[9]), b[12:16], b[16:20], b[head:size]) {
			return nil
		}
		return packetOf(header.IPv4ProtocolNumber, b)
	case len(b) >= header.IPv6MinimumSize && b[0]>>4 == 6:
		size := header.IPv6MinimumSize + int(binary.BigEndian.Uint16(b[4:]))
		if size > len(b) {
			return nil
		}
		proto, at, whole := transportOf(b[:size])
		if whole && !soundPayload(proto, b[8:24], b[24:40], b[at:size]) {
			return nil
		}
		return packetOf(header.IPv6ProtocolNumber, b)
	}
	return nil
}

func packetOf(proto tcpip.NetworkProtocolNumber, b []byte) *stack.PacketBuffer {
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	p.NetworkProtocolNumber, p.RXChecksumValidated = proto, true
	return p
}

// transportOf finds the payload of an IPv6 packet behind its extension headers; whole says that it is no fragment and could be found.
func transportOf(b []byte) (proto tcpip.TransportProtocolNumber, at int, whole bool) {
	switch next := tcpip.TransportProtocolNumber(b[6]); next {
	case header.TCPProtocolNumber, header.UDPProtocolNumber, header.ICMPv6ProtocolNumber:
		return next, header.IPv6MinimumSize, true
	}
	p := packetOf(header.IPv6ProtocolNumber, b)
	defer p.DecRef()
	proto, _, offset, more, ok := parse.IPv6(p)
	return proto, len(b) - p.Data().Size(), ok && offset == 0 && !more
}

// soundPayload reports whether the checksum of a TCP segment or a UDP datagram is right. Anything else is for the stack to judge.
func soundPayload(proto tcpip.TransportProtocolNumber, src, dst, b []byte) bool {
	switch proto {
	case header.TCPProtocolNumber:
	case header.UDPProtocolNumber:
		if len(src) == header.IPv4AddressSize && len(b) >= header.UDPMinimumSize && binary.BigEndian.Uint16(b[udpChecksumAt:]) == 0 {
			return true // it has none (RFC 768); over IPv6 it must have one
		}
	default:
		return true
	}
	sum := header.PseudoHeaderChecksum(proto, tcpip.AddrFromSlice(src), tcpip.AddrFromSlice(dst), uint16(len(b)))
	return checksum.Checksum(b, sum) == 0xffff
}
