package netstack

import (
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// segmenter cuts one packet of the stack into those that leave: TCP segments of the size that the stack names, and everything else as it is.
type segmenter struct {
	packet  []byte // headers and payload
	headers int    // length of IP and TCP headers; 0: the packet leaves as it is
	ip      int    // length of the IP header
	size    int    // of the payload of each segment
	at      int    // where the payload begins that is still to be sent, from the end of the headers
	done    bool
}

func (g *segmenter) more() bool { return g.packet != nil && !g.done }

// begin takes a packet, which is copied.
func (g *segmenter) begin(p *stack.PacketBuffer) {
	packet := g.packet[:0]
	for _, b := range p.AsSlices() {
		packet = append(packet, b...)
	}
	*g = segmenter{packet: packet}
	switch p.GSOOptions.Type {
	case stack.GSOTCPv4, stack.GSOTCPv6:
	default:
		return
	}
	g.ip, g.size = len(p.NetworkHeader().Slice()), int(p.GSOOptions.MSS)
	g.headers = g.ip + len(p.TransportHeader().Slice())
	if g.size <= 0 {
		g.size = len(packet)
	}
}

// next writes the next packet into b and gives its length.
func (g *segmenter) next(b []byte) int {
	if g.headers == 0 {
		g.done = true
		return copy(b, g.packet)
	}
	payload := g.packet[g.headers:]
	end := min(g.at+g.size, len(payload))
	n := copy(b, g.packet[:g.headers])
	n += copy(b[n:], payload[g.at:end])
	g.finish(b[:n], end == len(payload))
	g.at, g.done = end, end == len(payload)
	return n
}

// finish makes the headers of a segment, which are those of the whole, right for it. The stack leaves the TCP checksum of the whole to its card, so that all are
// computed here (RFC 9293, section 3.1; RFC 8200, section 8.1).
func (g *segmenter) finish(b []byte, last bool) {
	t := header.TCP(b[g.ip:])
	var pseudo uint16
	if b[0]>>4 == 4 {
		ip := header.IPv4(b)
		ip.SetTotalLength(uint16(len(b)))
		ip.SetID(ip.ID() + uint16(g.at/g.size))
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
		pseudo = header.PseudoHeaderChecksum(header.TCPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(t)))
	} else {
		ip := header.IPv6(b)
		ip.SetPayloadLength(uint16(len(b) - header.IPv6MinimumSize))
		pseudo = header.PseudoHeaderChecksum(header.TCPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(t)))
	}
	t.SetSequenceNumber(t.SequenceNumber() + uint32(g.at))
	if !last {
		t.SetFlags(uint8(t.Flags() &^ (header.TCPFlagFin | header.TCPFlagPsh)))
	}
	t.SetChecksum(0)
	t.SetChecksum(^checksum.Checksum(t, pseudo))
}
