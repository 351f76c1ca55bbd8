// Package natpmp writes the requests of NAT-PMP (RFC 6886) and reads its responses. AddressRequest and MapRequest make datagrams for the
// gateway's port Port; Parse reads what comes back, which is hostile until then.
package natpmp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

const (
	// Port is the gateway's (RFC 6886 section 3), the same as PCP's.
	Port = 5351
	// AnnouncePort is where hosts hear of a new external address or a restart, sent to 224.0.0.1 (section 3.2.1).
	AnnouncePort = 5350
	// Version is the first byte of every datagram.
	Version = 0

	opAddress  = 0
	opMapUDP   = 1
	response   = 0x80
	headerSize = 8
	// maxSize is far above any response; PCP's limit is the same (RFC 6887 section 7).
	maxSize = 1100
)

// Result says what became of a request (RFC 6886 section 3.5).
type Result uint16

// The results.
const (
	Success Result = iota
	UnsupportedVersion
	NotAuthorized
	NetworkFailure
	OutOfResources
	UnsupportedOpcode
)

// Op is what a Response answers.
type Op uint8

// The kinds of response.
const (
	Address Op = iota
	MapUDP
)

// Response is the gateway's word.
type Response struct {
	Op     Op
	Result Result
	// Epoch is how long the gateway has kept its table, in seconds. It starts again when the table was lost.
	Epoch uint32
	// External is the gateway's address outside; Address only, zero in a refusal.
	External netip.Addr
	// Internal and Mapped are the ports inside and outside, Life how long the mapping lasts; MapUDP only, zero in a refusal.
	Internal, Mapped uint16
	Life             time.Duration
}

// ErrFormat says that a datagram is no response of NAT-PMP.
var ErrFormat = errors.New("not a NAT-PMP response")

// AddressRequest asks for the external address.
func AddressRequest() []byte { return []byte{Version, opAddress} }

// MapRequest asks for a mapping of UDP to the internal port of the sender for life, rounded to seconds, preferably of port external. A life of
// 0, with external 0, deletes (RFC 6886 section 3.4).
func MapRequest(internal, external uint16, life time.Duration) []byte {
	b := make([]byte, 12)
	b[1] = opMapUDP
	binary.BigEndian.PutUint16(b[4:], internal)
	binary.BigEndian.PutUint16(b[6:], external)
	binary.BigEndian.PutUint32(b[8:], uint32(life/time.Second))
	return b
}

// Parse reads a response. A refusal may be cut short after its header, as gateways do that were asked in PCP.
func Parse(b []byte) (Response, error) {
	if len(b) < headerSize || len(b) > maxSize || b[0] != Version || b[1]&response == 0 {
		return Response{}, ErrFormat
	}
	r := Response{Result: Result(binary.BigEndian.Uint16(b[2:])), Epoch: binary.BigEndian.Uint32(b[4:])}
	want := 0
	switch b[1] &^ response {
	case opAddress:
		r.Op, want = Address, 12
	case opMapUDP:
		r.Op, want = MapUDP, 16
	default:
		return Response{}, fmt.Errorf("%w: opcode %d", ErrFormat, b[1])
	}
	if r.Result != Success {
		return r, nil
	}
	if len(b) != want {
		return Response{}, fmt.Errorf("%w: %d bytes with opcode %d", ErrFormat, len(b), b[1])
	}
	if r.Op == Address {
		r.External = netip.AddrFrom4([4]byte(b[8:12]))
		return r, nil
	}
	r.Internal, r.Mapped = binary.BigEndian.Uint16(b[8:]), binary.BigEndian.Uint16(b[10:])
	r.Life = time.Duration(binary.BigEndian.Uint32(b[12:])) * time.Second
	return r, nil
}
