package token

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

func sample() *Token {
	return &Token{
		Network: record.NetworkID{1, 2}, Authority: key.NewAuthority().Public(), Secret: Secret{3, 4},
		Endpoints: []Endpoint{{"https://192.0.2.1:8443", pb.TLSMode_TLS_MODE_SELF}, {"https://[2001:db8::1]", pb.TLSMode_TLS_MODE_PUBLIC}},
	}
}

func TestRoundTrip(t *testing.T) {
	want := sample()
	text, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	half := len(text) / 2
	for name, in := range map[string]string{
		"as it is": text, "wrapped": text[:half] + "\r\n  " + text[half:], "in white space": "\t" + text + " \n", "no-break space": text[:9] + "\u00a0" + text[9:],
	} {
		got, err := Parse(in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := cmp.Diff(want, got, cmp.Comparer(key.AuthorityPublic.Equal)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A mistake of whoever copied a token is noticed at once.
func TestCopyMistakes(t *testing.T) {
	text, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for i := range text {
		for _, bad := range []string{text[:i], text[:i] + text[i+1:], text[:i] + "?" + text[i+1:], text[:i] + string(text[i]^1) + text[i+1:]} {
			if got, err := Parse(bad); err == nil || !errors.Is(err, ErrMalformed) {
				t.Fatalf("%q is read as %v, %v", bad, got, err)
			}
		}
	}
}

// A token that was made by somebody else.
func TestHostile(t *testing.T) {
	encode := func(b []byte) string { return Prefix + base64.RawURLEncoding.EncodeToString(append(b, check(b)...)) }
	for name, text := range map[string]string{
		"empty": "", "blank": " \n", "prefix alone": Prefix, "another version": "wrn2abcd", "no message": encode(nil), "long": Prefix + strings.Repeat("A", maxText),
		"checksum alone": Prefix + base64.RawURLEncoding.EncodeToString(make([]byte, 4)), "garbage": encode([]byte("\xff\xff\xff")), "padding": encode([]byte{0}) + "=",
	} {
		if got, err := Parse(text); !errors.Is(err, ErrMalformed) || len(err.Error()) > 500 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for name, change := range map[string]func(*pb.JoinToken){
		"no network":     func(m *pb.JoinToken) { m.NetworkId = nil },
		"no authority":   func(m *pb.JoinToken) { m.AuthorityKey = nil },
		"zero authority": func(m *pb.JoinToken) { m.AuthorityKey = make([]byte, 32) },
		"short secret":   func(m *pb.JoinToken) { m.Secret = m.Secret[:15] },
		"no address":     func(m *pb.JoinToken) { m.Endpoints = nil },
		"17 addresses":   func(m *pb.JoinToken) { m.Endpoints = seventeen(m.Endpoints[0]) },
		"bad address":    func(m *pb.JoinToken) { m.Endpoints[0].Url = "file:///etc/passwd" },
		"no mode":        func(m *pb.JoinToken) { m.Endpoints[0].TlsMode = 0 },
	} {
		m := &pb.JoinToken{
			NetworkId: make([]byte, 16), AuthorityKey: key.NewAuthority().Public().Bytes(), Secret: make([]byte, 16),
			Endpoints: []*pb.Endpoint{{Url: "https://x", TlsMode: pb.TLSMode_TLS_MODE_SELF}},
		}
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(encode(b)); err != nil {
			t.Fatal(err)
		}
		change(m)
		if b, err = proto.Marshal(m); err != nil {
			t.Fatal(err)
		}
		if got, err := Parse(encode(b)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	bad := sample()
	bad.Endpoints = nil
	if text, err := bad.Encode(); err == nil {
		t.Errorf("a token that nobody can read was printed: %s", text)
	}
}

func seventeen(e *pb.Endpoint) (out []*pb.Endpoint) {
	for range 17 {
		out = append(out, e)
	}
	return out
}

func TestCheckEndpoint(t *testing.T) {
	self, public, off := pb.TLSMode_TLS_MODE_SELF, pb.TLSMode_TLS_MODE_PUBLIC, pb.TLSMode_TLS_MODE_OFF
	for _, test := range []struct {
		url  string
		mode pb.TLSMode
		ok   bool
	}{
		{"https://example.com", self, true},
		{"https://example.com/", public, true},
		{"https://192.0.2.1:443", self, true},
		{"https://[2001:db8::1]:65535", self, true},
		{"http://127.0.0.1:8080", off, true},
		{"https://example.com", off, false},
		{"http://example.com", self, false},
		{"https://example.com", 0, false},
		{"https://example.com", 9, false},
		{"", self, false},
		{"https://", self, false},
		{"https://:443", self, false},
		{"example.com", self, false},
		{"example.com:443", self, false},
		{"https:example.com", self, false},
		{"https://example.com/path", self, false},
		{"https://example.com?", self, false},
		{"https://example.com?q", self, false},
		{"https://example.com#", self, false},
		{"https://example.com#f", self, false},
		{"https://user@example.com", self, false},
		{"https://example.com:", self, false},
		{"https://example.com:0", self, false},
		{"https://example.com:65536", self, false},
		{"https://example.com:https", self, false},
		{"https://exam ple.com", self, false},
		{"https://example.com\n", self, false},
		{"https://example.com\x1b[2J", self, false},
		{"https://ex\u202eample.com", self, false},
		{"https://" + strings.Repeat("a", 300), self, false},
		{"HTTPS://example.com", self, true},
	} {
		err := CheckEndpoint(test.url, test.mode)
		if (err == nil) != test.ok || (err != nil && strings.ContainsAny(err.Error(), "\n\x1b\u202e")) {
			t.Errorf("%q, %v: %v", test.url, test.mode, err)
		}
	}
}

// The coordinator and the device derive the same key, for ever.
func TestKey(t *testing.T) {
	k, err := Secret{1}.Key()
	if err != nil {
		t.Fatal(err)
	}
	const want = "jointoken:ZR9X0YTS4Um3NLqBK2yqQ2KiL0xB4JoqhII7IpP3Bdg="
	if got := k.Public().String(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	other, err := Secret{2}.Key()
	if err != nil || other.Public().Equal(k.Public()) || Hash(other.Public()) == Hash(k.Public()) {
		t.Errorf("two secrets have one key; %v", err)
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	tok := sample()
	for i := range tok.Secret {
		tok.Secret[i] = 0xab
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		for _, v := range []any{tok, *tok, tok.Secret, &tok.Secret} {
			if out := fmt.Sprintf(verb, v); strings.Contains(strings.ToLower(out), "abababab") || strings.Contains(out, "171 171") || strings.Contains(out, "0xab, 0xab") {
				t.Errorf("%s of %T: %s", verb, v, out)
			}
		}
	}
	if b, err := tok.Secret.MarshalText(); err != nil || string(b) != "[secret]" {
		t.Errorf("as text: %s, %v", b, err)
	}
}

func FuzzParse(f *testing.F) {
	tok := sample()
	text, err := tok.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(text), false)
	f.Add([]byte{10, 16}, true)
	f.Fuzz(func(t *testing.T, b []byte, whole bool) {
		text := string(b)
		if whole { // the fuzzer finds no checksum by itself
			text = Prefix + base64.RawURLEncoding.EncodeToString(append(b, check(b)...))
		}
		tok, err := Parse(text)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%v is no ErrMalformed", err)
			}
			return
		}
		again, err := tok.Encode()
		if err != nil {
			t.Fatalf("parsed, but cannot be printed: %v", err)
		}
		if got, err := Parse(again); err != nil || cmp.Diff(tok, got, cmp.Comparer(key.AuthorityPublic.Equal)) != "" {
			t.Errorf("%v, %v", got, err)
		}
	})
}
