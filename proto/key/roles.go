package key

import (
	"fmt"
	"log/slog"
)

// DevicePrivate authenticates a device (or a separate relay) to the coordinator and to relays (Ed25519).
type DevicePrivate struct{ s signer }

// DevicePublic is the public half of DevicePrivate. Its text begins with "device:".
type DevicePublic struct{ v verifier }

// NewDevice draws a device key.
func NewDevice() DevicePrivate { return DevicePrivate{signer{hide(random())}} }

// DevicePrivateFromBytes takes 32 bytes as Bytes gave them.
func DevicePrivateFromBytes(b []byte) (DevicePrivate, error) {
	m, err := fromBytes(b)
	return DevicePrivate{signer{hide(m)}}, err
}

// DevicePublicFromBytes takes 32 bytes from the wire.
func DevicePublicFromBytes(b []byte) (DevicePublic, error) {
	m, err := fromBytes(b)
	return DevicePublic{verifier{m}}, err
}

// ParseDevicePublic reads what String printed.
func ParseDevicePublic(text string) (DevicePublic, error) {
	m, err := fromText("device key", "device:", text)
	return DevicePublic{verifier{m}}, err
}

// Public is the public half.
func (k DevicePrivate) Public() DevicePublic { return DevicePublic{verifier{k.s.public()}} }

// Sign signs message as it is; callers sign through warren/proto/record, which adds the context string.
func (k DevicePrivate) Sign(message []byte) []byte { return k.s.sign(message) }

// Bytes is for storage only.
func (k DevicePrivate) Bytes() []byte { return k.s.bytes() }

// IsZero tells an unset key.
func (k DevicePrivate) IsZero() bool { return k.s.isZero() }

// Format prints that there is a key, not which.
func (k DevicePrivate) Format(f fmt.State, _ rune) { hidden(f, "device") }

// LogValue prints that there is a key, not which.
func (k DevicePrivate) LogValue() slog.Value { return hiddenValue("device") }

// Verify reports whether signature is the key's over message.
func (k DevicePublic) Verify(message, signature []byte) bool { return k.v.verify(message, signature) }

// Equal takes constant time.
func (k DevicePublic) Equal(o DevicePublic) bool { return k.v.equal(o.v.material) }

// Raw is a value for wire messages and map keys.
func (k DevicePublic) Raw() [Size]byte { return k.v.b }

// Bytes is a copy for wire messages.
func (k DevicePublic) Bytes() []byte { return append([]byte(nil), k.v.b[:]...) }

// IsZero tells an unset key.
func (k DevicePublic) IsZero() bool { return k.v.isZero() }

// String is the key's text.
func (k DevicePublic) String() string { return k.v.text("device:") }

// Short is enough of the key to recognise it in a log.
func (k DevicePublic) Short() string { return k.String()[:len("device:")+8] }

// AuthorityPrivate signs device records, signing certificates and TLS bindings of a network (Ed25519).
type AuthorityPrivate struct{ s signer }

// AuthorityPublic is the public half of AuthorityPrivate. Its text begins with "authority:".
type AuthorityPublic struct{ v verifier }

// NewAuthority draws an authority key.
func NewAuthority() AuthorityPrivate { return AuthorityPrivate{signer{hide(random())}} }

// AuthorityPrivateFromBytes takes 32 bytes as Bytes gave them.
func AuthorityPrivateFromBytes(b []byte) (AuthorityPrivate, error) {
	m, err := fromBytes(b)
	return AuthorityPrivate{signer{hide(m)}}, err
}

// AuthorityPublicFromBytes takes 32 bytes from the wire.
func AuthorityPublicFromBytes(b []byte) (AuthorityPublic, error) {
	m, err := fromBytes(b)
	return AuthorityPublic{verifier{m}}, err
}

// ParseAuthorityPublic reads what String printed.
func ParseAuthorityPublic(text string) (AuthorityPublic, error) {
	m, err := fromText("authority key", "authority:", text)
	return AuthorityPublic{verifier{m}}, err
}

// Public is the public half.
func (k AuthorityPrivate) Public() AuthorityPublic { return AuthorityPublic{verifier{k.s.public()}} }

// Sign signs message as it is; callers sign through warren/proto/record, which adds the context string.
func (k AuthorityPrivate) Sign(message []byte) []byte { return k.s.sign(message) }

// Bytes is for storage only.
func (k AuthorityPrivate) Bytes() []byte { return k.s.bytes() }

// IsZero tells an unset key.
func (k AuthorityPrivate) IsZero() bool { return k.s.isZero() }

// Format prints that there is a key, not which.
func (k AuthorityPrivate) Format(f fmt.State, _ rune) { hidden(f, "authority") }

// LogValue prints that there is a key, not which.
func (k AuthorityPrivate) LogValue() slog.Value { return hiddenValue("authority") }

// Verify reports whether signature is the key's over message.
func (k AuthorityPublic) Verify(message, signature []byte) bool {
	return k.v.verify(message, signature)
}

// Equal takes constant time.
func (k AuthorityPublic) Equal(o AuthorityPublic) bool { return k.v.equal(o.v.material) }

// Raw is a value for wire messages and map keys.
func (k AuthorityPublic) Raw() [Size]byte { return k.v.b }

// Bytes is a copy for wire messages.
func (k AuthorityPublic) Bytes() []byte { return append([]byte(nil), k.v.b[:]...) }

// IsZero tells an unset key.
func (k AuthorityPublic) IsZero() bool { return k.v.isZero() }

// String is the key's text.
func (k AuthorityPublic) String() string { return k.v.text("authority:") }

// Short is enough of the key to recognise it in a log.
func (k AuthorityPublic) Short() string { return k.String()[:len("authority:")+8] }

// SigningPrivate signs map statements and relay tickets, and names the coordinator in what devices sign (Ed25519).
type SigningPrivate struct{ s signer }

// SigningPublic is the public half of SigningPrivate. Its text begins with "signing:".
type SigningPublic struct{ v verifier }

// NewSigning draws a signing key.
func NewSigning() SigningPrivate { return SigningPrivate{signer{hide(random())}} }

// SigningPrivateFromBytes takes 32 bytes as Bytes gave them.
func SigningPrivateFromBytes(b []byte) (SigningPrivate, error) {
	m, err := fromBytes(b)
	return SigningPrivate{signer{hide(m)}}, err
}

// SigningPublicFromBytes takes 32 bytes from the wire.
func SigningPublicFromBytes(b []byte) (SigningPublic, error) {
	m, err := fromBytes(b)
	return SigningPublic{verifier{m}}, err
}

// ParseSigningPublic reads what String printed.
func ParseSigningPublic(text string) (SigningPublic, error) {
	m, err := fromText("signing key", "signing:", text)
	return SigningPublic{verifier{m}}, err
}

// Public is the public half.
func (k SigningPrivate) Public() SigningPublic { return SigningPublic{verifier{k.s.public()}} }

// Sign signs message as it is; callers sign through warren/proto/record, which adds the context string.
func (k SigningPrivate) Sign(message []byte) []byte { return k.s.sign(message) }

// Bytes is for storage only.
func (k SigningPrivate) Bytes() []byte { return k.s.bytes() }

// IsZero tells an unset key.
func (k SigningPrivate) IsZero() bool { return k.s.isZero() }

// Format prints that there is a key, not which.
func (k SigningPrivate) Format(f fmt.State, _ rune) { hidden(f, "signing") }

// LogValue prints that there is a key, not which.
func (k SigningPrivate) LogValue() slog.Value { return hiddenValue("signing") }

// Verify reports whether signature is the key's over message.
func (k SigningPublic) Verify(message, signature []byte) bool { return k.v.verify(message, signature) }

// Equal takes constant time.
func (k SigningPublic) Equal(o SigningPublic) bool { return k.v.equal(o.v.material) }

// Raw is a value for wire messages and map keys.
func (k SigningPublic) Raw() [Size]byte { return k.v.b }

// Bytes is a copy for wire messages.
func (k SigningPublic) Bytes() []byte { return append([]byte(nil), k.v.b[:]...) }

// IsZero tells an unset key.
func (k SigningPublic) IsZero() bool { return k.v.isZero() }

// String is the key's text.
func (k SigningPublic) String() string { return k.v.text("signing:") }

// Short is enough of the key to recognise it in a log.
func (k SigningPublic) Short() string { return k.String()[:len("signing:")+8] }

// TokenPrivate is derived from a join token's secret and signs one enrolment (Ed25519).
type TokenPrivate struct{ s signer }

// TokenPublic is the public half of TokenPrivate. Its text begins with "jointoken:".
type TokenPublic struct{ v verifier }

// NewToken draws a token key.
func NewToken() TokenPrivate { return TokenPrivate{signer{hide(random())}} }

// TokenPrivateFromBytes takes 32 bytes as Bytes gave them.
func TokenPrivateFromBytes(b []byte) (TokenPrivate, error) {
	m, err := fromBytes(b)
	return TokenPrivate{signer{hide(m)}}, err
}

// TokenPublicFromBytes takes 32 bytes from the wire.
func TokenPublicFromBytes(b []byte) (TokenPublic, error) {
	m, err := fromBytes(b)
	return TokenPublic{verifier{m}}, err
}

// ParseTokenPublic reads what String printed.
func ParseTokenPublic(text string) (TokenPublic, error) {
	m, err := fromText("token key", "jointoken:", text)
	return TokenPublic{verifier{m}}, err
}

// Public is the public half.
func (k TokenPrivate) Public() TokenPublic { return TokenPublic{verifier{k.s.public()}} }

// Sign signs message as it is; callers sign through warren/proto/record, which adds the context string.
func (k TokenPrivate) Sign(message []byte) []byte { return k.s.sign(message) }

// Bytes is for storage only.
func (k TokenPrivate) Bytes() []byte { return k.s.bytes() }

// IsZero tells an unset key.
func (k TokenPrivate) IsZero() bool { return k.s.isZero() }

// Format prints that there is a key, not which.
func (k TokenPrivate) Format(f fmt.State, _ rune) { hidden(f, "token") }

// LogValue prints that there is a key, not which.
func (k TokenPrivate) LogValue() slog.Value { return hiddenValue("token") }

// Verify reports whether signature is the key's over message.
func (k TokenPublic) Verify(message, signature []byte) bool { return k.v.verify(message, signature) }

// Equal takes constant time.
func (k TokenPublic) Equal(o TokenPublic) bool { return k.v.equal(o.v.material) }

// Raw is a value for wire messages and map keys.
func (k TokenPublic) Raw() [Size]byte { return k.v.b }

// Bytes is a copy for wire messages.
func (k TokenPublic) Bytes() []byte { return append([]byte(nil), k.v.b[:]...) }

// IsZero tells an unset key.
func (k TokenPublic) IsZero() bool { return k.v.isZero() }

// String is the key's text.
func (k TokenPublic) String() string { return k.v.text("jointoken:") }

// Short is enough of the key to recognise it in a log.
func (k TokenPublic) Short() string { return k.String()[:len("jointoken:")+8] }
