package tundev

import (
	"encoding/binary"
	"sync"
	"time"

	"warren/internal/ipproto"
	"warren/proto/key"
)

// leastMTU is what every host that speaks IPv6 may count on (RFC 8200 section 5): nobody is told of less. Longer packets than the path carries
// then take the relay, below.
const leastMTU = 1280

// IP and ICMP, as far as answers about a packet's length need them.
const (
	protoICMP, protoTCP, protoICMPv6 = ipproto.ICMP, ipproto.TCP, ipproto.ICMPv6
	header4, header6, headerICMP     = 20, 40, 8
	icmpUnreachable, codeFragment    = 3, 4 // RFC 1191 section 4
	icmpv6TooBig                     = 2    // RFC 4443 section 3.2
	quote4                           = 548  // RFC 1812 section 4.3.2.3: an error has 576 bytes at most
	quote6                           = leastMTU - header6 - headerICMP
	dontFragment                     = 0x40
	optionMSS, sizeMSS               = 2, 4 // RFC 9293 section 3.7.1
	flagSYN                          = 2
)

// Answers about too long packets are few: each host remembers what it was told for minutes.
const (
	answersPerSecond = 200
	answersBurst     = 50
	writeHeadroom    = 16 // what a TUN device puts before a packet
)

// SetMTU says what the largest packet for a peer is, in bytes; 0: the interface's MTU holds. Hosts hear of longer packets by ICMP, and
// TCP connections that begin are held to it in both directions.
func (d *Device) SetMTU(k key.NodePublic, mtu int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.peers[k.Raw()]; p != nil {
		p.mtu.Store(int32(mtu))
	}
}

// fits reports whether a packet may go out on a path that carries mtu bytes. To a packet that may not be fragmented the answer is ICMP, as from
// a router.
func (d *Device) fits(b []byte, mtu int) bool {
	mtu = max(mtu, leastMTU)
	if len(b) <= mtu {
		if clampMSS(b, mtu) {
			d.counters.clamped.Add(1)
		}
		return true
	}
	if b[0]>>4 == 4 && b[6]&dontFragment == 0 {
		return true // a relay carries it
	}
	d.counters.tooBig.Add(1)
	if d.tooBig.allow(time.Now(), answersPerSecond, answersBurst) {
		d.answer(tooBig(b, mtu))
	}
	return false
}

// answer writes a packet of our own to the host. A device that does not take it is about to be closed.
func (d *Device) answer(m []byte) {
	if m != nil {
		_, _ = d.Device.Write([][]byte{m}, writeHeadroom)
	}
}

// limiter limits how often something happens.
type limiter struct {
	mu     sync.Mutex
	tokens float64
	at     time.Time
}

// allow takes a token, of which so many come in a second, and no more than a burst are kept.
func (l *limiter) allow(now time.Time, perSecond, burst float64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.at.IsZero() {
		l.tokens, l.at = burst, now
	}
	l.tokens = min(burst, l.tokens+now.Sub(l.at).Seconds()*perSecond)
	l.at = now
	if l.tokens < 1 {
		return false
	}
	l.tokens--
	return true
}

// tooBig makes "Fragmentation Needed" or "Packet Too Big" about b, with room for a device's header before it; nil if b is an error itself, to
// which there is no answer (RFC 1122 section 3.2.2). It comes from where b was to go.
func tooBig(b []byte, mtu int) []byte {
	if b[0]>>4 == 4 {
		return tooBig4(b, mtu)
	}
	return tooBig6(b, mtu)
}

func tooBig4(b []byte, mtu int) []byte {
	if ihl := int(b[0]&15) * 4; b[9] == protoICMP && len(b) > ihl && b[ihl] != 8 && b[ihl] != 0 {
		return nil
	}
	quote := b[:min(len(b), quote4)]
	m := make([]byte, writeHeadroom+header4+headerICMP+len(quote))
	p := m[writeHeadroom:]
	p[0] = 0x45
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[8], p[9] = 64, protoICMP
	copy(p[12:16], b[16:20])
	copy(p[16:20], b[12:16])
	binary.BigEndian.PutUint16(p[10:], checksum(0, p[:header4]))
	icmp := p[header4:]
	icmp[0], icmp[1] = icmpUnreachable, codeFragment
	binary.BigEndian.PutUint16(icmp[6:], uint16(mtu))
	copy(icmp[headerICMP:], quote)
	binary.BigEndian.PutUint16(icmp[2:], checksum(0, icmp))
	return m
}

func tooBig6(b []byte, mtu int) []byte {
	if b[6] == protoICMPv6 && len(b) > header6 && b[header6] < 128 {
		return nil
	}
	quote := b[:min(len(b), quote6)]
	m := make([]byte, writeHeadroom+header6+headerICMP+len(quote))
	p := m[writeHeadroom:]
	p[0] = 0x60
	binary.BigEndian.PutUint16(p[4:], uint16(headerICMP+len(quote)))
	p[6], p[7] = protoICMPv6, 64
	copy(p[8:24], b[24:40])
	copy(p[24:40], b[8:24])
	icmp := p[header6:]
	icmp[0] = icmpv6TooBig
	binary.BigEndian.PutUint32(icmp[4:], uint32(mtu))
	copy(icmp[headerICMP:], quote)
	pseudo := sum(0, p[8:40]) + uint64(len(icmp)) + protoICMPv6 // RFC 8200 section 8.1
	binary.BigEndian.PutUint16(icmp[2:], checksum(pseudo, icmp))
	return m
}

// sum adds words up in ones' complement, not yet folded (RFC 1071).
func sum(s uint64, b []byte) uint64 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint64(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	return s
}

func checksum(s uint64, b []byte) uint16 {
	s = sum(s, b)
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// clampMSS lowers the maximum segment size of a TCP SYN to what mtu leaves, and reports whether it did.
func clampMSS(b []byte, mtu int) bool {
	tcp, headers := tcpOf(b)
	if tcp == nil || tcp[13]&flagSYN == 0 {
		return false
	}
	size := int(tcp[12]>>4) * 4
	if size < 20 || size > len(tcp) {
		return false
	}
	for i := 20; i+1 < size && tcp[i] != 0; {
		if tcp[i] == 1 { // no operation
			i++
			continue
		}
		n := int(tcp[i+1])
		if n < 2 || i+n > size {
			return false
		}
		if tcp[i] == optionMSS && n == sizeMSS {
			return lower(tcp, i+2, mtu-headers-20)
		}
		i += n
	}
	return false
}

// lower changes the word at a place of a TCP header if it is larger, and the checksum with it (RFC 1624).
func lower(tcp []byte, at, most int) bool {
	old := binary.BigEndian.Uint16(tcp[at:])
	if int(old) <= most || most <= 0 {
		return false
	}
	binary.BigEndian.PutUint16(tcp[at:], uint16(most))
	if at%2 != 0 { // an option may begin anywhere: the two bytes then count in each other's place
		old, most = old<<8|old>>8, int(uint16(most)<<8|uint16(most)>>8)
	}
	s := uint64(^binary.BigEndian.Uint16(tcp[16:])) + uint64(^old) + uint64(most)
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	binary.BigEndian.PutUint16(tcp[16:], ^uint16(s))
	return true
}

// tcpOf gives the TCP header of a packet that is not a later fragment, and how long the IP header is; nil for others.
func tcpOf(b []byte) (tcp []byte, headers int) {
	switch {
	case b[0]>>4 == 4 && len(b) >= header4 && b[9] == protoTCP && binary.BigEndian.Uint16(b[6:])&0x1fff == 0:
		headers = int(b[0]&15) * 4
	case b[0]>>4 == 6 && len(b) >= header6 && b[6] == protoTCP:
		headers = header6
	default:
		return nil, 0
	}
	if headers < header4 || len(b) < headers+20 {
		return nil, 0
	}
	return b[headers:], headers
}
