// Package signal seals what two devices tell each other over the relay, candidates and calls, so that the relay learns nothing but who
// talks to whom, and opens it again.
//
// A Box holds what is needed for one peer: Box.Seal writes, Box.Open reads. A sealed signal is
//
//	version (1 byte, 1) | nonce (24 random bytes) | XChaCha20-Poly1305 of a protobuf Signal, with the version as additional data
//
// under a key of its own for each direction. fresh.go tells how old signals are told from new ones, without clocks. Where Box.Open gives ErrStart the
// peer has to be asked again.
package signal

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/crypto/chacha20poly1305"
	"google.golang.org/protobuf/proto"

	"warren/nat/candidate"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// label separates these keys from everything else that is derived from the same shared secret.
const label = "warren signal 1"

const (
	version    = 1
	headerSize = 1 + chacha20poly1305.NonceSizeX
	// MaxSize is the longest sealed signal in bytes.
	MaxSize = 4096
)

// Errors of Box.Open.
var (
	ErrFormat = errors.New("not a signal")
	ErrOpen   = errors.New("signal is not the peer's, or damaged")
)

// Signal is what one device tells another.
type Signal struct {
	// Candidates are all that the sender has.
	Candidates []candidate.Candidate
	// Call asks for an immediate signal in return, and for checks at once.
	Call bool
	// Lost says that the sender has just given its direct path up.
	Lost bool
	// View is what the sender knows; zero if it tells nothing. Its mapping counts for the trying of ports, too.
	View View
	// Talk is set in a signal that only carries a view, or asks for one. Its candidates count for nothing.
	Talk pb.Talk
	// TriesPorts says that the sender takes part in that, Sequential that its NAT gives ports out in sequence, where the mapping is dependent.
	// External is one of its addresses outside, zero if it tells none. Step is where the sender is on the way to trying ports.
	TriesPorts, Sequential bool
	External               netip.AddrPort
	Step                   pb.HardNAT_Step
	// Relays are the keys of the relays at which the sender is reached, its home first. At most MaxRelays go along.
	Relays [][key.Size]byte
}

// MaxRelays bounds the relays in a signal.
const MaxRelays = 4

// Keys are those of one pair of node keys.
type Keys struct{ out, in cipher.AEAD }

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
	salt := append(append([]byte(label), first...), second...)
	forth, err1 := aead(secret[:], salt, "first to second")
	back, err2 := aead(secret[:], salt, "second to first")
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("deriving keys for %s: %w", peer.Short(), err)
	}
	if weAreFirst {
		return &Keys{out: forth, in: back}, nil
	}
	return &Keys{out: back, in: forth}, nil
}

func aead(secret, salt []byte, direction string) (cipher.AEAD, error) {
	k, err := hkdf.Key(sha256.New, secret, salt, direction, chacha20poly1305.KeySize)
	if err != nil {
		return nil, err
	}
	return chacha20poly1305.NewX(k)
}

// Box seals and opens the signals of one peer. NewBox makes one. It is not safe for concurrent use.
type Box struct {
	keys  []*Keys
	fresh freshness
}

// NewBox makes a Box without keys.
func NewBox() *Box { return &Box{fresh: newFreshness()} }

// SetKeys gives the pairs of keys that are good now. The first seals. What is new is told whatever the keys.
func (b *Box) SetKeys(keys ...*Keys) { b.keys = keys }

// Seal makes the bytes of a signal. At most candidate.Max candidates go along.
func (b *Box) Seal(s Signal) ([]byte, error) {
	if len(b.keys) == 0 {
		return nil, errors.New("no keys to seal a signal with")
	}
	at := b.fresh.next()
	plain, err := proto.Marshal(&pb.Signal{
		Start: at.start, Sequence: at.sequence, Challenge: at.challenge, Echo: at.echo,
		Candidates: candidate.ToProto(s.Candidates), Call: s.Call, View: s.View.toProto(), Mapping: s.View.Mapping, Talk: s.Talk,
		HardNat: hardNAT(s), Relays: relaysToProto(s.Relays), Lost: s.Lost,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding a signal: %w", err)
	}
	out := make([]byte, headerSize, headerSize+len(plain)+chacha20poly1305.Overhead)
	out[0] = version
	rand.Read(out[1:headerSize])
	return b.keys[0].out.Seal(out, out[1:headerSize], plain, out[:1]), nil
}

func hardNAT(s Signal) *pb.HardNAT {
	if !s.TriesPorts {
		return nil
	}
	out := &pb.HardNAT{Sequential: s.Sequential, Step: s.Step}
	if s.External.IsValid() {
		out.External = candidate.ToProto([]candidate.Candidate{{Addr: s.External}})[0]
	}
	return out
}

// externalFrom gives the sender's address outside; zero if it told none, or one that nothing may be sent to.
func externalFrom(m *pb.HardNAT, overlay []netip.Prefix) (at netip.AddrPort, err error) {
	if m.GetExternal() == nil {
		return at, nil
	}
	one, err := candidate.FromProto([]*pb.Candidate{m.GetExternal()}, overlay)
	if err != nil || len(one) == 0 {
		return at, err
	}
	return one[0].Addr, nil
}

// Open reads a signal of the peer. Candidates that nothing may be sent to, such as those inside overlay, are left out. So is all but candidates,
// call and view where the signal may be an old one.
func (b *Box) Open(sealed []byte, overlay []netip.Prefix) (Signal, error) {
	if len(sealed) < headerSize+chacha20poly1305.Overhead || len(sealed) > MaxSize || sealed[0] != version {
		return Signal{}, fmt.Errorf("%w: %d bytes", ErrFormat, len(sealed))
	}
	plain, err := b.decrypt(sealed)
	if err != nil {
		return Signal{}, err
	}
	var m pb.Signal
	if err := proto.Unmarshal(plain, &m); err != nil {
		return Signal{}, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	at := stamp{m.GetStart(), m.GetSequence(), m.GetChallenge(), m.GetEcho()}
	if err := b.fresh.check(at); err != nil {
		return Signal{}, err
	}
	candidates, err := candidate.FromProto(m.GetCandidates(), overlay)
	if err != nil {
		return Signal{}, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	external, err := externalFrom(m.GetHardNat(), overlay)
	if err != nil {
		return Signal{}, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	talk := m.GetTalk()
	if _, ok := pb.Talk_name[int32(talk)]; !ok {
		return Signal{}, fmt.Errorf("%w: talk %d", ErrFormat, talk)
	}
	relays, err := relaysFromProto(m.GetRelays())
	if err != nil {
		return Signal{}, err
	}
	out := Signal{Candidates: candidates, Call: m.GetCall(), View: viewFromProto(&m), Talk: talk, Relays: relays}
	if b.fresh.accept(at) {
		out.Lost = m.GetLost()
		out.TriesPorts, out.Sequential, out.External, out.Step = m.GetHardNat() != nil, m.GetHardNat().GetSequential(), external, m.GetHardNat().GetStep()
	}
	return out, nil
}

func relaysToProto(relays [][key.Size]byte) (out [][]byte) {
	for _, r := range relays[:min(len(relays), MaxRelays)] {
		out = append(out, r[:])
	}
	return out
}

func relaysFromProto(relays [][]byte) (out [][key.Size]byte, err error) {
	if len(relays) > MaxRelays {
		return nil, fmt.Errorf("%w: %d relays", ErrFormat, len(relays))
	}
	for _, r := range relays {
		if len(r) != key.Size {
			return nil, fmt.Errorf("%w: relay key of %d bytes", ErrFormat, len(r))
		}
		out = append(out, [key.Size]byte(r))
	}
	return out, nil
}

func (b *Box) decrypt(sealed []byte) ([]byte, error) {
	for _, k := range b.keys {
		if plain, err := k.in.Open(nil, sealed[1:headerSize], sealed[headerSize:], sealed[:1]); err == nil {
			return plain, nil
		}
	}
	return nil, ErrOpen
}
