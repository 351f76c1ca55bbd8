package signal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/crypto/chacha20poly1305"
	"google.golang.org/protobuf/proto"

	"warren/nat/candidate"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

var (
	overlay = []netip.Prefix{netip.MustParsePrefix("100.70.0.0/16")}
	some    = Signal{Candidates: []candidate.Candidate{
		{Kind: pb.CandidateKind_CANDIDATE_KIND_HOST, Addr: netip.MustParseAddrPort("192.168.1.5:51820")},
		{Kind: pb.CandidateKind_CANDIDATE_KIND_SERVER_REFLEXIVE, Addr: netip.MustParseAddrPort("[2001:db8::5]:40000")},
	}, Call: true}
	addresses = cmpopts.EquateComparable(netip.AddrPort{})
)

// node gives a node key that is the same in every run.
func node(t testing.TB, n byte) key.NodePrivate {
	t.Helper()
	k, err := key.NodePrivateFromBytes(bytes.Repeat([]byte{n}, key.Size))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func keys(t testing.TB, self, peer key.NodePrivate) *Keys {
	t.Helper()
	k, err := NewKeys(self, peer.Public())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// box is what self holds for peers: one device's keys.
func box(t testing.TB, self key.NodePrivate, peers ...key.NodePrivate) *Box {
	t.Helper()
	b := NewBox()
	var all []*Keys
	for _, p := range peers {
		all = append(all, keys(t, self, p))
	}
	b.SetKeys(all...)
	return b
}

func seal(t testing.TB, b *Box, s Signal) []byte {
	t.Helper()
	sealed, err := b.Seal(s)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func TestRoundTrip(t *testing.T) {
	x, y := node(t, 1), node(t, 2)
	for name, side := range map[string]struct{ from, to *Box }{
		"first to second": {box(t, x, y), box(t, y, x)}, "second to first": {box(t, y, x), box(t, x, y)},
	} {
		for _, s := range []Signal{some, {Call: true}, {}, {Candidates: some.Candidates}, {Call: true, Relays: [][key.Size]byte{{1}, {2}}}} {
			got, err := side.to.Open(seal(t, side.from, s), overlay)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if diff := cmp.Diff(s, got, addresses); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
	}
}

// TestRefused: a signal that is not the peer's to us is refused and changes nothing.
func TestRefused(t *testing.T) {
	x, y, z := node(t, 1), node(t, 2), node(t, 3)
	whole := seal(t, box(t, y, x), some)
	edit := func(f func([]byte) []byte) []byte { return f(slices.Clone(whole)) }
	us := box(t, x, y)
	for name, tc := range map[string]struct {
		b    []byte
		want error
	}{
		"nothing":          {nil, ErrFormat},
		"one byte":         {whole[:1], ErrFormat},
		"nonce only":       {whole[:headerSize], ErrFormat},
		"too short a tag":  {whole[:headerSize+chacha20poly1305.Overhead-1], ErrFormat},
		"empty ciphertext": {whole[:headerSize+chacha20poly1305.Overhead], ErrOpen},
		"cut":              {whole[:len(whole)-1], ErrOpen},
		"lengthened":       {edit(func(b []byte) []byte { return append(b, 0) }), ErrOpen},
		"too long":         {edit(func(b []byte) []byte { return append(b, make([]byte, MaxSize)...) }), ErrFormat},
		"longest":          {edit(func(b []byte) []byte { return append(b, make([]byte, MaxSize-len(b))...) }), ErrOpen},
		"other version":    {edit(func(b []byte) []byte { b[0]++; return b }), ErrFormat},
		"other nonce":      {edit(func(b []byte) []byte { b[1] ^= 1; return b }), ErrOpen},
		"our own":          {seal(t, box(t, x, y), some), ErrOpen},
		"a stranger's":     {seal(t, box(t, z, x), some), ErrOpen},
		"for another":      {seal(t, box(t, y, z), some), ErrOpen},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := us.Open(tc.b, overlay); !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
		})
	}
	if _, err := us.Open(whole, overlay); err != nil {
		t.Errorf("after all that the peer's own is refused: %v", err)
	}
}

func TestDamage(t *testing.T) {
	x, y := node(t, 1), node(t, 2)
	whole, us := seal(t, box(t, y, x), some), box(t, x, y)
	for i := range len(whole) * 8 {
		b := slices.Clone(whole)
		b[i/8] ^= 1 << (i % 8)
		if _, err := us.Open(b, overlay); err == nil {
			t.Errorf("bit %d was changed and nobody noticed", i)
		}
	}
}

// TestReplay: only a signal newer than the last counts.
func TestReplay(t *testing.T) {
	x, y := node(t, 1), node(t, 2)
	from, to := box(t, x, y), box(t, y, x)
	var all [][]byte
	for range 5 {
		all = append(all, seal(t, from, some))
	}
	for i, b := range all {
		if _, err := to.Open(b, overlay); err != nil {
			t.Errorf("signal %d: %v", i, err)
		}
		for j, old := range all[:i+1] {
			if _, err := to.Open(old, overlay); !errors.Is(err, ErrReplay) {
				t.Errorf("signal %d again after %d: %v", j, i, err)
			}
		}
	}
	late := box(t, y, x)
	if _, err := late.Open(all[3], overlay); err != nil {
		t.Error(err)
	}
	if _, err := late.Open(all[2], overlay); !errors.Is(err, ErrReplay) {
		t.Errorf("one that was overtaken: %v", err)
	}
}

// TestRotation: while a node key rotates, signals under both are opened; one that was seen under either is not opened again.
func TestRotation(t *testing.T) {
	us, current, next := node(t, 1), node(t, 2), node(t, 3)
	to, peer := box(t, us, current, next), box(t, current, us)
	old := seal(t, peer, some)
	if _, err := to.Open(old, overlay); err != nil {
		t.Errorf("current key: %v", err)
	}
	late := seal(t, peer, some)
	if _, err := peer.Open(seal(t, to, some), overlay); err != nil {
		t.Errorf("ours does not go out under the current key: %v", err)
	}
	peer.SetKeys(keys(t, next, us))
	if _, err := to.Open(seal(t, peer, some), overlay); err != nil {
		t.Errorf("next key: %v", err)
	}
	for _, b := range [][]byte{old, late} {
		if _, err := to.Open(b, overlay); !errors.Is(err, ErrReplay) {
			t.Errorf("replay under the other key: %v", err)
		}
	}
	to.SetKeys(keys(t, us, next))
	if _, err := to.Open(seal(t, box(t, current, us), some), overlay); !errors.Is(err, ErrOpen) {
		t.Errorf("the old key after the rotation: %v", err)
	}
	if _, err := peer.Open(seal(t, to, some), overlay); err != nil {
		t.Errorf("ours after the rotation: %v", err)
	}
}

// forge seals a signal as the peer could: authentic, whatever it says. Without a stamp it gets that of a first signal.
func forge(t testing.TB, by *Keys, m *pb.Signal) []byte {
	t.Helper()
	if m.Start == 0 {
		m.Start, m.Challenge, m.Sequence = 7, 9, max(m.Sequence, 1)
	}
	plain, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return sealRaw(by, plain)
}

func sealRaw(by *Keys, plain []byte) []byte {
	out := make([]byte, headerSize)
	out[0] = version
	rand.Read(out[1:])
	return by.out.Seal(out, out[1:headerSize], plain, out[:1])
}

// TestLyingPeer: what an authentic peer says is hostile all the same. What is malformed is refused as a whole and does not count as the last
// one; addresses that nothing may be sent to are left out.
func TestLyingPeer(t *testing.T) {
	x, y := node(t, 1), node(t, 2)
	peer := keys(t, y, x)
	at := func(addr []byte, port uint32) *pb.Candidate { return &pb.Candidate{Address: addr, Port: port} }
	many := make([]*pb.Candidate, candidate.Max+1)
	for i := range many {
		many[i] = at([]byte{192, 0, 2, byte(i)}, 1)
	}
	us := box(t, x, y)
	for name, b := range map[string][]byte{
		"no protobuf":         sealRaw(peer, []byte{0xff, 0xff, 0xff}),
		"too many":            forge(t, peer, &pb.Signal{Sequence: 1 << 63, Candidates: many}),
		"address of 5 bytes":  forge(t, peer, &pb.Signal{Sequence: 1 << 63, Candidates: []*pb.Candidate{at(make([]byte, 5), 1)}}),
		"no address":          forge(t, peer, &pb.Signal{Sequence: 1 << 63, Candidates: []*pb.Candidate{at(nil, 1)}}),
		"port beyond 16 bits": forge(t, peer, &pb.Signal{Sequence: 1 << 63, Candidates: []*pb.Candidate{at([]byte{192, 0, 2, 1}, 65536)}}),
	} {
		if _, err := us.Open(b, overlay); !errors.Is(err, ErrFormat) && !errors.Is(err, ErrReplay) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, m := range map[string]*pb.Signal{"start": {Sequence: 1, Challenge: 1}, "count": {Start: 1, Challenge: 1}, "challenge": {Start: 1, Sequence: 1}} {
		plain, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := us.Open(sealRaw(peer, plain), overlay); !errors.Is(err, ErrFormat) {
			t.Errorf("without a %s: %v", name, err)
		}
	}
	bad := []*pb.Candidate{
		at([]byte{127, 0, 0, 1}, 1), at([]byte{100, 70, 0, 9}, 1), at([]byte{224, 0, 0, 1}, 1), at([]byte{255, 255, 255, 255}, 1),
		at([]byte{0, 0, 0, 0}, 1), at([]byte{169, 254, 1, 1}, 1), at([]byte{192, 0, 2, 1}, 0), at(netip.MustParseAddr("::ffff:192.0.2.1").AsSlice(), 1),
		at(netip.MustParseAddr("fe80::1").AsSlice(), 1), at(netip.MustParseAddr("ff02::1").AsSlice(), 1), at(netip.IPv6Loopback().AsSlice(), 1),
		at([]byte{192, 0, 2, 2}, 7), at([]byte{192, 0, 2, 2}, 7),
	}
	got, err := us.Open(forge(t, peer, &pb.Signal{Sequence: 1, Candidates: bad}), overlay)
	if err != nil {
		t.Fatal(err)
	}
	want := []candidate.Candidate{{Addr: netip.MustParseAddrPort("192.0.2.2:7")}}
	if diff := cmp.Diff(want, got.Candidates, addresses); diff != "" {
		t.Error(diff)
	}
}

// TestSize: the largest signal fits, and no more than candidate.Max candidates go along.
func TestSize(t *testing.T) {
	x, y := node(t, 1), node(t, 2)
	var s Signal
	for i := range 2 * candidate.Max {
		a := netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("2001:db8:ffff:ffff:ffff:ffff:ffff:%x", i+1)), 65535)
		s.Candidates = append(s.Candidates, candidate.Candidate{Kind: pb.CandidateKind_CANDIDATE_KIND_PORT_MAPPED, Addr: a})
	}
	b := seal(t, box(t, x, y), s)
	if len(b) > MaxSize {
		t.Errorf("%d bytes, more than %d", len(b), MaxSize)
	}
	got, err := box(t, y, x).Open(b, overlay)
	if err != nil || len(got.Candidates) != candidate.Max {
		t.Errorf("%d candidates, %v; want %d", len(got.Candidates), err, candidate.Max)
	}
}

// TestNonces: the same signal never looks the same, so that no relay can tell two apart from two alike, and no nonce comes twice.
func TestNonces(t *testing.T) {
	x, y := node(t, 1), node(t, 2)
	from, seen := box(t, x, y), map[[chacha20poly1305.NonceSizeX]byte]bool{}
	for range 1000 {
		nonce := [chacha20poly1305.NonceSizeX]byte(seal(t, from, some)[1:])
		if seen[nonce] {
			t.Fatal("a nonce came twice")
		}
		seen[nonce] = true
	}
}

func TestNoKeys(t *testing.T) {
	if _, err := NewBox().Seal(some); err == nil {
		t.Error("a signal was sealed without a key")
	}
	if _, err := NewBox().Open(seal(t, box(t, node(t, 1), node(t, 2)), some), overlay); !errors.Is(err, ErrOpen) {
		t.Errorf("opened without a key: %v", err)
	}
	if _, err := NewKeys(node(t, 1), node(t, 1).Public()); err == nil {
		t.Error("our own key was taken for a peer's")
	}
	loworder, err := key.NodePublicFromBytes(append([]byte{1}, make([]byte, key.Size-1)...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewKeys(node(t, 1), loworder); err == nil {
		t.Error("a point of low order was taken for a peer's key")
	}
}

// TestDerivation opens a signal by the steps that docs/wire.md tells, without this package.
func TestDerivation(t *testing.T) {
	x, y := node(t, 1), node(t, 2)
	secret, err := x.Shared(y.Public())
	if err != nil {
		t.Fatal(err)
	}
	first, second := x.Public().Bytes(), y.Public().Bytes()
	info := "first to second"
	if bytes.Compare(first, second) > 0 {
		first, second, info = second, first, "second to first"
	}
	k, err := hkdf.Key(sha256.New, secret[:], slices.Concat([]byte("warren signal 1"), first, second), info, 32)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := chacha20poly1305.NewX(k)
	if err != nil {
		t.Fatal(err)
	}
	b := seal(t, box(t, x, y), some)
	plain, err := aead.Open(nil, b[1:25], b[25:], []byte{1})
	if err != nil {
		t.Fatal(err)
	}
	var m pb.Signal
	if err := proto.Unmarshal(plain, &m); err != nil || !m.GetCall() || m.GetSequence() != 1 || m.GetStart() == 0 || len(m.GetCandidates()) != 2 {
		t.Errorf("%v, %v", &m, err)
	}
}

// FuzzOpen gives Open bytes as they come from a relay, and as a peer could seal them.
func FuzzOpen(f *testing.F) {
	x, y := node(f, 1), node(f, 2)
	peer := keys(f, y, x)
	plain, err := proto.Marshal(&pb.Signal{Sequence: 9, Call: true, Candidates: candidate.ToProto(some.Candidates)})
	if err != nil {
		f.Fatal(err)
	}
	good := make([]byte, headerSize) // with a nonce that is the same in every process
	good[0] = version
	good = peer.out.Seal(good, good[1:headerSize], plain, good[:1])
	f.Add(good, false)
	f.Add(plain, true)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, b []byte, authentic bool) {
		us := box(t, x, y)
		if authentic {
			b = sealRaw(peer, b)
		}
		s, err := us.Open(b, overlay)
		if err != nil {
			return
		}
		if !authentic && !bytes.Equal(b, good) {
			t.Error("a forgery was opened")
		}
		if len(s.Candidates) > candidate.Max {
			t.Errorf("%d candidates", len(s.Candidates))
		}
		for _, c := range s.Candidates {
			if candidate.Usable(c.Addr, overlay) != nil {
				t.Errorf("nothing may be sent to %s", c.Addr)
			}
		}
		if _, err := us.Open(b, overlay); !errors.Is(err, ErrReplay) {
			t.Errorf("once more: %v", err)
		}
	})
}
