package bind

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"

	"warren/proto/key"
)

// Names from WireGuard's protocol page.
const (
	noiseConstruction = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
	noiseIdentifier   = "WireGuard v1 zx2c4 Jason@zx2c4.com"
	labelMAC1         = "mac1----"
)

// Where the parts of an initiation are.
const (
	initEphemeral = 8
	initStatic    = initEphemeral + 32
	initTimestamp = initStatic + 32 + chacha20poly1305.Overhead
	initMAC1      = initTimestamp + timestampSize + chacha20poly1305.Overhead
	timestampSize = 12
)

// timestamp is TAI64N: seconds and nanoseconds, big endian, so that byte order is time order.
type timestamp [timestampSize]byte

var errUnknownPeer = errors.New("initiation of a key that is not in the map")

// opener opens handshake initiations: the responder's first half of Noise_IK, as far as it tells who calls and when.
type opener struct {
	private *ecdh.PrivateKey
	mac1Key [blake2s.Size]byte
	// chain and hash are the state after the responder's static key has been mixed in.
	chain, hash [blake2s.Size]byte
}

func newOpener(private key.NodePrivate) (*opener, error) {
	k, err := ecdh.X25519().NewPrivateKey(private.Bytes())
	if err != nil {
		return nil, fmt.Errorf("node key: %w", err)
	}
	public := k.PublicKey().Bytes()
	o := &opener{private: k}
	o.mac1Key = blake2s.Sum256(append([]byte(labelMAC1), public...))
	o.chain = blake2s.Sum256([]byte(noiseConstruction))
	o.hash = mixHash(mixHash(o.chain, []byte(noiseIdentifier)), public)
	return o, nil
}

// checkMAC1 reports whether the sender knows our public key. It costs one hash.
func (o *opener) checkMAC1(initiation []byte) bool {
	h, err := blake2s.New128(o.mac1Key[:])
	if err != nil {
		return false // cannot happen: the key's length is right
	}
	h.Write(initiation[:initMAC1])
	return subtle.ConstantTimeCompare(h.Sum(nil), initiation[initMAC1:initMAC1+blake2s.Size128]) == 1
}

// open tells who made an initiation, and when. Both are authentic: the timestamp opens only under the two static keys' shared secret.
// A key that is not allowed is refused before that secret is worked out.
func (o *opener) open(m []byte, allowed func(key.NodePublic) bool) (key.NodePublic, timestamp, error) {
	var none key.NodePublic
	chain, hash := o.chain, o.hash
	ephemeral := m[initEphemeral:initStatic]
	hash = mixHash(hash, ephemeral)
	chain, _, err := mixKey(chain, ephemeral)
	if err != nil {
		return none, timestamp{}, err
	}
	static, chain, err := o.decrypt(chain, hash, ephemeral, m[initStatic:initTimestamp])
	if err != nil {
		return none, timestamp{}, fmt.Errorf("static key of an initiation: %w", err)
	}
	peer, err := key.NodePublicFromBytes(static)
	if err != nil {
		return none, timestamp{}, fmt.Errorf("static key of an initiation: %w", err)
	}
	if !allowed(peer) {
		return peer, timestamp{}, errUnknownPeer
	}
	hash = mixHash(hash, m[initStatic:initTimestamp])
	stamp, _, err := o.decrypt(chain, hash, static, m[initTimestamp:initMAC1])
	if err != nil {
		return none, timestamp{}, fmt.Errorf("timestamp of an initiation: %w", err)
	}
	return peer, timestamp(stamp), nil
}

// decrypt mixes in the shared secret of our static key and public, and opens box with the key that results.
func (o *opener) decrypt(chain, hash [blake2s.Size]byte, public, box []byte) ([]byte, [blake2s.Size]byte, error) {
	p, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		return nil, chain, err
	}
	secret, err := o.private.ECDH(p) // refuses points of low order
	if err != nil {
		return nil, chain, err
	}
	chain, k, err := mixKey(chain, secret)
	if err != nil {
		return nil, chain, err
	}
	aead, err := chacha20poly1305.New(k[:])
	if err != nil {
		return nil, chain, err
	}
	var zero [chacha20poly1305.NonceSize]byte
	plain, err := aead.Open(nil, zero[:], box, hash[:])
	return plain, chain, err
}

func mixHash(h [blake2s.Size]byte, data []byte) [blake2s.Size]byte {
	var buf [2*blake2s.Size + chacha20poly1305.Overhead]byte // the longest data is a sealed key
	return blake2s.Sum256(append(append(buf[:0], h[:]...), data...))
}

// mixKey is WireGuard's KDF2, which is HKDF (RFC 5869) with the chaining key as salt and no info.
func mixKey(chain [blake2s.Size]byte, input []byte) (next, k [blake2s.Size]byte, err error) {
	out, err := hkdf.Key(newBlake2s, input, chain[:], "", 2*blake2s.Size)
	if err != nil {
		return next, k, err
	}
	return [blake2s.Size]byte(out[:blake2s.Size]), [blake2s.Size]byte(out[blake2s.Size:]), nil
}

func newBlake2s() hash.Hash {
	h, err := blake2s.New256(nil)
	if err != nil {
		panic("blake2s without a key cannot fail: " + err.Error())
	}
	return h
}
