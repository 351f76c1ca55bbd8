package filter

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"warren/internal/ipproto"
)

// IANA protocol numbers that the filter looks into.
const (
	protoICMP   = ipproto.ICMP
	protoTCP    = ipproto.TCP
	protoUDP    = ipproto.UDP
	protoICMPv6 = ipproto.ICMPv6
	protoSCTP   = ipproto.SCTP
)

// IPv6 extension headers (RFC 8200 section 4).
const (
	extHopByHop    = 0
	extRouting     = 43
	extFragment    = 44
	extDestination = 60
	// maxExtensions bounds the walk along them.
	maxExtensions = 8
)

// ErrMalformed says that a packet is not well-formed IP.
var ErrMalformed = errors.New("malformed packet")

// Packet is what the filter reads of an IP packet. Payload aliases it.
type Packet struct {
	Src, Dst netip.Addr
	Proto    uint8
	// SrcPort and DstPort are those of TCP, UDP and SCTP; for an ICMP echo both are its identifier. In a later fragment they are 0.
	SrcPort, DstPort uint16
	// Fragment says that it is one; Later that it is not the first, and so has no ports. FragmentID ties them together.
	Fragment, Later bool
	FragmentID      uint32
	// In a later fragment reach is where it begins in the whole packet, in the first one where what was read of the transport ends; both count
	// from behind the headers that each fragment has.
	reach uint16
	// icmpError says that it reports on another packet, whose beginning is payload.
	icmpError bool
	payload   []byte
	// single says that it belongs to no flow: ICMP that is neither an echo nor an error.
	single   bool
	echo     echo
	tcpFlags uint8
}

// echo tells an ICMP echo's question from its answer.
type echo uint8

const (
	noEcho echo = iota
	echoRequest
	echoReply
)

const (
	tcpFIN = 1 << iota
	tcpSYN
	tcpRST
)

// Addresses gives source and destination of an IP packet, by its header alone.
func Addresses(b []byte) (src, dst netip.Addr, err error) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])), nil
	case len(b) >= 40 && b[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:])), nil
	}
	return src, dst, ErrMalformed
}

// Parse reads an IP packet. Bytes behind its end are ignored.
func Parse(b []byte) (p Packet, err error) {
	if p.Src, p.Dst, err = Addresses(b); err != nil {
		return p, err
	}
	var rest []byte
	if b[0]>>4 == 4 {
		rest, err = p.header4(b)
	} else {
		rest, err = p.header6(b)
	}
	if err != nil || p.Later {
		return p, err
	}
	if p.Fragment {
		p.reach += transportSize(p.Proto)
	}
	return p, p.transport(rest)
}

// transportSize is how much of a transport is read, in bytes.
func transportSize(proto uint8) uint16 {
	switch proto {
	case protoTCP:
		return 20
	case protoUDP, protoSCTP, protoICMP, protoICMPv6:
		return 8
	}
	return 0
}

// header4 reads what RFC 791 section 3.1 describes.
func (p *Packet) header4(b []byte) ([]byte, error) {
	size, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if size < 20 || total < size || total > len(b) {
		return nil, ErrMalformed
	}
	const more, offset = 0x2000, 0x1fff
	f := binary.BigEndian.Uint16(b[6:])
	p.Proto = b[9]
	p.Fragment, p.Later = f&(more|offset) != 0, f&offset != 0
	p.FragmentID, p.reach = uint32(binary.BigEndian.Uint16(b[4:])), f&offset*8
	return b[size:total], nil
}

// header6 reads the fixed header and walks along the extension headers.
func (p *Packet) header6(b []byte) ([]byte, error) {
	size := int(binary.BigEndian.Uint16(b[4:]))
	if 40+size > len(b) {
		return nil, ErrMalformed
	}
	return p.extensions(b[6], b[40:40+size])
}

// extensions walks along the headers between the fixed one and the transport's, and gives what follows them. In a later fragment it ends
// behind the fragment header, and Proto is whatever that fragment's sender wrote there.
func (p *Packet) extensions(next uint8, rest []byte) ([]byte, error) {
	fragmented := false
	for range maxExtensions {
		switch next {
		case extHopByHop, extRouting, extDestination:
			if len(rest) < 8 {
				return nil, ErrMalformed
			}
			n := 8 + int(rest[1])*8
			if n > len(rest) {
				return nil, ErrMalformed
			}
			next, rest = rest[0], rest[n:]
			if fragmented {
				p.reach += uint16(n)
			}
		case extFragment:
			if len(rest) < 8 || fragmented {
				return nil, ErrMalformed
			}
			fragmented = true
			const more, offset = 1, 0xfff8
			f := binary.BigEndian.Uint16(rest[2:])
			// One that is first and last at once stands alone (RFC 6946).
			p.Fragment, p.Later = f&(more|offset) != 0, f&offset != 0
			p.FragmentID, p.reach = binary.BigEndian.Uint32(rest[4:]), f&offset
			next, rest = rest[0], rest[8:]
			if p.Later {
				p.Proto = next
				return rest, nil
			}
		default:
			p.Proto = next
			return rest, nil
		}
	}
	return nil, ErrMalformed
}

// transport reads ports, or what stands for them.
func (p *Packet) transport(b []byte) error {
	if len(b) < int(transportSize(p.Proto)) {
		return ErrMalformed
	}
	switch p.Proto {
	case protoTCP:
		p.ports(b)
		p.tcpFlags = b[13]
	case protoUDP, protoSCTP:
		p.ports(b)
	case protoICMP, protoICMPv6:
		if (p.Proto == protoICMP) != p.Src.Is4() {
			return ErrMalformed
		}
		p.icmp(b)
	}
	return nil
}

func (p *Packet) ports(b []byte) {
	p.SrcPort, p.DstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
}

// icmp tells echoes (RFC 792, RFC 4443 section 4) and errors from the rest.
func (p *Packet) icmp(b []byte) {
	request, reply := uint8(8), uint8(0)
	if p.Proto == protoICMPv6 {
		request, reply = 128, 129
	}
	switch kind := b[0]; {
	case kind == request, kind == reply:
		if p.echo = echoRequest; kind == reply {
			p.echo = echoReply
		}
		p.SrcPort = binary.BigEndian.Uint16(b[4:])
		p.DstPort = p.SrcPort
	case p.Proto == protoICMP && (kind == 3 || kind == 11 || kind == 12), p.Proto == protoICMPv6 && kind < 128:
		p.icmpError, p.payload = true, b[8:]
	default:
		p.single = true
	}
}

// quoted reads the beginning of a packet as an ICMP error quotes it: it may be cut anywhere behind the ports. A later fragment has none.
func quoted(b []byte) (p Packet, err error) {
	if p.Src, p.Dst, err = Addresses(b); err != nil {
		return p, err
	}
	var rest []byte
	if b[0]>>4 == 4 {
		size := int(b[0]&15) * 4
		if size < 20 || size > len(b) {
			return p, ErrMalformed
		}
		p.Proto, rest = b[9], b[size:]
		p.Later = binary.BigEndian.Uint16(b[6:])&0x1fff != 0
	} else if rest, err = p.extensions(b[6], b[40:]); err != nil {
		return p, err
	}
	if p.Later {
		return p, nil
	}
	if len(rest) < 8 {
		return p, ErrMalformed
	}
	switch p.Proto {
	case protoTCP, protoUDP, protoSCTP:
		p.ports(rest)
	case protoICMP, protoICMPv6:
		p.icmp(rest)
		if p.icmpError {
			return p, ErrMalformed // RFC 1122 section 3.2.2: there are no errors about errors
		}
	}
	return p, nil
}
