// Package key holds the keys of Warren as one type per role, so that no key can be used where another belongs.
//
// Parse text with ParseDevicePublic and its siblings, bytes from the wire with DevicePublicFromBytes and its siblings, and make
// new ones with NewDevice, NewNode, NewAuthority and NewSigning. Keys are not comparable with ==: use Equal, which takes constant
// time, and Raw for a map's key. Private keys never print; Bytes hands them out for storage only.
package key

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// Size is the length of every key in bytes, public or private (an Ed25519 private key is kept as its seed).
const Size = 32

// ErrLength says that a key has not Size bytes.
var ErrLength = errors.New("a key has 32 bytes")

// incomparable makes a struct that holds it refuse ==.
type incomparable [0]func()

// material is the bytes of one key.
type material struct {
	_ incomparable
	b [Size]byte
}

func (m material) isZero() bool { return m.b == [Size]byte{} }

func (m material) equal(o material) bool { return subtle.ConstantTimeCompare(m.b[:], o.b[:]) == 1 }

func fromBytes(b []byte) (material, error) {
	if len(b) != Size {
		return material{}, fmt.Errorf("%w, not %d", ErrLength, len(b))
	}
	m := material{b: [Size]byte(b)}
	if m.isZero() {
		return material{}, errors.New("a key is not all zeros")
	}
	return m, nil
}

func fromText(what, prefix, text string) (material, error) {
	if len(text) < len(prefix) || text[:len(prefix)] != prefix {
		return material{}, fmt.Errorf("%s %.60q: does not begin with %q", what, text, prefix)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text[len(prefix):])
	if err != nil || strings.ContainsAny(text, "\r\n") { // which the decoder would skip
		return material{}, fmt.Errorf("%s %.60q: not base64", what, text)
	}
	m, err := fromBytes(b)
	if err != nil {
		return material{}, fmt.Errorf("%s %.60q: %w", what, text, err)
	}
	return m, nil
}

func (m material) text(prefix string) string {
	return prefix + base64.StdEncoding.EncodeToString(m.b[:])
}

// random fills a new key. crypto/rand.Read never fails: it ends the program instead.
func random() material {
	var m material
	rand.Read(m.b[:])
	return m
}

// secret keeps a private key in a closure: package fmt cannot call Format on an unexported field of a caller's struct, and prints what it
// finds there byte by byte. It follows pointers, but cannot look into a function.
type secret struct{ reveal func() material }

func hide(m material) secret { return secret{func() material { return m }} }

func (s secret) isZero() bool { return s.reveal == nil || s.reveal().isZero() }

// bytes is a copy; of an unset key, zeros.
func (s secret) bytes() []byte {
	var m material
	if s.reveal != nil {
		m = s.reveal()
	}
	return m.b[:]
}

// signer and verifier are what the Ed25519 roles share.
type signer struct{ secret }

func (s signer) sign(message []byte) []byte {
	return ed25519.Sign(ed25519.NewKeyFromSeed(s.bytes()), message)
}

func (s signer) public() material {
	return material{b: [Size]byte(ed25519.NewKeyFromSeed(s.bytes()).Public().(ed25519.PublicKey))}
}

type verifier struct{ material }

func (v verifier) verify(message, signature []byte) bool {
	return len(signature) == ed25519.SignatureSize && !v.isZero() && ed25519.Verify(v.b[:], message, signature)
}

// hidden is what a private key prints as, whatever the verb.
func hidden(f fmt.State, role string) { fmt.Fprintf(f, "[%s private key]", role) }

func hiddenValue(role string) slog.Value { return slog.StringValue("[" + role + " private key]") }

// NodePrivate is a WireGuard static private key (X25519).
type NodePrivate struct{ s secret }

// NodePublic is a WireGuard static public key (X25519). Its text is plain base64, as wg prints it.
type NodePublic struct{ m material }

// NewNode draws a node key, clamped as RFC 7748 section 5 asks.
func NewNode() NodePrivate {
	m := random()
	m.b[0] &= 248
	m.b[31] = m.b[31]&127 | 64
	return NodePrivate{hide(m)}
}

// NodePrivateFromBytes takes 32 bytes as Bytes gave them.
func NodePrivateFromBytes(b []byte) (NodePrivate, error) {
	m, err := fromBytes(b)
	return NodePrivate{hide(m)}, err
}

// NodePublicFromBytes takes 32 bytes from the wire.
func NodePublicFromBytes(b []byte) (NodePublic, error) {
	m, err := fromBytes(b)
	return NodePublic{m}, err
}

// ParseNodePublic reads base64.
func ParseNodePublic(text string) (NodePublic, error) {
	m, err := fromText("node key", "", text)
	return NodePublic{m}, err
}

// Public is the public half.
func (k NodePrivate) Public() NodePublic {
	p, err := ecdh.X25519().NewPrivateKey(k.s.bytes())
	if err != nil {
		return NodePublic{} // cannot happen: the length is right
	}
	return NodePublic{material{b: [Size]byte(p.PublicKey().Bytes())}}
}

// Shared is the X25519 shared secret; an error means that the peer's key is a point of low order.
func (k NodePrivate) Shared(peer NodePublic) ([Size]byte, error) {
	private, err := ecdh.X25519().NewPrivateKey(k.s.bytes())
	if err != nil {
		return [Size]byte{}, err
	}
	public, err := ecdh.X25519().NewPublicKey(peer.m.b[:])
	if err != nil {
		return [Size]byte{}, err
	}
	secret, err := private.ECDH(public)
	if err != nil {
		return [Size]byte{}, fmt.Errorf("node key %s: %w", peer, err)
	}
	return [Size]byte(secret), nil
}

// Bytes is for storage and for the WireGuard device only.
func (k NodePrivate) Bytes() []byte { return k.s.bytes() }

// IsZero tells an unset key.
func (k NodePrivate) IsZero() bool { return k.s.isZero() }

// Format prints that there is a key, not which.
func (k NodePrivate) Format(f fmt.State, _ rune) { hidden(f, "node") }

// LogValue prints that there is a key, not which.
func (k NodePrivate) LogValue() slog.Value { return hiddenValue("node") }

// Equal takes constant time.
func (k NodePublic) Equal(o NodePublic) bool { return k.m.equal(o.m) }

// Raw is a value for wire messages and map keys.
func (k NodePublic) Raw() [Size]byte { return k.m.b }

// Bytes is a copy for wire messages.
func (k NodePublic) Bytes() []byte { return append([]byte(nil), k.m.b[:]...) }

// IsZero tells an unset key.
func (k NodePublic) IsZero() bool { return k.m.isZero() }

// String is base64, as wg shows it.
func (k NodePublic) String() string { return k.m.text("") }

// Short is enough of the key to recognise it in a log.
func (k NodePublic) Short() string { return k.String()[:8] }
