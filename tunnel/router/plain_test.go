package router

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestPlain(t *testing.T) {
	site := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/48")}
	for name, c := range map[string]struct {
		in  State
		err []string
	}{
		"routes":       {State{Routes: site}, nil},
		"exit node":    {State{Routes: append([]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, site...), DNS: []netip.Addr{netip.MustParseAddr("9.9.9.9")}}, []string{"no exit node is used"}},
		"blocked":      {State{Routes: site, Blocked: Families{IPv6: true}}, []string{"does not carry"}},
		"gateway":      {State{Routes: site, Carried: []Carried{{Prefix: netip.MustParsePrefix("10.9.0.0/16")}}}, []string{"no networks are carried"}},
		"exit":         {State{Routes: site, Exit: Families{IPv4: true}}, []string{"this device is no exit node"}},
		"kill switch":  {State{Routes: site, KillSwitch: true}, []string{"no kill switch"}},
		"all of these": {State{Routes: append(site[:2:2], netip.MustParsePrefix("::/0")), KillSwitch: true, Exit: Families{true, true}}, []string{"exit node is used", "carried", "kill switch"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.in.MTU, c.in.Local, c.in.Addresses = 1280, site[:1], []netip.Prefix{netip.MustParsePrefix("100.64.0.1/32")}
			got, err := c.in.plain()
			want := State{MTU: 1280, Local: c.in.Local, Addresses: c.in.Addresses, Routes: site}
			if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
			if (err == nil) != (c.err == nil) || err != nil && !errors.Is(err, ErrUnsupported) {
				t.Fatalf("err %v", err)
			}
			for _, words := range c.err {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("err %q, want %q", err, words)
				}
			}
		})
	}
}
