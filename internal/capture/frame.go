package capture

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Frame is what is looked at of a packet. Of what is neither IPv4 nor IPv6 there is only the kind.
type Frame struct {
	Kind     uint16 // ETH_P_*
	From, To netip.Addr
	Protocol byte   // behind a fragment header, if there is one
	Hops     byte   // time to live
	Source   uint16 // port, or type and code of ICMP
	Port     uint16 // destination; ICMP has none
	Segment  uint16 // maximum segment size, where a TCP connection is opened with that option first
	Later    bool   // a fragment but the first, which has no ports
}

func (f Frame) String() string {
	return fmt.Sprintf("%#04x %s:%d -> %s:%d, protocol %d", f.Kind, f.From, f.Source, f.To, f.Port, f.Protocol)
}

// Protocol numbers and offsets (RFC 791, RFC 8200, RFC 9293).
const (
	icmp           = 1
	tcp            = 6
	icmpv6         = 58
	fragmentHeader = 44
	syn            = 2
	optionMSS      = 2
)

// Parse reads a packet that begins with its IP header. What is cut off is left zero.
func Parse(b []byte) (f Frame) {
	var rest []byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		f.From, _ = netip.AddrFromSlice(b[12:16])
		f.To, _ = netip.AddrFromSlice(b[16:20])
		f.Protocol, f.Hops, rest = b[9], b[8], b[min(len(b), int(b[0]&15)*4):]
		f.Later = binary.BigEndian.Uint16(b[6:])&0x1fff > 0
	case len(b) >= 40 && b[0]>>4 == 6:
		f.From, _ = netip.AddrFromSlice(b[8:24])
		f.To, _ = netip.AddrFromSlice(b[24:40])
		f.Protocol, f.Hops, rest = b[6], b[7], b[40:]
		if f.Protocol == fragmentHeader && len(rest) >= 8 {
			f.Protocol, f.Later, rest = rest[0], binary.BigEndian.Uint16(rest[2:])>>3 > 0, rest[8:]
		}
	}
	if len(rest) < 4 || f.Later {
		return f
	}
	f.Source = binary.BigEndian.Uint16(rest)
	if f.Protocol == icmp || f.Protocol == icmpv6 {
		return f
	}
	f.Port = binary.BigEndian.Uint16(rest[2:])
	if f.Protocol == tcp && len(rest) >= 24 && rest[13]&syn != 0 && rest[20] == optionMSS { // Linux puts it first
		f.Segment = binary.BigEndian.Uint16(rest[22:])
	}
	return f
}
