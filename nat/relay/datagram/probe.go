package datagram

import (
	"encoding/binary"
	"fmt"
)

// Cookie shows that its bearer receives at the address for which the relay made it.
type Cookie [8]byte

// Probe is the payload of a Ping or Pong. A Pong is as long as its Ping, so that a relay never sends more than it got, and so that a long
// Ping which is answered shows that packets of its length pass both ways.
type Probe struct {
	// ID is the sender's; a Pong returns it.
	ID uint64
	// Using says, in a Ping, that the device sends over UDP and wants to receive over UDP.
	Using bool
	// Moved says, in a Pong, that the relay does not take the source address for the device's yet: repeat the Ping with this cookie.
	Moved  bool
	Cookie Cookie
}

// ProbeSize is the shortest payload of a Ping or Pong, in bytes. What follows is padding.
const ProbeSize = 17

const (
	flagUsing = 1 << iota
	flagMoved
)

// Append writes the payload at the end of b, padded to size bytes.
func (p Probe) Append(b []byte, size int) []byte {
	b = binary.BigEndian.AppendUint64(b, p.ID)
	var flags byte
	if p.Using {
		flags |= flagUsing
	}
	if p.Moved {
		flags |= flagMoved
	}
	b = append(append(b, flags), p.Cookie[:]...)
	return append(b, make([]byte, max(size-ProbeSize, 0))...)
}

// ParseProbe reads the payload of a Ping or Pong.
func ParseProbe(b []byte) (Probe, error) {
	if len(b) < ProbeSize {
		return Probe{}, fmt.Errorf("%w: probe of %d bytes", ErrFormat, len(b))
	}
	return Probe{
		ID: binary.BigEndian.Uint64(b), Using: b[8]&flagUsing != 0, Moved: b[8]&flagMoved != 0, Cookie: Cookie(b[9:ProbeSize]),
	}, nil
}
