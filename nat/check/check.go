// Package check makes and verifies the authenticated STUN Binding messages by which two peers check a path between them.
//
// NewKeys derives what a pair of node keys needs; Keys.Request and Keys.Success write messages, Keys.VerifyRequest and
// Keys.VerifySuccess check them. Table finds the Keys that an incoming request names by its USERNAME.
package check

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"

	"warren/nat/stunmsg"
	"warren/proto/key"
)

// label separates these keys from everything else that is derived from the same shared secret.
const label = "warren check 1"

const (
	usernameBytes = 8 // shown as 16 hexadecimal digits
	integrityKey  = 32
)

// ErrVerify says that a message was not made by the peer for us.
var ErrVerify = errors.New("check is not the peer's")

// half is what is used in one direction.
type half struct {
	username []byte
	key      []byte
}

// Keys are those of one pair of node keys, ours and the peer's. Each direction has its own, so that a message sent back to its sender
// means nothing.
type Keys struct{ out, in half }

// NewKeys derives the keys of a pair. An error means that peer is no key one can share a secret with, such as our own.
func NewKeys(self key.NodePrivate, peer key.NodePublic) (*Keys, error) {
	public := self.Public()
	if public.Equal(peer) {
		return nil, fmt.Errorf("node key %s is our own", peer.Short())
	}
	secret, err := self.Shared(peer)
	if err != nil {
		return nil, err
	}
	first, second := public.Bytes(), peer.Bytes()
	weAreFirst := bytes.Compare(first, second) < 0
	if !weAreFirst {
		first, second = second, first
	}
	// The salt binds the keys to the two public keys, in an order on which both sides agree.
	prk, err := hkdf.Extract(sha256.New, secret[:], append(append([]byte(label), first...), second...))
	if err != nil {
		return nil, fmt.Errorf("deriving keys for %s: %w", peer.Short(), err)
	}
	forth, err1 := expand(prk, "first to second")
	back, err2 := expand(prk, "second to first")
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("deriving keys for %s: %w", peer.Short(), err)
	}
	if weAreFirst {
		return &Keys{out: forth, in: back}, nil
	}
	return &Keys{out: back, in: forth}, nil
}

func expand(prk []byte, direction string) (half, error) {
	name, err := hkdf.Expand(sha256.New, prk, "username "+direction, usernameBytes)
	if err != nil {
		return half{}, err
	}
	k, err := hkdf.Expand(sha256.New, prk, "integrity "+direction, integrityKey)
	return half{username: hex.AppendEncode(nil, name), key: k}, err
}

// Request writes a check to the peer.
func (k *Keys) Request(tx stunmsg.TxID) []byte {
	return stunmsg.NewRequest(tx, k.out.username, k.out.key)
}

// PaddedRequest is Request for a message as long as size bytes, to show what length of datagram gets through.
func (k *Keys) PaddedRequest(tx stunmsg.TxID, size int) []byte {
	return stunmsg.NewPaddedRequest(tx, k.out.username, k.out.key, size)
}

// Success writes the answer to a check of the peer that came from mapped.
func (k *Keys) Success(tx stunmsg.TxID, mapped netip.AddrPort) []byte {
	return stunmsg.NewSuccess(tx, mapped, k.out.key)
}

// Username is what the peer's requests to us carry.
func (k *Keys) Username() []byte { return k.in.username }

// VerifyRequest reports whether m is a request of the peer to us.
func (k *Keys) VerifyRequest(m *stunmsg.Message) error {
	if m.Class != stunmsg.Request || !bytes.Equal(m.Username, k.in.username) {
		return ErrVerify
	}
	return k.verify(m)
}

// VerifySuccess reports whether m is an answer of the peer to us. That it answers a request of ours is the caller's to know, by its
// transaction id.
func (k *Keys) VerifySuccess(m *stunmsg.Message) error {
	if m.Class != stunmsg.Success {
		return ErrVerify
	}
	return k.verify(m)
}

func (k *Keys) verify(m *stunmsg.Message) error {
	if err := m.Verify(k.in.key); err != nil {
		return fmt.Errorf("%w: %w", ErrVerify, err)
	}
	return nil
}
