package bind

import "encoding/binary"

// Sizes and offsets of WireGuard's messages, as its protocol page gives them. All integers are little endian.
const (
	initiationSize  = 148 // type, sender, ephemeral 32, static 32+16, timestamp 12+16, mac1 16, mac2 16
	responseSize    = 92  // type, sender, receiver, ephemeral 32, empty 16, mac1 16, mac2 16
	cookieReplySize = 64  // type, receiver, nonce 24, cookie 16+16
	transportMin    = 32  // type, receiver, counter 8, tag 16: a keepalive
)

// shape is what a datagram is by its form alone.
type shape uint8

const (
	shapeOther shape = iota
	shapeInitiation
	shapeResponse
	shapeCookieReply
	shapeTransport
)

// shapeOf looks at the type, its three zero bytes and the length. STUN never matches: its first two bytes are a message type whose
// second byte is 1 or 0x11 for Binding, where WireGuard has zero.
func shapeOf(b []byte) shape {
	if len(b) < transportMin {
		return shapeOther
	}
	n := len(b)
	switch t := binary.LittleEndian.Uint32(b); {
	case t == 1 && n == initiationSize:
		return shapeInitiation
	case t == 2 && n == responseSize:
		return shapeResponse
	case t == 3 && n == cookieReplySize:
		return shapeCookieReply
	case t == 4:
		return shapeTransport
	}
	return shapeOther
}

// receiverIndex is the index that a message other than an initiation is addressed to.
func receiverIndex(s shape, b []byte) uint32 {
	if s == shapeResponse {
		return binary.LittleEndian.Uint32(b[8:])
	}
	return binary.LittleEndian.Uint32(b[4:])
}

// senderIndex is the index at which the sender of a handshake message wants its answers.
func senderIndex(b []byte) uint32 { return binary.LittleEndian.Uint32(b[4:]) }
