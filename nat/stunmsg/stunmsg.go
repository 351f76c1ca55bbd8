// Package stunmsg reads and writes STUN Binding messages (RFC 8489). It is the one package that calls github.com/pion/stun: everything
// that comes from the network passes Parse, which checks the bounds and lengths of every attribute before the library sees it, since
// the library does not (CVE-2026-54909).
//
// Request and Success write messages; Looks tells cheaply whether a datagram may be one; Parse reads it; Message.Verify checks who sent it.
package stunmsg

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/pion/stun/v2"
)

// TxID is a transaction id.
type TxID [stun.TransactionIDSize]byte

// NewTxID draws one. Answers are matched by it, so it must not be guessed.
func NewTxID() (t TxID) {
	rand.Read(t[:])
	return t
}

// Class is what kind of message it is (RFC 8489 section 5).
type Class int

// The classes of Binding messages that Warren uses.
const (
	Request Class = iota + 1
	Success
	Failure
)

// Message is a parsed Binding message.
type Message struct {
	Class    Class
	Tx       TxID
	Username []byte
	// Mapped is the XOR-MAPPED-ADDRESS; zero if there is none.
	Mapped netip.AddrPort
	// OtherPort asks for the answer to come from another port (CHANGE-REQUEST, RFC 5780 section 7.2).
	OtherPort bool
	// signed says that MESSAGE-INTEGRITY is there, and FINGERPRINT behind it.
	signed bool
	raw    []byte
}

// Errors of Parse and Verify.
var (
	ErrFormat    = errors.New("not a STUN Binding message")
	ErrIntegrity = errors.New("STUN MESSAGE-INTEGRITY is missing or wrong")
)

// MaxSize is the longest message that Parse takes, in bytes. Only padding makes one longer than 1280.
const MaxSize = 9216

const (
	headerSize  = 20
	cookie      = 0x2112A442 // RFC 8489 section 5
	maxUnpadded = 1280       // a Binding message is far shorter
	maxUsername = 64
	// RFC 8489 section 14: the attributes that count here. Those below 0x8000 must be understood.
	attrMappedAddress    = 0x0001
	attrChangeRequest    = 0x0003 // RFC 5780 section 7.2
	attrUsername         = 0x0006
	attrMessageIntegrity = 0x0008
	attrErrorCode        = 0x0009
	attrXORMappedAddress = 0x0020
	attrPadding          = 0x0026 // RFC 5780 section 7.6
	attrFingerprint      = 0x8028
	comprehensionOnly    = 0x8000
	changePort           = 0x02 // the flag in CHANGE-REQUEST
)

// Looks reports whether b may be a STUN message, by its first bytes and its length. WireGuard's messages are to be told apart before: a
// WireGuard index may equal the cookie.
func Looks(b []byte) bool {
	return len(b) >= headerSize && len(b) <= MaxSize && b[0]&0xC0 == 0 && len(b)%4 == 0 &&
		binary.BigEndian.Uint32(b[4:]) == cookie && int(binary.BigEndian.Uint16(b[2:])) == len(b)-headerSize
}

// Parse reads a Binding message. It keeps no reference to b.
func Parse(b []byte) (*Message, error) {
	if !Looks(b) {
		return nil, ErrFormat
	}
	m := &Message{raw: append([]byte(nil), b...)}
	switch binary.BigEndian.Uint16(b) { // RFC 8489 section 5: method Binding, with the class's two bits
	case 0x0001:
		m.Class = Request
	case 0x0101:
		m.Class = Success
	case 0x0111:
		m.Class = Failure
	default:
		return nil, fmt.Errorf("%w: type %#04x", ErrFormat, binary.BigEndian.Uint16(b))
	}
	copy(m.Tx[:], b[8:headerSize])
	has, err := m.checkAttributes()
	if err != nil {
		return nil, err
	}
	return m, m.read(has)
}

// present says which attributes a message has.
type present struct{ username, mapped, padding, otherPort, integrity, fingerprint bool }

// checkAttributes walks the attributes by their lengths.
func (m *Message) checkAttributes() (has present, err error) {
	b := m.raw[headerSize:]
	for len(b) > 0 {
		if len(b) < 4 {
			return has, fmt.Errorf("%w: an attribute is cut short", ErrFormat)
		}
		kind, size := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		padded := 4 + (size+3)&^3
		if padded > len(b) {
			return has, fmt.Errorf("%w: attribute %#04x is longer than the message", ErrFormat, kind)
		}
		if err := has.add(kind, b[4:4+size]); err != nil {
			return has, err
		}
		b = b[padded:]
	}
	if len(m.raw) > maxUnpadded && !has.padding {
		return has, fmt.Errorf("%w: %d bytes without padding", ErrFormat, len(m.raw))
	}
	return has, nil
}

// add checks one attribute's length and place.
func (p *present) add(kind uint16, value []byte) error {
	bad := func(is bool) error {
		if is {
			return fmt.Errorf("%w: attribute %#04x of %d bytes", ErrFormat, kind, len(value))
		}
		return nil
	}
	if p.fingerprint { // RFC 8489 section 14.7: it is the last one
		return bad(true)
	}
	if p.integrity && kind != attrFingerprint { // section 14.5: whatever follows counts for nothing
		return nil
	}
	switch kind {
	case attrUsername:
		err := bad(p.username || len(value) == 0 || len(value) > maxUsername)
		p.username = true
		return err
	case attrXORMappedAddress:
		err := bad(p.mapped || !addressSize(value))
		p.mapped = true
		return err
	case attrMappedAddress:
		return bad(!addressSize(value))
	case attrChangeRequest: // nobody of ours has a second address to answer from
		err := bad(len(value) != 4 || p.otherPort || value[3]&^changePort != 0)
		p.otherPort = err == nil && value[3] == changePort
		return err
	case attrMessageIntegrity:
		p.integrity = true
		return bad(len(value) != 20)
	case attrFingerprint:
		p.fingerprint = true
		return bad(len(value) != 4)
	case attrErrorCode:
		return bad(len(value) < 4)
	case attrPadding:
		p.padding = true
		return nil
	}
	return bad(kind < comprehensionOnly)
}

// addressSize checks family and length (RFC 8489 section 14.1).
func addressSize(v []byte) bool {
	return (len(v) == 8 && v[1] == 0x01) || (len(v) == 20 && v[1] == 0x02)
}

// read takes the values out, now that their bounds are known.
func (m *Message) read(has present) error {
	p := &stun.Message{Raw: m.raw}
	if err := p.Decode(); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if has.fingerprint {
		if err := stun.Fingerprint.Check(p); err != nil {
			return fmt.Errorf("%w: fingerprint: %w", ErrFormat, err)
		}
	}
	if has.username {
		v, err := p.Get(stun.AttrUsername)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrFormat, err)
		}
		m.Username = v
	}
	if has.mapped {
		var a stun.XORMappedAddress
		if err := a.GetFrom(p); err != nil {
			return fmt.Errorf("%w: %w", ErrFormat, err)
		}
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok || a.Port < 0 || a.Port > 65535 {
			return fmt.Errorf("%w: mapped address", ErrFormat)
		}
		m.Mapped = netip.AddrPortFrom(ip.Unmap(), uint16(a.Port))
	}
	m.OtherPort = has.otherPort
	m.signed = has.integrity && has.fingerprint
	return nil
}

// Verify checks MESSAGE-INTEGRITY (HMAC-SHA1, RFC 8489 section 14.5) with key. A message without it, or without FINGERPRINT, fails.
func (m *Message) Verify(key []byte) error {
	if !m.signed {
		return ErrIntegrity
	}
	p := &stun.Message{Raw: append([]byte(nil), m.raw...)}
	if err := p.Decode(); err != nil {
		return ErrIntegrity
	}
	if err := stun.MessageIntegrity(key).Check(p); err != nil {
		return ErrIntegrity
	}
	return nil
}

// NewRequest writes a Binding request. With a key it has USERNAME, MESSAGE-INTEGRITY and FINGERPRINT; without, only FINGERPRINT.
func NewRequest(tx TxID, username, key []byte) []byte { return NewPaddedRequest(tx, username, key, 0) }

// NewPaddedRequest is NewRequest for a message of size bytes, as near to it as whole words come from below; where that is too few, it is as
// short as can be.
func NewPaddedRequest(tx TxID, username, key []byte, size int) []byte {
	setters := []stun.Setter{stun.BindingRequest, stun.NewTransactionIDSetter(tx)}
	length := headerSize + 8 // with FINGERPRINT
	if key != nil {
		setters = append(setters, stun.RawAttribute{Type: stun.AttrUsername, Value: username})
		length += 4 + (len(username)+3)&^3 + 24
	}
	if padding := min(size, MaxSize)&^3 - length - 4; padding > 0 {
		setters = append(setters, stun.RawAttribute{Type: attrPadding, Value: make([]byte, padding)})
	}
	if key != nil {
		setters = append(setters, stun.MessageIntegrity(key))
	}
	return build(append(setters, stun.Fingerprint))
}

// NewOtherPortRequest writes a Binding request whose answer is to come from another port of the server.
func NewOtherPortRequest(tx TxID) []byte {
	return build([]stun.Setter{
		stun.BindingRequest, stun.NewTransactionIDSetter(tx), stun.RawAttribute{Type: attrChangeRequest, Value: []byte{0, 0, 0, changePort}},
		stun.Fingerprint,
	})
}

// NewSuccess writes the answer to a request that came from mapped. Without a key it has no MESSAGE-INTEGRITY.
func NewSuccess(tx TxID, mapped netip.AddrPort, key []byte) []byte {
	setters := []stun.Setter{
		stun.BindingSuccess, stun.NewTransactionIDSetter(tx),
		&stun.XORMappedAddress{IP: net.IP(mapped.Addr().Unmap().AsSlice()), Port: int(mapped.Port())},
	}
	if key != nil {
		setters = append(setters, stun.MessageIntegrity(key))
	}
	return build(append(setters, stun.Fingerprint))
}

// build panics if the library refuses: what it gets is of fixed form.
func build(setters []stun.Setter) []byte {
	m, err := stun.Build(setters...)
	if err != nil {
		panic(fmt.Sprintf("stunmsg: %v", err))
	}
	return m.Raw
}
