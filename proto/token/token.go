// Package token reads and writes join tokens: the one string by which a device finds and recognises a coordinator and
// is admitted by it. Parse reads one that a person pasted, Encode prints one, Key derives the key pair that proves
// possession of its secret without sending it.
//
//	wrn1 | base64url( JoinToken message | first 4 bytes of SHA-256 over the message )
package token

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode"

	"google.golang.org/protobuf/proto"

	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// Prefix begins every token of this version.
const Prefix = "wrn1"

// SecretSize is the length of the secret in bytes.
const SecretSize = 16

const (
	checkSize = 4
	maxText   = 4096
)

// ErrMalformed is wrapped by every error of Parse.
var ErrMalformed = errors.New("malformed join token")

// Token is a parsed join token. Secret must not be logged; Token prints without it.
type Token struct {
	Network   record.NetworkID
	Authority key.AuthorityPublic
	Endpoints []Endpoint
	Secret    Secret
}

// Endpoint is one URL of the coordinator.
type Endpoint struct {
	URL  string
	Mode pb.TLSMode
}

// Secret prints as a placeholder.
type Secret [SecretSize]byte

// Format prints that there is a secret, not which.
func (Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, "[secret]") }

// MarshalText is for loggers that print JSON.
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// Key derives the token's key pair. The coordinator stores only Hash of its public half.
func (s Secret) Key() (key.TokenPrivate, error) {
	seed, err := hkdf.Key(sha256.New, s[:], nil, "warren join token key v1", key.Size)
	if err != nil {
		return key.TokenPrivate{}, err
	}
	return key.TokenPrivateFromBytes(seed)
}

// Hash is what a store keeps of a token.
func Hash(k key.TokenPublic) [sha256.Size]byte {
	raw := k.Raw()
	return sha256.Sum256(raw[:])
}

// Encode prints the token.
func (t *Token) Encode() (string, error) {
	m := &pb.JoinToken{NetworkId: t.Network[:], AuthorityKey: t.Authority.Bytes(), Secret: t.Secret[:]}
	for _, e := range t.Endpoints {
		m.Endpoints = append(m.Endpoints, &pb.Endpoint{Url: e.URL, TlsMode: e.Mode})
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return "", err
	}
	text := Prefix + base64.RawURLEncoding.EncodeToString(append(b, check(b)...))
	if _, err := Parse(text); err != nil {
		return "", err
	}
	return text, nil
}

func check(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:checkSize]
}

// Parse reads a token. White space anywhere is ignored, since terminals and mail wrap long lines.
func Parse(text string) (*Token, error) {
	text = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, text)
	body, ok := strings.CutPrefix(text, Prefix)
	switch {
	case text == "":
		return nil, fmt.Errorf("%w: it is empty", ErrMalformed)
	case !ok:
		return nil, fmt.Errorf("%w: it does not begin with %s", ErrMalformed, Prefix)
	case len(text) > maxText:
		return nil, fmt.Errorf("%w: %d characters, more than %d", ErrMalformed, len(text), maxText)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(b) <= checkSize {
		return nil, fmt.Errorf("%w: a character is wrong or missing; copy the whole token again", ErrMalformed)
	}
	b, sum := b[:len(b)-checkSize], b[len(b)-checkSize:]
	if !bytes.Equal(sum, check(b)) {
		return nil, fmt.Errorf("%w: its checksum does not match; copy the whole token again", ErrMalformed)
	}
	var m pb.JoinToken
	if err := proto.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	t, err := fromProto(&m)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return t, nil
}

func fromProto(m *pb.JoinToken) (*Token, error) {
	var t Token
	var err error
	if t.Network, err = record.NetworkIDFromBytes(m.GetNetworkId()); err != nil {
		return nil, err
	}
	if t.Authority, err = key.AuthorityPublicFromBytes(m.GetAuthorityKey()); err != nil {
		return nil, fmt.Errorf("authority key: %w", err)
	}
	if len(m.GetSecret()) != SecretSize {
		return nil, fmt.Errorf("secret has %d bytes, not %d", len(m.GetSecret()), SecretSize)
	}
	t.Secret = Secret(m.GetSecret())
	if len(m.GetEndpoints()) == 0 || len(m.GetEndpoints()) > record.MaxURLs {
		return nil, fmt.Errorf("%d coordinator addresses, wanted 1 to %d", len(m.GetEndpoints()), record.MaxURLs)
	}
	for _, e := range m.GetEndpoints() {
		if err := CheckEndpoint(e.GetUrl(), e.GetTlsMode()); err != nil {
			return nil, err
		}
		t.Endpoints = append(t.Endpoints, Endpoint{e.GetUrl(), e.GetTlsMode()})
	}
	return &t, nil
}

// maxHost is the longest name that DNS has, in bytes.
const maxHost = 253

// CheckEndpoint accepts scheme://host[:port] with a scheme that fits mode, and nothing after it but a slash.
func CheckEndpoint(raw string, mode pb.TLSMode) error {
	u, err := url.Parse(raw)
	if err != nil || !goodHost(u) || (u.Path != "" && u.Path != "/") || strings.ContainsAny(raw, "?#") || u.User != nil {
		return fmt.Errorf("coordinator address %.200q is not of the form https://host:port", raw)
	}
	want := "https"
	switch mode {
	case pb.TLSMode_TLS_MODE_SELF, pb.TLSMode_TLS_MODE_PUBLIC:
	case pb.TLSMode_TLS_MODE_OFF:
		want = "http"
	default:
		return fmt.Errorf("coordinator address %.200q: unknown TLS mode %d", raw, mode)
	}
	if u.Scheme != want {
		return fmt.Errorf("coordinator address %.200q begins with %q, not %q", raw, u.Scheme, want)
	}
	return nil
}

// goodHost checks host and port. A name is in ASCII, as DNS has it, so that it looks like what it is.
func goodHost(u *url.URL) bool {
	host, port := u.Hostname(), u.Port()
	if host == "" || len(host) > maxHost || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return false
	}
	if port == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}
