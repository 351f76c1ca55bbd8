package local

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParseEnd(t *testing.T) {
	for in, want := range map[string]netip.AddrPort{
		"100.64.0.2": netip.MustParseAddrPort("100.64.0.2:0"), "100.64.0.2:50": netip.MustParseAddrPort("100.64.0.2:50"),
		"fd00::2": netip.MustParseAddrPort("[fd00::2]:0"), "[fd00::2]:50": netip.MustParseAddrPort("[fd00::2]:50"),
		"[::ffff:100.64.0.2]:50": netip.MustParseAddrPort("100.64.0.2:50"), "::ffff:100.64.0.2": netip.MustParseAddrPort("100.64.0.2:0"),
		"fe80::1%eth0": netip.MustParseAddrPort("[fe80::1]:0"),
	} {
		if a, port, err := ParseEnd(in); err != nil || netip.AddrPortFrom(a, port) != want {
			t.Errorf("%s: %s %d, %v", in, a, port, err)
		}
	}
	for _, in := range []string{"", "desk", "desk:80", "100.64.0.2:", "100.64.0.2:0", "100.64.0.2:65536", "fd00::2:50:", ":80", strings.Repeat("9", 1000)} {
		if a, _, err := ParseEnd(in); err == nil || len(err.Error()) > 200 || !strings.Contains(err.Error(), "ADDRESS:PORT") {
			t.Errorf("%.20q: %s, %v", in, a, err)
		}
	}
}
