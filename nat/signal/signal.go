// Package signal seals what two devices tell each other over the relay, candidates and calls, so that the relay learns nothing but who
// talks to whom, and opens it again.
//
// A Box holds what is needed for one peer: Box.Seal writes, Box.Open reads. A sealed signal is
//
//	version (1 byte, 1) | nonce (24 random bytes) | XChaCha20-Poly1305 of a protobuf Signal, with the version as additional data
//
// under a key of its own for each direction.
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
	"time"

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
	ErrReplay = errors.New("signal is not newer than the last")
)

// Signal is what one device tells another.
type Signal struct {
	// Candidates are all that the sender has.
	Candidates []candidate.Candidate
	// Call asks for an immediate signal in return, and for checks at once.
	Call bool
	// Lost says that the sender has just given its direct path up.
	Lost bool
	// View is what the sender knows; zero if it tells nothing.
	View View
	// Talk is set in a signal that only carries a view, or asks for one. Its candidates count for nothing.
	Talk pb.Talk
	// Mapping is how the sender's NAT maps, and External one of its addresses outside, zero if it tells none. Step is where the sender is on the
	// way to trying ports.
	Mapping  pb.HardNAT_Mapping
	External netip.AddrPort
	Step     pb.HardNAT_Step
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

// Box seals and opens the signals of one peer. It remembers the last sequence number of each direction, and is not safe for concurrent
// use.
type Box struct {
	keys           []*Keys
	sent, received uint64
}

// SetKeys gives the pairs of keys that are good now. The first seals. The sequence numbers go on, whatever the keys.
func (b *Box) SetKeys(keys ...*Keys) { b.keys = keys }

// Seal makes the bytes of a signal. At most candidate.Max candidates go along.
func (b *Box) Seal(now time.Time, s Signal) ([]byte, error) {
	if len(b.keys) == 0 {
		return nil, errors.New("no keys to seal a signal with")
	}
	b.sent = max(b.sent+1, uint64(max(now.UnixNano(), 0)))
	plain, err := proto.Marshal(&pb.Signal{
		Sequence: b.sent, Candidates: candidate.ToProto(s.Candidates), Call: s.Call, View: s.View.toProto(), Talk: s.Talk, HardNat: hardNAT(s),
		Relays: relaysToProto(s.Relays), Lost: s.Lost,
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
	if s.Mapping == pb.HardNAT_MAPPING_UNSPECIFIED && s.Step == pb.HardNAT_STEP_UNSPECIFIED && !s.External.IsValid() {
		return nil
	}
	out := &pb.HardNAT{Mapping: s.Mapping, Step: s.Step}
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

// Open reads a signal of the peer. Candidates that nothing may be sent to, such as those inside overlay, are left out.
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
	if m.GetSequence() <= b.received {
		return Signal{}, fmt.Errorf("%w: sequence %d after %d", ErrReplay, m.GetSequence(), b.received)
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
	b.received = m.GetSequence()
	return Signal{
		Candidates: candidates, Call: m.GetCall(), View: viewFromProto(m.GetView()), Talk: talk,
		Mapping: m.GetHardNat().GetMapping(), External: external, Step: m.GetHardNat().GetStep(), Relays: relays,
		Lost: m.GetLost(),
	}, nil
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
