package bugreport

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSecretsByForm(t *testing.T) {
	r := NewRedactor(false)
	for in, want := range map[string]string{
		"up wrn1CgQKAhAB_-x9 now":   "up [secret] now",
		"WARREN_TOKEN=wrn1CgQKAhAB": "WARREN_TOKEN=[secret]",
		"-----BEGIN EC PRIVATE KEY-----\nMHcC\nAQEE\n-----END EC PRIVATE KEY-----\nx": "-----BEGIN EC PRIVATE KEY-----[secret]-----END EC PRIVATE KEY-----\nx",
		"-----BEGIN PRIVATE KEY-----\nMHcC":                                           "-----BEGIN PRIVATE KEY-----[secret]",
		"-----BEGIN CERTIFICATE-----\nMHcC\n-----END CERTIFICATE-----":                "-----BEGIN CERTIFICATE-----\nMHcC\n-----END CERTIFICATE-----",
		"proxy http://user:p%40ss@proxy.example:3128/x":                               "proxy http://[secret]@proxy.example:3128/x",
		"GET https://otlp.example/v1/logs?api=abc&x=1 failed":                         "GET https://otlp.example/v1/logs?[secret] failed",
		"Authorization: Bearer abc def":                                               "Authorization: [secret]",
		`OTEL_EXPORTER_OTLP_HEADERS="api-key=abc,x=y"`:                                `OTEL_EXPORTER_OTLP_HEADERS=[secret]`,
		"PrivateKey = 4N0q/x=":                                                        "PrivateKey = [secret]",
		`{"private_key": "4N0q"}`:                                                     `{"private_key": "[secret]"}`,
		`msg="\"password\":\"Hunter2\""`:                                              `msg="\"password\":\"[secret]\""`,
		`password = "correct horse battery"`:                                          `password = "[secret]"`,
		`{"secret": "two words", "x": 1}`:                                             `{"secret": "[secret]", "x": 1}`,
		`{"endpoints_of_token": [` + "\n  {\n" + `"URL": 1}]}`:                        `{"endpoints_of_token": [` + "\n  {\n" + `"URL": 1}]}`,
		`tokens = 3; token = ["Ab12cdef", "x"]`:                                       `tokens = 3; token = ["[secret]", "x"]`,
		"Environment=PASSWORD=hunter":                                                 "Environment=PASSWORD=[secret]",
		"auth:\n  password: hunter\n  user: x":                                        "auth:\n  password: [secret]\n  user: x",
		`token-file = "/etc/warren/token"`:                                            `token-file = "/etc/warren/token"`,
		`#token = ""`:                                                                 `#token = ""`,
		`"token": null, "secret": false, "reusable": true`:                            `"token": null, "secret": false, "reusable": true`,
		`err="malformed join token: a character is wrong"`:                            `err="malformed join token: a character is wrong"`,
		"session-token:Xy12":                                                          "session-token:[secret]",
		"token=Ab12cdef":                                                              "token=[secret]",
		`msg="join token made" token=4a71ec9178 reusable=true`:                        `msg="join token made" token=4a71ec9178 reusable=true`,
		"the join token is used up; a token admits one device":                        "the join token is used up; a token admits one device",
		"path 10.0.0.1:5 and node_key=abc":                                            "path 10.0.0.1:5 and node_key=abc",
		"":                                                                            "",
	} {
		if diff := cmp.Diff(want, string(r.Clean([]byte(in)))); diff != "" {
			t.Error(diff)
		}
	}
}

// TestSecretsByValue: keys that are known are found in all their spellings, also within other text.
func TestSecretsByValue(t *testing.T) {
	key := []byte("\x00\x01\xfe0123456789abcdefghijklmn\xff\xff\xff")
	r := NewRedactor(false)
	r.Secret(key)
	r.Secret([]byte("short"))
	for _, form := range []string{
		base64.StdEncoding.EncodeToString(key), base64.RawStdEncoding.EncodeToString(key), base64.RawURLEncoding.EncodeToString(key),
		fmt.Sprintf("%x", key), fmt.Sprintf("%X", key), string(key),
	} {
		got := string(r.Clean([]byte("a:" + form + ":b short")))
		if got != "a:[secret]:b short" && got != "a:[secret]=:b short" {
			t.Errorf("%q became %q", form, got)
		}
	}
}

func TestPseudonyms(t *testing.T) {
	r := NewRedactor(true)
	for _, name := range []string{"desk", "desk-2", "Root", "", "100.64.0.1"} {
		r.Name("device", name)
	}
	r.Name("user", "ann@corp.example")
	r.Name("host", "vpn.corp.example")
	const key = "kV1p5Qv0dH6mYx3T2o8sJ4wZ9bN7cL1uE0aR6fG5hI8="
	in := `desk (203.0.113.9:41641) to Desk-2 [2001:db8::5]:41641 by https://vpn.corp.example:443 for ann@corp.example
deskside root 192.168.1.5 100.64.0.2 fd00::1 ::1 0.0.0.0 127.0.0.1:53 at 04:52:26.169 version 1.26.8
again 203.0.113.9. and ::ffff:203.0.113.9 and 2001:db8:0:0::5/64, fe80::1 52:54:00:12:ab:cd 52:54:00:12:AB:CD ` + key + " " + key + "\n"
	want := `device-1 (address-1:41641) to device-2 [address-2]:41641 by https://host-1:443 for user-1
deskside root 192.168.1.5 100.64.0.2 fd00::1 ::1 0.0.0.0 127.0.0.1:53 at 04:52:26.169 version 1.26.8
again address-1. and address-1 and address-2/64, address-3 mac-1 mac-1 key-1 key-1
`
	if diff := cmp.Diff(want, string(r.Clean([]byte(in)))); diff != "" {
		t.Error(diff)
	}
	if got := string(r.Clean([]byte("dial 203.0.113.9:9: refused 198.51.100.1:80. by 2001:db8:: and 2001:db8:::, desk"))); got != "dial address-1:9: refused address-4:80. by address-5 and address-5:, device-1" {
		t.Errorf("later: %q", got)
	}
	plain := NewRedactor(false)
	plain.Name("device", "desk")
	if got := string(plain.Clean([]byte(in))); got != in {
		t.Errorf("without pseudonyms: %q", got)
	}
}

// FuzzClean: nothing that was planted stands in what comes out, and there is no end to what goes in.
func FuzzClean(f *testing.F) {
	f.Add([]byte("a"), []byte("b 203.0.113.9:5"))
	f.Add([]byte("://"), []byte("@:::."))
	f.Add([]byte("-----BEGIN X PRIVATE KEY-----"), []byte("token ="))
	const key, token, name = "kV1p5Qv0dH6mYx3T2o8sJ4wZ9bN7cL1uE0aR6fG5hI8=", "wrn1CgQKAhABCgQKAhABCgQKAhAB", "zanzibar"
	leak := regexp.MustCompile(`CgQKAhABCgQ|kV1p5Qv0dH6m`)
	f.Fuzz(func(t *testing.T, a, b []byte) {
		for _, pseudonyms := range []bool{false, true} {
			r := NewRedactor(pseudonyms)
			raw, _ := base64.StdEncoding.DecodeString(key)
			r.Secret(raw)
			r.Name("device", name)
			in := bytes.Join([][]byte{a, []byte(" " + key + " " + token + " " + name + " "), b}, nil)
			out := r.Clean(in)
			if m := leak.Find(out); m != nil {
				t.Fatalf("%q is in %q", m, out)
			}
			if pseudonyms && !bytes.Contains(bytes.ToLower(a), []byte(name)) && strings.Contains(string(out), " "+name+" ") {
				t.Fatalf("the name is in %q", out)
			}
		}
	})
}
