package natbox

import (
	"encoding/binary"
	"net/netip"

	"warren/internal/sim/natmodel"
)

const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
	fragmentV6  = 44 // IPv6's fragment header
)

// packet is where the parts of an IP packet are.
type packet struct {
	b          []byte // from the IP header on
	src, dst   int    // where the addresses are
	size       int    // of an address
	l4         int
	proto      byte
	id         uint32 // of the fragments of a packet
	first, all bool   // the first fragment, or no fragment at all
}

// parse finds the parts. minL4 is how much of the inner header there must be: errors quote 8 bytes only.
func parse(b []byte, minL4 int) (p packet, ok bool) {
	if len(b) < 20 {
		return p, false
	}
	switch b[0] >> 4 {
	case 4:
		p, ok = parse4(b)
	case 6:
		p, ok = parse6(b)
	}
	if !ok || !p.first {
		return p, ok
	}
	need := map[byte]int{protoICMP: 8, protoTCP: 20, protoUDP: 8, protoICMPv6: 8}[p.proto]
	return p, need > 0 && len(p.b) >= p.l4+min(need, minL4)
}

func parse4(b []byte) (packet, bool) {
	length, flags := int(b[0]&15)*4, binary.BigEndian.Uint16(b[6:])
	p := packet{b: b, src: 12, dst: 16, size: 4, l4: length, proto: b[9], id: uint32(binary.BigEndian.Uint16(b[4:])), first: flags&0x1fff == 0}
	p.all = p.first && flags&0x2000 == 0
	return p, length >= 20 && len(b) >= length
}

func parse6(b []byte) (packet, bool) {
	if len(b) < 40 {
		return packet{}, false
	}
	p := packet{b: b, src: 8, dst: 24, size: 16, l4: 40, proto: b[6], first: true, all: true}
	if p.proto != fragmentV6 {
		return p, true
	}
	if len(b) < 48 {
		return packet{}, false
	}
	p.proto, p.l4, p.id, p.all = b[40], 48, binary.BigEndian.Uint32(b[44:]), false
	p.first = binary.BigEndian.Uint16(b[42:])&0xfff8 == 0
	return p, true
}

func (p *packet) addr(at int) netip.Addr {
	a, _ := netip.AddrFromSlice(p.b[at : at+p.size])
	return a
}

func (p *packet) port(at int) uint16 { return binary.BigEndian.Uint16(p.b[at:]) }

// query and failure tell ICMP messages apart: queries are translated by their identifier, errors by what they quote.
func (p *packet) query() bool {
	t := p.b[p.l4]
	return p.proto == protoICMP && (t == 0 || t == 8) || p.proto == protoICMPv6 && (t == 128 || t == 129)
}

func (p *packet) failure() bool {
	t := p.b[p.l4]
	return p.proto == protoICMP && (t == 3 || t == 11 || t == 12) || p.proto == protoICMPv6 && t >= 1 && t <= 4
}

// endpoints gives what the model wants to know. An ICMP query's identifier counts as the port of the end inside.
func (p *packet) endpoints(fromInside bool) natmodel.Packet {
	src, dst := netip.AddrPortFrom(p.addr(p.src), 0), netip.AddrPortFrom(p.addr(p.dst), 0)
	proto := natmodel.UDP
	switch p.proto {
	case protoTCP:
		proto = natmodel.TCP
	case protoICMP, protoICMPv6:
		proto = natmodel.ICMP
		id := p.port(p.l4 + 4)
		if fromInside {
			return natmodel.Packet{Proto: proto, Src: netip.AddrPortFrom(src.Addr(), id), Dst: dst}
		}
		return natmodel.Packet{Proto: proto, Src: src, Dst: netip.AddrPortFrom(dst.Addr(), id)}
	}
	return natmodel.Packet{
		Proto: proto, Src: netip.AddrPortFrom(src.Addr(), p.port(p.l4)), Dst: netip.AddrPortFrom(dst.Addr(), p.port(p.l4+2)),
	}
}

// setAddr puts another address in the place of one and mends the checksums.
func (p *packet) setAddr(at int, a netip.Addr) {
	next := a.AsSlice()
	old := append([]byte(nil), p.b[at:at+p.size]...)
	copy(p.b[at:], next)
	if p.size == 4 {
		mend(p.b[10:12], old, next)
	}
	if p.first && p.proto != protoICMP {
		p.mendInner(old, next)
	}
}

// setPort does the same for a port, or an ICMP query's identifier.
func (p *packet) setPort(at int, port uint16) {
	next := binary.BigEndian.AppendUint16(nil, port)
	old := append([]byte(nil), p.b[at:at+2]...)
	copy(p.b[at:], next)
	p.mendInner(old, next)
}

func (p *packet) mendInner(old, next []byte) {
	at := p.l4 + map[byte]int{protoICMP: 2, protoICMPv6: 2, protoTCP: 16, protoUDP: 6}[p.proto]
	if len(p.b) < at+2 {
		return // a quotation that ends before
	}
	field := p.b[at : at+2]
	if p.proto == protoUDP && field[0]|field[1] == 0 {
		return // the sender made none (RFC 768)
	}
	mend(field, old, next)
	if p.proto == protoUDP && field[0]|field[1] == 0 {
		field[0], field[1] = 0xff, 0xff
	}
}

// mend changes a checksum for bytes that were replaced (RFC 1624, equation 3).
func mend(field, old, next []byte) {
	sum := uint32(^binary.BigEndian.Uint16(field))
	for i := 0; i+1 < len(old); i += 2 {
		sum += uint32(^binary.BigEndian.Uint16(old[i:])) + uint32(binary.BigEndian.Uint16(next[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(field, ^uint16(sum))
}
