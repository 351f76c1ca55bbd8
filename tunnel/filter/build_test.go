package filter

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	pb "warren/proto/warrenv1"
)

// shape is a packet as a test writes it down.
type shape struct {
	src, dst     string
	proto        uint8
	sport, dport uint16
	flags        uint8 // TCP's
	kind         uint8 // ICMP's type
	echoID       uint16
	quotes       []byte  // what an ICMP error reports on
	extensions   []uint8 // IPv6, before a fragment header
	inner        []uint8 // IPv6, behind it
	fragment     bool    // writes what follows
	offset       uint16  // in units of 8 bytes
	more         bool
	id           uint32
	payload      string
}

// bytes writes the packet. A later fragment has its payload only.
func (s shape) bytes() []byte {
	src, dst := netip.MustParseAddr(s.src), netip.MustParseAddr(s.dst)
	body := []byte(s.payload)
	if s.offset == 0 {
		body = append(s.transport(), body...)
	}
	if src.Is4() {
		return s.header4(src, dst, body)
	}
	return s.header6(src, dst, body)
}

func (s shape) transport() []byte {
	switch s.proto {
	case protoTCP:
		b := make([]byte, 20)
		binary.BigEndian.PutUint16(b, s.sport)
		binary.BigEndian.PutUint16(b[2:], s.dport)
		b[12], b[13] = 5<<4, s.flags
		return b
	case protoUDP, protoSCTP:
		b := make([]byte, 12)
		binary.BigEndian.PutUint16(b, s.sport)
		binary.BigEndian.PutUint16(b[2:], s.dport)
		return b
	case protoICMP, protoICMPv6:
		b := make([]byte, 8)
		b[0] = s.kind
		binary.BigEndian.PutUint16(b[4:], s.echoID)
		return append(b, s.quotes...)
	}
	return nil
}

func (s shape) header4(src, dst netip.Addr, body []byte) []byte {
	b := make([]byte, 20, 20+len(body))
	b[0], b[8], b[9] = 0x45, 64, s.proto
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(body)))
	binary.BigEndian.PutUint16(b[4:], uint16(s.id))
	if s.more {
		binary.BigEndian.PutUint16(b[6:], s.offset|0x2000)
	} else {
		binary.BigEndian.PutUint16(b[6:], s.offset)
	}
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	return append(b, body...)
}

// header6 writes the extension headers from the back to the front.
func (s shape) header6(src, dst netip.Addr, body []byte) []byte {
	next := s.proto
	put := func(kind uint8, size int) []byte {
		h := make([]byte, size, size+len(body))
		h[0], h[1] = next, uint8(size/8-1)
		body, next = append(h, body...), kind
		return body
	}
	for i := len(s.inner) - 1; i >= 0; i-- {
		if s.offset == 0 {
			put(s.inner[i], 16)
		} else {
			next = s.inner[i]
		}
	}
	if s.fragment {
		h := put(extFragment, 8)
		h[1] = 0
		binary.BigEndian.PutUint16(h[2:], s.offset<<3)
		if s.more {
			h[3] |= 1
		}
		binary.BigEndian.PutUint32(h[4:], s.id)
	}
	for i := len(s.extensions) - 1; i >= 0; i-- {
		put(s.extensions[i], 8)
	}
	b := make([]byte, 40, 40+len(body))
	b[0], b[6], b[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, body...)
}

func tcp(src, dst string, sport, dport uint16, flags uint8) shape {
	return shape{src: src, dst: dst, proto: protoTCP, sport: sport, dport: dport, flags: flags}
}

func udp(src, dst string, sport, dport uint16) shape {
	return shape{src: src, dst: dst, proto: protoUDP, sport: sport, dport: dport}
}

// icmp picks the protocol by the address family.
func icmp(src, dst string, kind uint8, id uint16) shape {
	s := shape{src: src, dst: dst, proto: protoICMP, kind: kind, echoID: id}
	if strings.Contains(src, ":") {
		s.proto = protoICMPv6
	}
	return s
}

// report is an ICMP error about a packet: destination unreachable.
func report(src, dst string, quotes []byte) shape {
	s := icmp(src, dst, 3, 0)
	if s.proto == protoICMPv6 {
		s.kind = 1
	}
	s.quotes = quotes
	return s
}

// grants reads lines "SOURCES -> DESTINATIONS FLOWS", lists joined by commas, and flows as any, PROTO or PROTO:FIRST-LAST.
func grants(lines ...string) (out []*pb.Grant) {
	for i, line := range lines {
		var src, dst, flows string
		if _, err := fmt.Sscanf(line, "%s -> %s %s", &src, &dst, &flows); err != nil {
			panic(fmt.Sprintf("%q: %v", line, err))
		}
		g := &pb.Grant{Id: fmt.Sprint(i), Sources: prefixes(src), Destinations: prefixes(dst)}
		for f := range strings.SplitSeq(flows, ",") {
			m := new(pb.Flow)
			if f != "any" {
				proto, ports, _ := strings.Cut(f, ":")
				fmt.Sscan(proto, &m.Protocol)
				fmt.Sscanf(ports, "%d-%d", &m.FirstPort, &m.LastPort)
			}
			g.Flows = append(g.Flows, m)
		}
		out = append(out, g)
	}
	return out
}

func prefixes(list string) (out []*pb.Prefix) {
	for s := range strings.SplitSeq(list, ",") {
		if !strings.Contains(s, "/") {
			s += map[bool]string{true: "/128", false: "/32"}[strings.Contains(s, ":")]
		}
		p := netip.MustParsePrefix(s)
		out = append(out, &pb.Prefix{Address: p.Addr().AsSlice(), Bits: uint32(p.Bits())})
	}
	return out
}

func mustCompile(lines ...string) *Rules {
	r, err := Compile(grants(lines...))
	if err != nil {
		panic(err)
	}
	return r
}
