package relayframe

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var want []Frame
	var b []byte
	for i := range 300 {
		f := Frame{Type: Type(1 + i%8), Payload: make([]byte, []int{0, 1, 8, 1420, MaxPayload}[i%7%5])}
		for j := range f.Payload {
			f.Payload[j] = byte(rng.Uint32())
		}
		if f.Type.hasKey() {
			f.Peer[i%32] = byte(i)
		}
		n := len(b)
		b = Append(b, f)
		if f.Type.hasKey() && len(b)-n != Overhead+len(f.Payload) {
			t.Fatalf("frame of %d bytes for a payload of %d", len(b)-n, len(f.Payload))
		}
		want = append(want, f)
	}
	var got []Frame
	for len(b) > 0 {
		f, rest, err := Next(b)
		if err != nil {
			t.Fatal(err)
		}
		got, b = append(got, f), rest
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(bytes.Equal)); diff != "" {
		t.Error(diff)
	}
}

// The layout is the protocol: it must not move.
func TestLayout(t *testing.T) {
	peer := [32]byte{0: 0xaa, 31: 0xbb}
	data := append(append([]byte{0, 2, 1}, peer[:]...), 'h', 'i')
	for _, test := range []struct {
		name string
		f    Frame
		want []byte
	}{
		{"data", Frame{Data, peer, []byte("hi")}, data},
		{"ping", Frame{Ping, [32]byte{}, []byte("12345678")}, append([]byte{0, 8, 3}, "12345678"...)},
		{"gone", Frame{PeerGone, peer, []byte{}}, append([]byte{0, 0, 5}, peer[:]...)},
		{"bind", Frame{Bind, peer, []byte{1, 2}}, append(append([]byte{0, 2, 6}, peer[:]...), 1, 2)},
		{"bound", Frame{Bound, peer, []byte{1, 2}}, append(append([]byte{0, 2, 7}, peer[:]...), 1, 2)},
		{"stop", Frame{Stop, [32]byte{}, nil}, []byte{0, 0, 8}},
	} {
		if got := Append(nil, test.f); !bytes.Equal(got, test.want) {
			t.Errorf("%s: %x, want %x", test.name, got, test.want)
		}
	}
}

func TestHostile(t *testing.T) {
	whole := Append(nil, Frame{Signal, [32]byte{1}, []byte("payload")})
	for n := range whole {
		if _, _, err := Next(whole[:n]); !errors.Is(err, ErrShort) {
			t.Errorf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
	for kind := range 256 {
		b := bytes.Clone(whole)
		b[2] = byte(kind)
		_, _, err := Next(b)
		if known := kind >= 1 && kind <= 8; known != !errors.Is(err, ErrType) {
			t.Errorf("type %d: %v", kind, err)
		}
	}
	f, rest, err := Next(append(whole, whole...))
	if err != nil || len(rest) != len(whole) {
		t.Fatal(err)
	}
	if f.Payload = append(f.Payload, 'x'); rest[0] != whole[0] {
		t.Error("appending to a payload changed the frame behind it")
	}
}

func FuzzNext(f *testing.F) {
	for kind := range 10 {
		f.Add(Append(nil, Frame{Type(kind), [32]byte{9}, []byte("seed")}))
	}
	f.Add([]byte{255, 255, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.Clone(b)
		var again []byte
		for rest := b; len(rest) > 0; {
			frame, next, err := Next(rest)
			if err != nil {
				again = append(again, rest...)
				break
			}
			if len(next) >= len(rest) {
				t.Fatal("no step forward")
			}
			again, rest = Append(again, frame), next
		}
		if !bytes.Equal(again, in) || !bytes.Equal(b, in) {
			t.Errorf("%x became %x", in, again)
		}
	})
}
