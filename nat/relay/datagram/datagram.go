// Package datagram is the form of what a device and a relay send each other over UDP, once the device's authenticated WebSocket connection
// has given both a session and its keys. Sealer.Seal writes a datagram around a payload that is already in place, Opener.Open checks one and
// gives its payload; SessionOf tells which Opener.
//
//	 0                   1                   2                   3
//	+-------+-----------------------+-------------------------------+
//	| kind  |   channel (12 bits)   |        session, high 16       |
//	+-------+-------+---------------+-------------------------------+
//	| session, low  |           counter, low 24 bits                |
//	+---------------+-----------------------------------------------+
//	| payload ...                                                   |
//	+---------------------------------------------------------------+
//	| tag (12 bytes)                                                |
//	+---------------------------------------------------------------+
//
// The tag is AES-128-GCM's, with nothing encrypted: payloads are WireGuard's. Its nonce is the whole 64-bit counter, of which the header carries
// the end; each direction has a key of its own and never uses a counter twice. Header and tag are 20 bytes, so that a full packet of a tunnel
// with an MTU of 1420 still fits an IPv4 path of 1500.
//
// The additional data is the header, the payload's length in 2 bytes, and the payload; of a Data payload of more than 160 bytes, its first 80
// and its last 80 bytes. The tag is there so that a relay serves nobody but its devices, each datagram once, and so that a device hears from
// nobody but its relay; that the content is the peer's is WireGuard's to check, whose own tag the last bytes are. Who can change datagrams on
// their way can have one dropped at the receiver instead of at the relay, and nothing more. Handshakes and checks are covered whole. To cover
// full packets whole took half of all that a relay does.
//
// The kind's two upper bits are set, which STUN's are never (RFC 7983): both share a port.
package datagram

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/replay"
)

// Kind is what a datagram is for.
type Kind uint8

// The kinds of datagrams.
const (
	Data Kind = 0xC // payload of a peer, by channel
	Ping Kind = 0xD // from the device, see Probe
	Pong Kind = 0xE // the answer, see Probe
)

const (
	// HeaderSize and TagSize are what goes before and behind a payload, in bytes.
	HeaderSize = 8
	TagSize    = 12
	Overhead   = HeaderSize + TagSize
	// KeySize is a key's, in bytes.
	KeySize = 16
	// MaxSession and MaxChannel are the largest of each. Channel 0 is nobody's.
	MaxSession = 1<<24 - 1
	MaxChannel = 1<<12 - 1

	counterBits = 24
	// edge is how much of either end of a long Data payload the tag covers.
	edge = 80
)

// Errors of Opener.Open. Nothing is ever answered to a datagram that does not open.
var (
	ErrFormat = errors.New("not a relay datagram")
	ErrForged = errors.New("relay datagram does not verify")
	ErrReplay = errors.New("relay datagram came before")
)

// Looks tells whether b may be a datagram of this package rather than a STUN message.
func Looks(b []byte) bool { return len(b) > 0 && b[0]>>6 == 3 }

// SessionOf reads the session, which is not verified.
func SessionOf(b []byte) (uint32, error) {
	if len(b) < Overhead || !Looks(b) {
		return 0, fmt.Errorf("%w: %d bytes", ErrFormat, len(b))
	}
	return uint32(b[2])<<16 | uint32(b[3])<<8 | uint32(b[4]), nil
}

// Scratch is memory for one goroutine's calls, so that a datagram costs no allocation.
type Scratch struct {
	nonce   [12]byte
	covered []byte
}

// cover collects what the tag of a datagram covers; b is all before the tag.
func (s *Scratch) cover(b []byte) []byte {
	header, payload := b[:HeaderSize], b[HeaderSize:]
	s.covered = binary.BigEndian.AppendUint16(append(s.covered[:0], header...), uint16(len(payload)))
	if Kind(header[0]>>4) != Data || len(payload) <= 2*edge {
		s.covered = append(s.covered, payload...)
	} else {
		s.covered = append(append(s.covered, payload[:edge]...), payload[len(payload)-edge:]...)
	}
	return s.covered
}

func (s *Scratch) set(counter uint64) []byte {
	binary.BigEndian.PutUint64(s.nonce[4:], counter)
	return s.nonce[:]
}

func aead(key []byte) (cipher.AEAD, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("key of %d bytes, want %d", len(key), KeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithTagSize(block, TagSize)
}

// Sealer writes the datagrams of one direction. It may be used by many goroutines, each with its own Scratch.
type Sealer struct {
	aead    cipher.AEAD
	session uint32
	counter atomic.Uint64
}

// NewSealer makes the sealer of a session's direction.
func NewSealer(session uint32, key []byte) (*Sealer, error) {
	if session > MaxSession {
		return nil, fmt.Errorf("session %d is more than %d", session, MaxSession)
	}
	a, err := aead(key)
	return &Sealer{aead: a, session: session}, err
}

// Seal completes b, which has HeaderSize bytes of room, then the payload; the tag goes into its capacity where there is room.
func (s *Sealer) Seal(b []byte, kind Kind, channel uint16, scratch *Scratch) []byte {
	counter := s.counter.Add(1)
	binary.BigEndian.PutUint16(b, uint16(kind)<<12|channel&MaxChannel)
	binary.BigEndian.PutUint16(b[2:], uint16(s.session>>8))
	binary.BigEndian.PutUint32(b[4:], s.session<<counterBits|uint32(counter)&(1<<counterBits-1))
	return s.aead.Seal(b, scratch.set(counter), nil, scratch.cover(b))
}

// Opener checks the datagrams of one direction. It is for one goroutine.
type Opener struct {
	aead    cipher.AEAD
	session uint32
	highest uint64
	filter  replay.Filter
}

// NewOpener makes the opener of a session's direction.
func NewOpener(session uint32, key []byte) (*Opener, error) {
	a, err := aead(key)
	return &Opener{aead: a, session: session}, err
}

// Datagram is one that verified.
type Datagram struct {
	Kind    Kind
	Channel uint16
	Counter uint64
	// Payload aliases the datagram.
	Payload []byte
	// Newest says that none that was sent later has come before.
	Newest bool
}

// Open checks form, session, tag and counter, in this order. A datagram opens once.
func (o *Opener) Open(b []byte, scratch *Scratch) (Datagram, error) {
	session, err := SessionOf(b)
	if err != nil || session != o.session {
		return Datagram{}, fmt.Errorf("%w: session %d", ErrFormat, session)
	}
	d := Datagram{Kind: Kind(b[0] >> 4), Channel: binary.BigEndian.Uint16(b) & MaxChannel, Payload: b[HeaderSize : len(b)-TagSize]}
	if d.Kind > Pong {
		return Datagram{}, fmt.Errorf("%w: kind %d", ErrFormat, d.Kind)
	}
	d.Counter = expand(binary.BigEndian.Uint32(b[4:])&(1<<counterBits-1), o.highest)
	body, tag := b[:len(b)-TagSize], b[len(b)-TagSize:]
	if _, err := o.aead.Open(nil, scratch.set(d.Counter), tag, scratch.cover(body)); err != nil {
		return Datagram{}, ErrForged
	}
	if !o.filter.ValidateCounter(d.Counter, 1<<63) {
		return Datagram{}, ErrReplay
	}
	if d.Newest = d.Counter > o.highest; d.Newest {
		o.highest = d.Counter
	}
	return d, nil
}

// expand finds the counter that ends in low and is nearest to the highest that has come.
func expand(low uint32, highest uint64) uint64 {
	const span = 1 << counterBits
	c := highest&^(span-1) | uint64(low)
	switch {
	case c+span/2 < highest:
		c += span
	case c > highest+span/2 && c >= span:
		c -= span
	}
	return c
}
