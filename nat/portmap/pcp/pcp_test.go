package pcp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var nonce = Nonce{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}

const (
	none4   = "00000000000000000000ffff00000000"
	client4 = "00000000000000000000ffffc0a80105"
	outside = "00000000000000000000ffffcb007105"
	nonceX  = "0102030405060708090a0b0c"
)

func TestRequest(t *testing.T) {
	client := netip.MustParseAddr("192.168.1.5")
	for name, tc := range map[string]struct {
		m    Map
		life time.Duration
		want string
	}{
		"map": {Map{Nonce: nonce, Internal: 0x1234}, 20 * time.Minute,
			"02010000 000004b0 " + client4 + nonceX + "11000000 1234 0000" + none4},
		"suggestion": {Map{Nonce: nonce, Internal: 0x1234, External: netip.MustParseAddrPort("203.0.113.5:22136")}, time.Minute,
			"02010000 0000003c " + client4 + nonceX + "11000000 1234 5678" + outside},
		"delete": {Map{Nonce: nonce, Internal: 0x1234}, 0, "02010000 00000000 " + client4 + nonceX + "11000000 1234 0000" + none4},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(unhex(t, tc.want), tc.m.Request(client, tc.life)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParse(t *testing.T) {
	const rest = "000000000000000000000000"
	for name, tc := range map[string]struct {
		in   string
		want Response
	}{
		"granted": {"02810000 000004b0 0000000a" + rest + nonceX + "11000000 1234 5678" + outside, Response{
			Version: 2, Life: 20 * time.Minute, Epoch: 10, HasMap: true,
			Map: Map{nonce, 0x1234, netip.MustParseAddrPort("203.0.113.5:22136")}}},
		"with an option": {"02810000 000004b0 0000000a" + rest + nonceX + "11000000 1234 5678" + outside + "01000000", Response{
			Version: 2, Life: 20 * time.Minute, Epoch: 10, HasMap: true,
			Map: Map{nonce, 0x1234, netip.MustParseAddrPort("203.0.113.5:22136")}}},
		"refused": {"02810002 0000001e 0000000a" + rest + nonceX + "11000000 1234 0000" + none4, Response{
			Version: 2, Result: NotAuthorized, Life: 30 * time.Second, Epoch: 10, HasMap: true,
			Map: Map{nonce, 0x1234, netip.MustParseAddrPort("0.0.0.0:0")}}},
		"refused shortly": {"02810008 0000001e 0000000a" + rest, Response{Version: 2, Result: NoResources, Life: 30 * time.Second, Epoch: 10}},
		"announcement":    {"02800000 00000000 00000001" + rest, Response{Version: 2, Announce: true, Epoch: 1}},
		"older version":   {"01810001 0000001e 0000000a" + rest, Response{Version: 1, Result: UnsupportedVersion, Life: 30 * time.Second, Epoch: 10}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(unhex(t, tc.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMalformed(t *testing.T) {
	const rest = "000000000000000000000000"
	whole := "02810000 000004b0 0000000a" + rest + nonceX + "11000000 1234 5678" + outside
	for name, in := range map[string]string{
		"empty":           "",
		"a request":       strings.Replace(whole, "0281", "0201", 1),
		"NAT-PMP":         "00810000" + whole[8:],
		"another version": strings.Replace(whole, "0281", "0381", 1),
		"PEER":            strings.Replace(whole, "0281", "0282", 1),
		"TCP":             strings.Replace(whole, "11000000", "06000000", 1),
		"cut":             whole[:len(whole)-8],
		"odd":             whole + "00",
		"too long":        whole + strings.Repeat("00000000", maxSize/4),
	} {
		if got, err := Parse(unhex(t, in)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %+v, %v; want %v", name, got, err, ErrFormat)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Map{Nonce: nonce, Internal: 1}.Request(netip.MustParseAddr("192.168.1.5"), time.Hour))
	f.Add(unhex(f, "02810000000004b00000000a000000000000000000000000"+nonceX+"1100000012345678"+outside))
	f.Add(unhex(f, "02800000000000000000000100000000000000000000000"+"0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		r, err := Parse(b)
		if !bytes.Equal(before, b) {
			t.Fatal("Parse changed its input")
		}
		switch {
		case err != nil && r != (Response{}):
			t.Fatalf("an error and %+v", r)
		case err == nil && !r.Announce && r.Result == Success && !r.HasMap:
			t.Fatalf("a grant of nothing: %+v", r)
		case err == nil && r.HasMap && r.Map.External.Addr().Is4In6():
			t.Fatalf("an address not unmapped: %+v", r)
		}
	})
}
