package check

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"warren/nat/stunmsg"
	"warren/proto/key"
)

var from = netip.MustParseAddrPort("203.0.113.7:40000")

// node gives a node key that is the same in every run.
func node(t testing.TB, n byte) key.NodePrivate {
	t.Helper()
	k, err := key.NodePrivateFromBytes(bytes.Repeat([]byte{n}, key.Size))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func keys(t testing.TB, self key.NodePrivate, peer key.NodePublic) *Keys {
	t.Helper()
	k, err := NewKeys(self, peer)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// two gives what two devices hold for each other.
func two(t testing.TB) (a, b *Keys) {
	x, y := node(t, 1), node(t, 2)
	return keys(t, x, y.Public()), keys(t, y, x.Public())
}

func parse(t testing.TB, b []byte) *stunmsg.Message {
	t.Helper()
	m, err := stunmsg.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestSymmetric: whichever of two keys is the lesser one, either side verifies what the other wrote.
func TestSymmetric(t *testing.T) {
	a, b := two(t)
	for name, side := range map[string]struct{ me, peer *Keys }{"first to second": {a, b}, "second to first": {b, a}} {
		t.Run(name, func(t *testing.T) {
			tx := stunmsg.NewTxID()
			request := parse(t, side.me.Request(tx))
			if !bytes.Equal(request.Username, side.peer.Username()) {
				t.Errorf("USERNAME %q, the peer looks for %q", request.Username, side.peer.Username())
			}
			if err := side.peer.VerifyRequest(request); err != nil {
				t.Error(err)
			}
			answer := parse(t, side.peer.Success(tx, from))
			if err := side.me.VerifySuccess(answer); err != nil {
				t.Error(err)
			}
			if answer.Tx != tx || answer.Mapped != from {
				t.Errorf("answer %v for %v, mapped %s", answer.Tx, tx, answer.Mapped)
			}
		})
	}
}

// TestRefused: nothing but the peer's own words to us, of the right class, verify.
func TestRefused(t *testing.T) {
	a, b := two(t)
	stranger := keys(t, node(t, 3), node(t, 1).Public())
	tx := stunmsg.NewTxID()
	for name, tc := range map[string]struct {
		verify func(*stunmsg.Message) error
		b      []byte
	}{
		"own request, reflected":     {a.VerifyRequest, a.Request(tx)},
		"own answer, reflected":      {a.VerifySuccess, a.Success(tx, from)},
		"stranger's request":         {a.VerifyRequest, stranger.Request(tx)},
		"stranger's answer":          {a.VerifySuccess, stranger.Success(tx, from)},
		"answer as request":          {a.VerifyRequest, b.Success(tx, from)},
		"request as answer":          {a.VerifySuccess, b.Request(tx)},
		"unsigned request":           {a.VerifyRequest, stunmsg.NewRequest(tx, a.Username(), nil)},
		"unsigned answer":            {a.VerifySuccess, stunmsg.NewSuccess(tx, from, nil)},
		"with the other's USERNAME":  {a.VerifyRequest, stunmsg.NewRequest(tx, b.Username(), b.out.key)},
		"right USERNAME, wrong key":  {a.VerifyRequest, stunmsg.NewRequest(tx, a.Username(), a.out.key)},
		"a STUN server's own answer": {a.VerifySuccess, stunmsg.NewSuccess(tx, from, nil)},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tc.verify(parse(t, tc.b)); !errors.Is(err, ErrVerify) {
				t.Errorf("%v, want %v", err, ErrVerify)
			}
		})
	}
}

// TestDamage: of a check in which one bit differs nothing is left.
func TestDamage(t *testing.T) {
	a, b := two(t)
	tx := stunmsg.NewTxID()
	for name, tc := range map[string]struct {
		b      []byte
		verify func(*stunmsg.Message) error
	}{"request": {a.Request(tx), b.VerifyRequest}, "answer": {a.Success(tx, from), b.VerifySuccess}} {
		for i := range len(tc.b) * 8 {
			c := slices.Clone(tc.b)
			c[i/8] ^= 1 << (i % 8)
			if m, err := stunmsg.Parse(c); err == nil && tc.verify(m) == nil {
				t.Errorf("%s: bit %d was changed and nobody noticed", name, i)
			}
		}
	}
}

// TestDerivation derives the keys once more, by nothing but HMAC (RFC 5869), as docs/wire.md tells it: another program must find the same.
func TestDerivation(t *testing.T) {
	mac := func(k []byte, parts ...[]byte) []byte {
		h := hmac.New(sha256.New, k)
		for _, p := range parts {
			h.Write(p)
		}
		return h.Sum(nil)
	}
	x, y := node(t, 1), node(t, 2)
	first, second := x, y
	if bytes.Compare(x.Public().Bytes(), y.Public().Bytes()) > 0 {
		first, second = y, x
	}
	secret, err := x.Shared(y.Public())
	if err != nil {
		t.Fatal(err)
	}
	prk := mac([]byte("warren check 1"+string(first.Public().Bytes())+string(second.Public().Bytes())), secret[:])
	for direction, got := range map[string]half{
		"first to second": keys(t, first, second.Public()).out,
		"second to first": keys(t, second, first.Public()).out,
	} {
		username := hex.EncodeToString(mac(prk, []byte("username "+direction), []byte{1})[:8])
		integrity := mac(prk, []byte("integrity "+direction), []byte{1})
		if string(got.username) != username || !bytes.Equal(got.key, integrity) {
			t.Errorf("%s: USERNAME %s and key %x, want %s and %x", direction, got.username, got.key, username, integrity)
		}
	}
}

// TestUsernameTellsNothing: it differs for each direction and pair, and shows no part of a node key, which mac1 depends on.
func TestUsernameTellsNothing(t *testing.T) {
	seen := map[string]bool{}
	for i := byte(1); i <= 8; i++ {
		for j := byte(1); j <= 8; j++ {
			if i == j {
				continue
			}
			peer := node(t, j).Public()
			name := string(keys(t, node(t, i), peer).Username())
			if seen[name] {
				t.Errorf("USERNAME %s is used twice", name)
			}
			seen[name] = true
			if raw, err := hex.DecodeString(name); err != nil || bytes.Contains(peer.Bytes(), raw) || strings.Contains(peer.String(), name) {
				t.Errorf("USERNAME %s, %v, of key %s", name, err, peer)
			}
		}
	}
}

func TestNewKeysRefuses(t *testing.T) {
	self := node(t, 1)
	loworder, err := key.NodePublicFromBytes(append([]byte{1}, make([]byte, key.Size-1)...)) // shares zero with everybody (RFC 7748 section 6.1)
	if err != nil {
		t.Fatal(err)
	}
	for name, peer := range map[string]key.NodePublic{"our own": self.Public(), "a point of low order": loworder} {
		if _, err := NewKeys(self, peer); err == nil {
			t.Errorf("%s was taken for a peer's key", name)
		}
	}
}

// FuzzVerify: whatever verifies was written by the peer, up to its MESSAGE-INTEGRITY.
func FuzzVerify(f *testing.F) {
	a, b := two(f)
	tx := stunmsg.TxID{1, 2, 3}
	request, answer := b.Request(tx), b.Success(tx, from)
	f.Add(request)
	f.Add(answer)
	f.Add(a.Request(tx))
	f.Add(a.Success(tx, from))
	f.Add(stunmsg.NewRequest(tx, a.Username(), nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := stunmsg.Parse(data)
		if err != nil {
			return
		}
		covered := func(whole []byte) []byte { return whole[4 : len(whole)-8] } // all but type, length and FINGERPRINT
		if a.VerifyRequest(m) == nil && !bytes.HasPrefix(data[4:], covered(request)) {
			t.Errorf("a forged request passed: %x", data)
		}
		if a.VerifySuccess(m) == nil && !bytes.HasPrefix(data[4:], covered(answer)) {
			t.Errorf("a forged answer passed: %x", data)
		}
	})
}

func BenchmarkRequest(b *testing.B) {
	x, _ := two(b)
	for b.Loop() {
		x.Request(stunmsg.TxID{})
	}
}

func BenchmarkVerifyRequest(b *testing.B) {
	x, y := two(b)
	raw := x.Request(stunmsg.TxID{})
	for b.Loop() {
		m, err := stunmsg.Parse(raw)
		if err == nil {
			err = y.VerifyRequest(m)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// TestLayout holds the messages to what docs/wire.md says of their bytes.
func TestLayout(t *testing.T) {
	a, _ := two(t)
	attribute := func(b []byte, at int) [4]byte { return [4]byte(b[at:]) }
	request := a.Request(stunmsg.TxID{})
	for at, want := range map[int][4]byte{20: {0, 0x06, 0, 16}, 40: {0, 0x08, 0, 20}, 64: {0x80, 0x28, 0, 4}} {
		if len(request) != 72 || attribute(request, at) != want {
			t.Fatalf("at %d of %d stands %x, want %x", at, len(request), attribute(request, at), want)
		}
	}
	for size, mapped := range map[int]string{64: "192.0.2.1:1", 76: "[2001:db8::1]:1"} {
		answer := a.Success(stunmsg.TxID{}, netip.MustParseAddrPort(mapped))
		if len(answer) != size || attribute(answer, 20) != [4]byte{0, 0x20, 0, byte(size - 56)} {
			t.Errorf("the answer to %s has %d bytes, want %d: %x", mapped, len(answer), size, answer)
		}
	}
}
