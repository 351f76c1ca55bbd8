// Package pcp writes MAP requests of the Port Control Protocol (RFC 6887) and reads its responses. Map.Request makes a datagram for the
// gateway's port Port; Parse reads what comes back, which is hostile until then.
package pcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

const (
	// Port is the server's (RFC 6887 section 19), the same as NAT-PMP's.
	Port = 5351
	// Version is the first byte of every datagram.
	Version = 2

	opAnnounce = 0
	opMap      = 1
	response   = 0x80
	udp        = 17
	headerSize = 24
	mapSize    = 36
	maxSize    = 1100 // section 7
)

// Result says what became of a request (RFC 6887 section 7.4).
type Result uint8

// The results that matter here.
const (
	Success               Result = 0
	UnsupportedVersion    Result = 1
	NotAuthorized         Result = 2
	UnsupportedOpcode     Result = 4
	NetworkFailure        Result = 7
	NoResources           Result = 8
	UnsupportedProtocol   Result = 9
	UserExceededQuota     Result = 10
	CannotProvideExternal Result = 11
	AddressMismatch       Result = 12
)

// Nonce ties a mapping to who made it (section 11.1): without it nobody can change or delete the mapping, or forge a response.
type Nonce [12]byte

// Map is what a MAP request asks for, and what its response grants. UDP only.
type Map struct {
	Nonce    Nonce
	Internal uint16
	// External is what is suggested, or granted. A suggestion may leave address or port zero.
	External netip.AddrPort
}

// Response is the server's word.
type Response struct {
	// Version is the server's. A refusal may have another than ours.
	Version uint8
	Result  Result
	// Announce says that the server tells of itself, unasked or not; else it is the response to a MAP request.
	Announce bool
	// Life is how long the mapping lasts; in a refusal how long that will stay so.
	Life time.Duration
	// Epoch is how long the server has kept its table, in seconds.
	Epoch uint32
	// Map is valid if HasMap: a refusal may come without.
	HasMap bool
	Map    Map
}

// ErrFormat says that a datagram is no response to a MAP request.
var ErrFormat = errors.New("not a PCP response")

// Request makes a request from client, the IPv4 address that the server sees it come from, for life, rounded to seconds; 0 deletes.
func (m Map) Request(client netip.Addr, life time.Duration) []byte {
	b := make([]byte, headerSize+mapSize)
	b[0], b[1] = Version, opMap
	binary.BigEndian.PutUint32(b[4:], uint32(life/time.Second))
	put16(b[8:], client)
	p := b[headerSize:]
	copy(p, m.Nonce[:])
	p[12] = udp
	binary.BigEndian.PutUint16(p[16:], m.Internal)
	binary.BigEndian.PutUint16(p[18:], m.External.Port())
	suggested := m.External.Addr()
	if !suggested.IsValid() {
		suggested = netip.IPv4Unspecified() // section 11.1: the family matters even when the address does not
	}
	put16(p[20:], suggested)
	return b
}

// put16 writes an address as PCP does: IPv4 as ::ffff:a.b.c.d.
func put16(b []byte, a netip.Addr) {
	long := a.As16()
	copy(b, long[:])
}

// Parse reads a response. Options behind it are not looked at.
func Parse(b []byte) (Response, error) {
	if len(b) < headerSize || len(b) > maxSize || len(b)%4 != 0 || b[0] == 0 || b[1]&response == 0 {
		return Response{}, ErrFormat
	}
	r := Response{
		Version: b[0], Result: Result(b[3]), Epoch: binary.BigEndian.Uint32(b[8:]),
		Life: time.Duration(binary.BigEndian.Uint32(b[4:])) * time.Second,
	}
	if r.Version != Version && r.Result != UnsupportedVersion {
		return Response{}, fmt.Errorf("%w: version %d", ErrFormat, r.Version)
	}
	switch b[1] &^ response {
	case opAnnounce:
		r.Announce = true
		return r, nil
	case opMap:
	default:
		return Response{}, fmt.Errorf("%w: opcode %d", ErrFormat, b[1])
	}
	switch p := b[headerSize:]; {
	case len(p) >= mapSize && p[12] == udp:
		r.HasMap = true
		copy(r.Map.Nonce[:], p)
		r.Map.Internal = binary.BigEndian.Uint16(p[16:])
		r.Map.External = netip.AddrPortFrom(netip.AddrFrom16([16]byte(p[20:36])).Unmap(), binary.BigEndian.Uint16(p[18:]))
	case len(p) >= mapSize:
		return Response{}, fmt.Errorf("%w: protocol %d", ErrFormat, p[12])
	case r.Result == Success:
		return Response{}, fmt.Errorf("%w: %d bytes", ErrFormat, len(b))
	}
	return r, nil
}
