package key

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
)

// private and public are what the roles have in common.
type private interface {
	fmt.Formatter
	slog.LogValuer
	Bytes() []byte
	IsZero() bool
}

type public interface {
	fmt.Stringer
	Bytes() []byte
	IsZero() bool
	Raw() [Size]byte
	Short() string
}

type role struct {
	name   string
	prefix string
	draw   func() (private, public)
	zero   []any
	parse  func(string) (public, error)
	pub    func([]byte) (public, error)
	priv   func([]byte) (private, public, error)
}

func roles() []role {
	return []role{
		{
			"node", "", func() (private, public) { k := NewNode(); return k, k.Public() }, []any{NodePrivate{}, NodePublic{}},
			func(s string) (public, error) { return ParseNodePublic(s) },
			func(b []byte) (public, error) { return NodePublicFromBytes(b) },
			func(b []byte) (private, public, error) { k, err := NodePrivateFromBytes(b); return k, k.Public(), err },
		},
		{
			"device", "device:", func() (private, public) { k := NewDevice(); return k, k.Public() }, []any{DevicePrivate{}, DevicePublic{}},
			func(s string) (public, error) { return ParseDevicePublic(s) },
			func(b []byte) (public, error) { return DevicePublicFromBytes(b) },
			func(b []byte) (private, public, error) {
				k, err := DevicePrivateFromBytes(b)
				return k, k.Public(), err
			},
		},
		{
			"authority", "authority:", func() (private, public) { k := NewAuthority(); return k, k.Public() }, []any{AuthorityPrivate{}, AuthorityPublic{}},
			func(s string) (public, error) { return ParseAuthorityPublic(s) },
			func(b []byte) (public, error) { return AuthorityPublicFromBytes(b) },
			func(b []byte) (private, public, error) {
				k, err := AuthorityPrivateFromBytes(b)
				return k, k.Public(), err
			},
		},
		{
			"signing", "signing:", func() (private, public) { k := NewSigning(); return k, k.Public() }, []any{SigningPrivate{}, SigningPublic{}},
			func(s string) (public, error) { return ParseSigningPublic(s) },
			func(b []byte) (public, error) { return SigningPublicFromBytes(b) },
			func(b []byte) (private, public, error) {
				k, err := SigningPrivateFromBytes(b)
				return k, k.Public(), err
			},
		},
		{
			"token", "jointoken:", func() (private, public) { k := NewToken(); return k, k.Public() }, []any{TokenPrivate{}, TokenPublic{}},
			func(s string) (public, error) { return ParseTokenPublic(s) },
			func(b []byte) (public, error) { return TokenPublicFromBytes(b) },
			func(b []byte) (private, public, error) { k, err := TokenPrivateFromBytes(b); return k, k.Public(), err },
		},
	}
}

func TestRoundTrips(t *testing.T) {
	for _, r := range roles() {
		priv, pub := r.draw()
		again, half, err := r.priv(priv.Bytes())
		if err != nil || !bytes.Equal(again.Bytes(), priv.Bytes()) || half.Raw() != pub.Raw() {
			t.Errorf("%s: private key: %v", r.name, err)
		}
		if got, err := r.pub(pub.Bytes()); err != nil || got.Raw() != pub.Raw() {
			t.Errorf("%s: bytes: %v", r.name, err)
		}
		if got, err := r.parse(pub.String()); err != nil || got.Raw() != pub.Raw() {
			t.Errorf("%s: text: %v", r.name, err)
		}
		if !strings.HasPrefix(pub.String(), r.prefix) || !strings.HasPrefix(pub.String(), pub.Short()) || len(pub.Short()) != len(r.prefix)+8 {
			t.Errorf("%s: %s, short %s", r.name, pub, pub.Short())
		}
		if other, otherPub := r.draw(); bytes.Equal(other.Bytes(), priv.Bytes()) || otherPub.Raw() == pub.Raw() {
			t.Errorf("%s: the same key was drawn twice", r.name)
		}
		priv.Bytes()[0]++
		pub.Bytes()[0]++
		if !bytes.Equal(again.Bytes(), priv.Bytes()) || half.Raw() != pub.Raw() {
			t.Errorf("%s: Bytes gave more than a copy", r.name)
		}
	}
}

func TestZero(t *testing.T) {
	for _, r := range roles() {
		if priv, pub := r.draw(); priv.IsZero() || pub.IsZero() {
			t.Errorf("%s: a drawn key is zero", r.name)
		}
		for _, k := range r.zero {
			if !k.(interface{ IsZero() bool }).IsZero() || len(k.(interface{ Bytes() []byte }).Bytes()) != Size {
				t.Errorf("%s: %T is not zero", r.name, k)
			}
		}
		if _, _, err := r.priv(make([]byte, Size)); err == nil {
			t.Errorf("%s: zeros are a private key", r.name)
		}
	}
	if (DevicePublic{}).Verify(nil, make([]byte, 64)) {
		t.Error("an unset key verified something")
	}
}

func TestHostileBytesAndText(t *testing.T) {
	for _, r := range roles() {
		_, pub := r.draw()
		for _, n := range []int{0, 1, Size - 1, Size + 1, 2 * Size, 1 << 16} {
			if _, err := r.pub(make([]byte, n)); err == nil {
				t.Errorf("%s: %d bytes are a key", r.name, n)
			}
			if _, _, err := r.priv(bytes.Repeat([]byte{1}, n)); err == nil {
				t.Errorf("%s: %d bytes are a private key", r.name, n)
			}
		}
		good := pub.String()
		zeros := r.prefix + base64.StdEncoding.EncodeToString(make([]byte, Size))
		for _, text := range []string{
			"", r.prefix, good + "=", good[:len(good)-1], good + " ", " " + good, good[:len(good)-2] + "!=", "other:" + good, zeros,
			good + "\n" + good, good + "\n", good[:len(good)-9] + "\r\n" + good[len(good)-9:], r.prefix + strings.Repeat("A", 1<<16), r.prefix + strings.ToUpper("device:"), good[:len(good)-2] + "B=",
		} {
			if got, err := r.parse(text); err == nil && got.String() != text {
				t.Errorf("%s: %.80q is read as %s", r.name, text, got)
			} else if err != nil && len(err.Error()) > 300 {
				t.Errorf("%s: an error of %d bytes", r.name, len(err.Error()))
			}
		}
		for _, other := range roles() {
			if _, foreign := other.draw(); other.name != r.name {
				if _, err := r.parse(foreign.String()); err == nil {
					t.Errorf("a %s key is read as a %s key", other.name, r.name)
				}
			}
		}
	}
}

// Private keys do not print, by whatever verb or logger, alone, in exported or in unexported fields.
func TestPrivateKeysDoNotPrint(t *testing.T) {
	for _, r := range roles() {
		priv, _ := r.draw()
		raw := priv.Bytes()
		type hiding struct{ k any }
		typed := reflect.New(reflect.StructOf([]reflect.StructField{
			{Name: "k", PkgPath: "warren/proto/key", Type: reflect.TypeOf(priv)},
		})).Elem()
		// An unexported field of the key's own type, as callers have them.
		reflect.NewAt(typed.Field(0).Type(), typed.Field(0).Addr().UnsafePointer()).Elem().Set(reflect.ValueOf(priv))
		var out strings.Builder
		for _, v := range []any{priv, &priv, []any{priv}, map[string]any{"k": priv}, struct{ K any }{priv}, hiding{priv}, &hiding{priv}, typed.Interface()} {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%08b", "%o", "%U"} {
				fmt.Fprintf(&out, verb+"\n", v)
			}
			b, err := json.Marshal(v)
			fmt.Fprintln(&out, string(b), err)
			slog.New(slog.NewTextHandler(&out, nil)).Info("x", "k", v)
			slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "k", v)
		}
		text := strings.ToLower(out.String())
		for what, secret := range map[string]string{
			"hexadecimal": hex.EncodeToString(raw[4:12]), "base64": strings.ToLower(base64.StdEncoding.EncodeToString(raw)[:20]),
			"decimal": strings.Trim(fmt.Sprint(raw[4:12]), "[]"), "raw": strings.ToLower(string(raw[4:12])),
			"Go syntax": strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", raw[4:8]), "[]byte{"), "}")),
		} {
			if strings.Contains(text, secret) {
				t.Errorf("%s: a private key prints in %s:\n%.3000s", r.name, what, out.String())
			}
		}
		if got := fmt.Sprint(priv); got != "["+r.name+" private key]" {
			t.Errorf("prints as %q", got)
		}
	}
}

// A comparison with == would not take constant time; the compiler refuses it.
func TestNotComparable(t *testing.T) {
	for _, r := range roles() {
		priv, pub := r.draw()
		if reflect.TypeOf(priv).Comparable() || reflect.TypeOf(pub).Comparable() {
			t.Errorf("%s keys can be compared with ==", r.name)
		}
	}
}

func TestSignatures(t *testing.T) {
	k, other := NewDevice(), NewDevice()
	message := []byte("message")
	s := k.Sign(message)
	if !k.Public().Verify(message, s) || !k.Public().Equal(k.Public()) || k.Public().Equal(other.Public()) {
		t.Fatal("a key does not know its own")
	}
	for name, ok := range map[string]bool{
		"another key": other.Public().Verify(message, s), "another message": k.Public().Verify([]byte("massage"), s),
		"no signature": k.Public().Verify(message, nil), "cut": k.Public().Verify(message, s[:63]), "longer": k.Public().Verify(message, append(s, 0)),
	} {
		if ok {
			t.Errorf("%s verified", name)
		}
	}
	for i := range s {
		bent := bytes.Clone(s)
		bent[i] ^= 0x10
		if k.Public().Verify(message, bent) {
			t.Errorf("verified with byte %d changed", i)
		}
	}
}

func TestShared(t *testing.T) {
	a, b := NewNode(), NewNode()
	x, err := a.Shared(b.Public())
	y, err2 := b.Shared(a.Public())
	if err != nil || err2 != nil || x != y {
		t.Errorf("%x, %x, %v, %v", x, y, err, err2)
	}
	low, err := NodePublicFromBytes(append([]byte{1}, make([]byte, 31)...))
	if err != nil {
		t.Fatal(err)
	}
	if s, err := a.Shared(low); err == nil {
		t.Errorf("a point of low order gave %x", s)
	}
	for range 50 {
		if b := NewNode().Bytes(); b[0]&7 != 0 || b[31]&128 != 0 || b[31]&64 == 0 {
			t.Fatalf("%x is not clamped", b)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, r := range roles() {
		f.Add(r.prefix + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, Size)))
	}
	f.Add("device:")
	f.Fuzz(func(t *testing.T, text string) {
		for _, r := range roles() {
			if k, err := r.parse(text); err == nil && (k.String() != text || k.IsZero()) {
				t.Errorf("%q is read as %s", text, k)
			}
		}
	})
}
