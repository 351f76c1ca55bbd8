package datagram

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func pair(t testing.TB, session uint32) (*Sealer, *Opener) {
	t.Helper()
	key := bytes.Repeat([]byte{7}, KeySize)
	s, err1 := NewSealer(session, key)
	o, err2 := NewOpener(session, key)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return s, o
}

func seal(s *Sealer, kind Kind, channel uint16, payload string) []byte {
	return s.Seal(append(make([]byte, HeaderSize), payload...), kind, channel, new(Scratch))
}

func TestRoundTrip(t *testing.T) {
	for _, session := range []uint32{0, 1, 0x123456, MaxSession} {
		s, o := pair(t, session)
		for i, want := range []Datagram{
			{Data, 1, 1, []byte("packet"), true}, {Ping, 0, 2, []byte{}, true}, {Pong, MaxChannel, 3, []byte("x"), true},
		} {
			b := seal(s, want.Kind, want.Channel, string(want.Payload))
			if got, err := SessionOf(b); got != session || err != nil || !Looks(b) || len(b) != Overhead+len(want.Payload) {
				t.Errorf("session %d, %v, %d bytes", got, err, len(b))
			}
			got, err := o.Open(b, new(Scratch))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%d (-want +got):\n%s", i, diff)
			}
		}
	}
	if _, err := NewSealer(MaxSession+1, make([]byte, KeySize)); err == nil {
		t.Error("a session that does not fit was taken")
	}
	for _, n := range []int{0, 15, 17, 32} {
		if _, err := NewOpener(1, make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes was taken", n)
		}
	}
}

// TestEveryBitCounts: no bit of a datagram can be changed, and none of its bytes be left out.
func TestEveryBitCounts(t *testing.T) {
	s, o := pair(t, 0x010203)
	b := seal(s, Data, 5, "payload")
	for i := range len(b) * 8 {
		forged := bytes.Clone(b)
		forged[i/8] ^= 1 << (i % 8)
		if _, err := o.Open(forged, new(Scratch)); !errors.Is(err, ErrForged) && !errors.Is(err, ErrFormat) {
			t.Errorf("bit %d: %v", i, err)
		}
	}
	for n := range b {
		if _, err := o.Open(b[:n], new(Scratch)); err == nil {
			t.Errorf("%d bytes of it were taken", n)
		}
	}
	if _, err := o.Open(append(bytes.Clone(b), 0), new(Scratch)); err == nil {
		t.Error("a byte more was taken")
	}
	other, err := NewOpener(0x010203, make([]byte, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open(b, new(Scratch)); !errors.Is(err, ErrForged) {
		t.Errorf("under another key: %v", err)
	}
	if _, err := o.Open(b, new(Scratch)); err != nil {
		t.Errorf("the true one, afterwards: %v", err)
	}
	if _, err := o.Open(b, new(Scratch)); !errors.Is(err, ErrReplay) {
		t.Errorf("again: %v", err)
	}
}

// TestLongPayload: of a long packet the header, the length and both edges count, as far as a whole handshake would reach; of a probe all does.
func TestLongPayload(t *testing.T) {
	const size, handshake = 1452, 148
	for _, tc := range []struct {
		kind       Kind
		size, free int // how many bytes in the middle are WireGuard's to check
	}{{Data, size, size - 2*edge}, {Data, 2 * edge, 0}, {Data, 2*edge + 1, 1}, {Data, handshake, 0}, {Ping, size, 0}, {Pong, size, 0}} {
		s, o := pair(t, 1)
		b := seal(s, tc.kind, 1, string(make([]byte, tc.size)))
		free := 0
		for i := range b {
			forged := bytes.Clone(b)
			forged[i] ^= 0x10
			_, opener := pair(t, 1)
			if _, err := opener.Open(forged, new(Scratch)); err == nil {
				if free++; i < HeaderSize+edge || i >= len(b)-TagSize-edge {
					t.Errorf("kind %x of %d bytes: byte %d does not count", tc.kind, tc.size, i)
				}
			}
		}
		if free != tc.free {
			t.Errorf("kind %x of %d bytes: %d bytes do not count, want %d", tc.kind, tc.size, free, tc.free)
		}
		middle := len(b) / 2
		for name, cut := range map[string][]byte{
			"shorter": slices.Delete(bytes.Clone(b), middle, middle+1), "longer": slices.Insert(bytes.Clone(b), middle, 0),
		} {
			if _, err := o.Open(cut, new(Scratch)); err == nil {
				t.Errorf("kind %x of %d bytes: it opens when it is %s", tc.kind, tc.size, name)
			}
		}
	}
}

// TestReordered compares with a set of the counters that have come: each datagram opens once while it is not too old.
func TestReordered(t *testing.T) {
	s, o := pair(t, 9)
	s.counter.Store(1<<counterBits - 3000) // so that the low bits wrap on the way
	rng := rand.New(rand.NewPCG(1, 2))
	var sent [][]byte
	for range 6000 {
		sent = append(sent, seal(s, Data, 1, "x"))
	}
	o.highest = 1<<counterBits - 3000
	order := make([]int, len(sent))
	for i := range order {
		order[i] = i + rng.IntN(500)
	}
	index := make([]int, len(sent))
	for i := range index {
		index[i] = i
	}
	slices.SortStableFunc(index, func(a, b int) int { return order[a] - order[b] })
	came := map[int]bool{}
	for _, i := range index {
		for range 1 + rng.IntN(2) {
			_, err := o.Open(bytes.Clone(sent[i]), new(Scratch))
			if came[i] && !errors.Is(err, ErrReplay) || !came[i] && err != nil {
				t.Fatalf("datagram %d, come before: %v: %v", i, came[i], err)
			}
			came[i] = true
		}
	}
}

func TestExpand(t *testing.T) {
	const span = 1 << counterBits
	for _, tc := range []struct{ counter, highest uint64 }{
		{1, 0}, {5, 9}, {span - 1, 0 + span/2}, {span, span - 1}, {span + 3, span - 3}, {span - 3, span + 3}, {7*span - 1, 7 * span},
		{7*span + span/2, 7 * span}, {7*span - span/2 + 1, 7 * span},
	} {
		if got := expand(uint32(tc.counter%span), tc.highest); got != tc.counter {
			t.Errorf("counter %d after %d was taken for %d", tc.counter, tc.highest, got)
		}
	}
}

func TestProbe(t *testing.T) {
	for _, want := range []Probe{{}, {ID: 1 << 63, Using: true}, {ID: 3, Moved: true, Cookie: Cookie{1, 2, 3, 4, 5, 6, 7, 8}}} {
		for _, size := range []int{0, ProbeSize, 1452} {
			b := want.Append(nil, size)
			if len(b) != max(size, ProbeSize) {
				t.Errorf("%d bytes, want %d", len(b), size)
			}
			got, err := ParseProbe(b)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
	}
	if _, err := ParseProbe(make([]byte, ProbeSize-1)); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
}

// FuzzOpen: what was not sealed never opens, what was opens once, and nothing panics.
func FuzzOpen(f *testing.F) {
	s, _ := pair(f, 1)
	f.Add(seal(s, Data, 1, "payload"))
	f.Add(seal(s, Ping, 0, string(Probe{ID: 1}.Append(nil, 100))))
	f.Add([]byte{0xC0})
	f.Add(make([]byte, Overhead))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, o := pair(t, 1)
		d, err := o.Open(b, new(Scratch))
		if err != nil {
			return
		}
		if !Looks(b) || len(d.Payload) != len(b)-Overhead {
			t.Fatalf("%x opened as %d bytes", b, len(d.Payload))
		}
		again, _ := pair(t, 1)
		again.counter.Store(d.Counter - 1)
		if want := seal(again, d.Kind, d.Channel, string(d.Payload)); !bytes.Equal(want, b) {
			t.Fatalf("%x opened, but would be sealed as %x", b, want)
		}
		if _, err := o.Open(b, new(Scratch)); !errors.Is(err, ErrReplay) {
			t.Fatalf("again: %v", err)
		}
		ParseProbe(d.Payload)
	})
}

func TestNoAllocations(t *testing.T) {
	s, o := pair(t, 1)
	b, scratch := make([]byte, HeaderSize+1452, 1500), new(Scratch)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := o.Open(s.Seal(b, Data, 1, scratch), scratch); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSealOpen(b *testing.B) {
	s, o := pair(b, 1)
	d, scratch := make([]byte, HeaderSize+1452, 1500), new(Scratch)
	b.SetBytes(1452)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := o.Open(s.Seal(d, Data, 1, scratch), scratch); err != nil {
			b.Fatal(err)
		}
	}
}
