package tundev

import "encoding/binary"

// run remembers the last packet of a batch that was let through. Streams come in runs of packets of one flow, and within a batch, which is
// judged at one moment by one map, what holds for one of them holds for the next.
type run struct {
	peer *peer
	flow [36]byte // addresses and ports as they stand in the header; IPv4 uses the first 12
	kind uint8    // version, in the upper half, and kindTCP or kindUDP; 0: nothing is remembered
}

const (
	protoUDP      = 17
	flagsOfTCP    = 13              // where they are in its header
	closesOrOpens = 1 | flagSYN | 4 // FIN, SYN, RST
	kindTCP       = 1
	kindUDP       = 2
)

// flowOf gives the bytes that make the flow of a packet, for plain TCP and UDP in whole packets; nil for everything else, and for what opens
// or closes a connection.
func flowOf(b []byte) (flow []byte, kind uint8) {
	var proto byte
	var transport int
	switch {
	case len(b) >= header4+8 && b[0] == 0x45 && b[6]&^dontFragment == 0 && b[7] == 0 && int(binary.BigEndian.Uint16(b[2:])) == len(b):
		proto, transport, flow = b[9], header4, b[12:header4+4]
	case len(b) >= header6+8 && b[0]>>4 == 6 && int(binary.BigEndian.Uint16(b[4:]))+header6 == len(b):
		proto, transport, flow = b[6], header6, b[8:header6+4]
	default:
		return nil, 0
	}
	switch proto {
	case protoTCP:
		if len(b) < transport+20 || b[transport+flagsOfTCP]&closesOrOpens != 0 {
			return nil, 0
		}
		return flow, b[0]&0xf0 | kindTCP
	case protoUDP:
		return flow, b[0]&0xf0 | kindUDP
	}
	return nil, 0
}

// goesOn reports whether b belongs to the flow of the packet before it.
func (r *run) goesOn(b []byte) bool {
	if r.kind == 0 {
		return false
	}
	flow, kind := flowOf(b)
	return kind == r.kind && string(flow) == string(r.flow[:len(flow)])
}

// remember takes a packet that was let through, to or from a peer.
func (r *run) remember(b []byte, p *peer) {
	flow, kind := flowOf(b)
	r.peer, r.kind = p, kind
	copy(r.flow[:], flow)
}
