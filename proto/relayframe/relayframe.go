// Package relayframe is the framing of a relay connection after its handshake. One WebSocket binary message carries one or
// more frames, so that a batch of packets costs one system call:
//
//	 0                   1                   2                   3
//	+---------------+---------------+---------------+---------------+
//	|         length (16 bits)      |   type (8)    |
//	+---------------+---------------+---------------+
//	|  device key of the other side (32 bytes; absent in Ping, Pong, Stop) ...
//	+---------------+---------------+---------------+---------------+
//	|  payload (length bytes)                                      ...
//	+---------------+---------------+---------------+---------------+
//
// A device writes Data and Signal with the key of the device that is to get them; the relay replaces it by the sender's.
// Append writes a frame, Next reads one.
package relayframe

import (
	"encoding/binary"
	"errors"
	"fmt"

	"warren/proto/key"
)

// Type is the kind of a frame.
type Type uint8

// The types of frames. Others are errors: both sides agree on the version in the WebSocket subprotocol.
const (
	Data     Type = 1 // a WireGuard message or a check, as it would go over UDP
	Signal   Type = 2 // a sealed Signal
	Ping     Type = 3 // payload of 8 bytes, to be returned
	Pong     Type = 4
	PeerGone Type = 5 // from the relay: the device with this key is not connected; no payload
	// Bind gives a peer a channel of the session's datagrams, in both directions: from the device, payload of 2 bytes. Bound is the
	// relay's answer, with the same payload, after which the channel may be used.
	Bind  Type = 6
	Bound Type = 7
	// Stop is from the device: no more datagrams until its next ping says that it uses UDP; no payload.
	Stop Type = 8
)

// Subprotocol is the WebSocket subprotocol (RFC 6455 section 1.9) of this version.
const Subprotocol = "warren-relay-1"

// Path is where the relay is served.
const Path = "/relay"

const (
	// MaxPayload is the longest payload of a frame in bytes.
	MaxPayload = 65535
	// MaxMessage bounds a WebSocket message in bytes.
	MaxMessage = 1 << 18
	headerSize = 3
)

// Overhead is how many bytes a frame with a key adds to its payload.
const Overhead = headerSize + key.Size

// Errors of Next. A connection on which one occurs is closed.
var (
	ErrShort = errors.New("relay frame is cut short")
	ErrType  = errors.New("unknown type of relay frame")
)

// Frame is one frame. Payload aliases the buffer it was read from.
type Frame struct {
	Type    Type
	Peer    [key.Size]byte
	Payload []byte
}

func (t Type) hasKey() bool { return t != Ping && t != Pong && t != Stop }

// Append writes f at the end of b. Payload must not be longer than MaxPayload.
func Append(b []byte, f Frame) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(f.Payload)))
	b = append(b, byte(f.Type))
	if f.Type.hasKey() {
		b = append(b, f.Peer[:]...)
	}
	return append(b, f.Payload...)
}

// Next reads the first frame of b and gives what follows it.
func Next(b []byte) (f Frame, rest []byte, err error) {
	if len(b) < headerSize {
		return Frame{}, nil, fmt.Errorf("%w: %d bytes", ErrShort, len(b))
	}
	n := int(binary.BigEndian.Uint16(b))
	f.Type = Type(b[2])
	if f.Type < Data || f.Type > Stop {
		return Frame{}, nil, fmt.Errorf("%w: %d", ErrType, b[2])
	}
	b = b[headerSize:]
	if f.Type.hasKey() {
		if len(b) < key.Size {
			return Frame{}, nil, fmt.Errorf("%w: %d bytes of a key", ErrShort, len(b))
		}
		f.Peer = [key.Size]byte(b)
		b = b[key.Size:]
	}
	if len(b) < n {
		return Frame{}, nil, fmt.Errorf("%w: %d of %d bytes of payload", ErrShort, len(b), n)
	}
	f.Payload = b[:n:n]
	return f, b[n:], nil
}
