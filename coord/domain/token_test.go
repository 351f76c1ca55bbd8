package domain

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestNewToken(t *testing.T) {
	many := make([]string, 65)
	for i := range many {
		many[i] = fmt.Sprintf("tag-%d", i)
	}
	for _, c := range []struct {
		wish TokenWish
		want string // part of the error, or empty
	}{
		{TokenWish{}, ""},
		{TokenWish{Life: time.Second, Reusable: true, Owner: "Ann Smith", Tags: []string{"web"}, Ephemeral: true}, ""},
		{TokenWish{Relay: true}, ""},
		{TokenWish{Life: -1}, "lives from"},
		{TokenWish{Life: time.Millisecond}, "lives from"},
		{TokenWish{Life: MaxTokenLife + 1}, "lives from"},
		{TokenWish{Tags: []string{"Not A Tag"}}, "Not A Tag"},
		{TokenWish{Tags: many}, "65 tags"},
		{TokenWish{Owner: "a\nb"}, "control"},
		{TokenWish{Owner: strings.Repeat("x", 200)}, "too long"},
		{TokenWish{Relay: true, Owner: "ann"}, "relay"},
		{TokenWish{Relay: true, Ephemeral: true}, "relay"},
	} {
		got, err := NewToken(c.wish, [32]byte{7}, &stream{}, start)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v: %v; want %q", c.wish, err, c.want)
			}
			continue
		}
		life := c.wish.Life
		if life == 0 {
			life = DefaultTokenLife
		}
		if err != nil || got.Hash != [32]byte{7} || len(got.ID) < 8 || !got.ExpiresAt.Equal(start.Add(life)) {
			t.Errorf("%+v: %+v, %v", c.wish, got, err)
		}
	}
	if _, err := NewToken(TokenWish{}, [32]byte{}, dry{}, start); err == nil {
		t.Error("a token without randomness")
	}
}

func TestAdmit(t *testing.T) {
	tok := func(change func(*Token)) *Token {
		k := &Token{ExpiresAt: start.Add(time.Hour)}
		if change != nil {
			change(k)
		}
		return k
	}
	for name, c := range map[string]struct {
		tok          *Token
		relay, again bool
		at           time.Time
		want         error
	}{
		"fresh":                     {tok(nil), false, false, start, nil},
		"last moment":               {tok(nil), false, false, start.Add(time.Hour - 1), nil},
		"expired":                   {tok(nil), false, false, start.Add(time.Hour), ErrTokenExpired},
		"expired, same device":      {tok(nil), false, true, start.Add(time.Hour), ErrTokenExpired},
		"used":                      {tok(func(k *Token) { k.Uses = 1 }), false, false, start, ErrTokenUsed},
		"used, same device":         {tok(func(k *Token) { k.Uses = 1 }), false, true, start, nil},
		"reusable":                  {tok(func(k *Token) { k.Uses, k.Reusable = 9, true }), false, false, start, nil},
		"revoked":                   {tok(func(k *Token) { k.Revoked = true }), false, false, start, ErrTokenRevoked},
		"revoked, same device":      {tok(func(k *Token) { k.Revoked, k.Uses = true, 1 }), false, true, start, ErrTokenRevoked},
		"revoked, used and expired": {tok(func(k *Token) { k.Revoked, k.Uses = true, 1 }), false, false, start.Add(time.Hour), ErrTokenRevoked},
		"relay by a device's":       {tok(nil), true, false, start, ErrTokenRole},
		"device by a relay's":       {tok(func(k *Token) { k.Relay = true }), false, false, start, ErrTokenRole},
		"relay":                     {tok(func(k *Token) { k.Relay = true }), true, false, start, nil},
	} {
		err := c.tok.Admit(c.relay, c.again, c.at)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err != nil && !strings.Contains(err.Error(), "token create") && !strings.Contains(err.Error(), "admits a relay") {
			t.Errorf("%s: %q does not say what to do next", name, err)
		}
	}
}

func TestRandomPrefixes(t *testing.T) {
	shared, ula := netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fd00::/8")
	seen := map[netip.Prefix]bool{}
	for seed := range uint64(200) {
		got, err := RandomPrefixes(&stream{seed: seed})
		if err != nil || len(got) != 2 {
			t.Fatal(got, err)
		}
		if got[0].Bits() != 16 || !shared.Contains(got[0].Addr()) || got[1].Bits() != 48 || !ula.Contains(got[1].Addr()) {
			t.Errorf("prefixes %v", got)
		}
		for i, p := range got {
			if err := CheckPrefix(p, i == 1); err != nil {
				t.Error(err)
			}
			seen[p] = true
		}
	}
	if len(seen) < 200 {
		t.Errorf("only %d different prefixes", len(seen))
	}
	if _, err := RandomPrefixes(dry{}); err == nil {
		t.Error("prefixes without randomness")
	}
}

func TestCheckPrefix(t *testing.T) {
	for _, c := range []struct {
		prefix string
		v6, ok bool
	}{
		{"10.0.0.0/8", false, true}, {"192.168.7.0/24", false, true}, {"10.0.0.0/28", false, true},
		{"10.0.0.0/29", false, false}, {"10.0.0.1/24", false, false}, {"127.0.0.0/8", false, false}, {"224.0.0.0/8", false, false},
		{"169.254.0.0/16", false, false}, {"0.0.0.0/8", false, false}, {"fd00::/48", false, false}, {"::ffff:10.0.0.0/104", false, false},
		{"fd00::/48", true, true}, {"2001:db8::/64", true, true}, {"fd00::/96", true, true},
		{"fd00::/97", true, false}, {"fd00::1/64", true, false}, {"fe80::/64", true, false}, {"ff00::/64", true, false}, {"10.0.0.0/8", true, false},
	} {
		if err := CheckPrefix(netip.MustParsePrefix(c.prefix), c.v6); (err == nil) != c.ok {
			t.Errorf("%s (IPv6 %v): %v, want ok %v", c.prefix, c.v6, err, c.ok)
		}
	}
	if CheckPrefix(netip.Prefix{}, false) == nil {
		t.Error("the zero prefix is taken")
	}
}

// A small network is filled to the last address; none is the network's, the first, the probe's or the broadcast address, and none comes twice.
func TestPickAddressesUntilFull(t *testing.T) {
	prefixes := []netip.Prefix{netip.MustParsePrefix("10.0.0.16/28"), netip.MustParsePrefix("fd00::/48")}
	taken := map[netip.Addr]bool{}
	random := &stream{}
	const room = 12 // 16 without .16, .17, .30 and .31
	for range room {
		got, err := PickAddresses(prefixes, func(a netip.Addr) bool { return taken[a] }, random)
		if err != nil {
			t.Fatal(err)
		}
		four, six := got[0], got[1]
		host := four.As4()[3] - 16
		if taken[four] || taken[six] || !prefixes[0].Contains(four) || !prefixes[1].Contains(six) || host < 2 || host > 13 {
			t.Errorf("picked %v", got)
		}
		if six.As16()[15] != host {
			t.Errorf("%s and %s have different host parts", four, six)
		}
		taken[four], taken[six] = true, true
	}
	if _, err := PickAddresses(prefixes, func(a netip.Addr) bool { return taken[a] }, random); !errors.Is(err, ErrFull) {
		t.Errorf("a full network: %v", err)
	}
}
