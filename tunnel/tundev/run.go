package tundev

import (
	"encoding/binary"

	"warren/internal/ipproto"
	"warren/tunnel/filter"
)

// run remembers the last packet of a batch that was let through. Streams come in runs of packets of one flow, and within a batch, which is
// judged at one moment by one map, what holds for one of them holds for the next. So each run is judged once and counted once.
type run struct {
	direction filter.Direction
	peer      *peer
	flow      *filter.Flow // nil: nobody counts it
	ends      [36]byte     // addresses and ports as they stand in the header; IPv4 uses the first 12
	kind      uint8        // version, in the upper half, and kindTCP or kindUDP; 0: nothing is remembered

	packets, bytes int // of this run, besides its first packet
	repeated       int // packets of all runs of the batch, besides their first ones
}

const (
	protoUDP      = ipproto.UDP
	flagsOfTCP    = 13              // where they are in its header
	closesOrOpens = 1 | flagSYN | 4 // FIN, SYN, RST
	kindTCP       = 1
	kindUDP       = 2
)

// flowOf gives the bytes that make the flow of a packet, its ends, for plain TCP and UDP in whole packets; nil for everything else, and for what opens
// or closes a connection.
func flowOf(b []byte) (ends []byte, kind uint8) {
	var proto byte
	var transport int
	switch {
	case len(b) >= header4+8 && b[0] == 0x45 && b[6]&^dontFragment == 0 && b[7] == 0 && int(binary.BigEndian.Uint16(b[2:])) == len(b):
		proto, transport, ends = b[9], header4, b[12:header4+4]
	case len(b) >= header6+8 && b[0]>>4 == 6 && int(binary.BigEndian.Uint16(b[4:]))+header6 == len(b):
		proto, transport, ends = b[6], header6, b[8:header6+4]
	default:
		return nil, 0
	}
	switch proto {
	case protoTCP:
		if len(b) < transport+20 || b[transport+flagsOfTCP]&closesOrOpens != 0 {
			return nil, 0
		}
		return ends, b[0]&0xf0 | kindTCP
	case protoUDP:
		return ends, b[0]&0xf0 | kindUDP
	}
	return nil, 0
}

// goesOn reports whether b belongs to the flow of the packet before it, and counts it if so.
func (r *run) goesOn(b []byte) bool {
	if r.kind == 0 {
		return false
	}
	ends, kind := flowOf(b)
	if kind != r.kind || string(ends) != string(r.ends[:len(ends)]) {
		return false
	}
	r.packets++
	r.bytes += len(b)
	return true
}

// begin takes a packet that was judged and let through, to or from a peer.
func (r *run) begin(b []byte, p *peer, f *filter.Flow) {
	r.settle()
	ends, kind := flowOf(b)
	r.peer, r.flow, r.kind = p, f, kind
	copy(r.ends[:], ends)
}

// settle puts what was counted on the flow's account.
func (r *run) settle() {
	if r.packets > 0 && r.flow != nil {
		r.flow.Add(r.direction, r.packets, r.bytes)
	}
	r.repeated += r.packets
	r.packets, r.bytes = 0, 0
}

// end is called behind the batch's last packet.
func (r *run) end(f *filter.Filter) {
	if r.settle(); r.repeated > 0 {
		f.Passed(r.direction, r.repeated)
	}
}
