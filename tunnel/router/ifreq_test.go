package router

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The requests as macOS' own headers lay them out.
func TestInterfaceRequests(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("100.64.0.5/32"), netip.MustParsePrefix("fd77::5/64")
	const name = "7574756e370000000000000000000000" // utun7
	const sin, sin6 = "10020000644000050000000000000000", "1c1e000000000000fd77000000000000000000000000000500000000"
	for what, c := range map[string]struct {
		got  []byte
		want string
	}{
		"ifaliasreq": {aliasRequest4("utun7", v4), name + sin + sin + "10020000ffffffff0000000000000000"},
		"in6_aliasreq": {aliasRequest6("utun7", v6), name + sin6 + strings.Repeat("00", 28) + "1c1e000000000000ffffffffffffffff000000000000000000000000" +
			"20000000" + strings.Repeat("00", 16) + "ffffffffffffffff"},
		"ifreq":     {removeRequest4("utun7", v4), name + sin},
		"in6_ifreq": {removeRequest6("utun7", v6), name + sin6 + strings.Repeat("00", 288-16-28)},
		"long name": {appendName(nil, "utun123456789012345"), hex.EncodeToString([]byte("utun12345678901")) + "00"},
	} {
		if d := cmp.Diff(c.want, hex.EncodeToString(c.got)); d != "" {
			t.Errorf("%s (-want +got)\n%s", what, d)
		}
	}
	// As its compiler gives them.
	if uint32(siocAIFAddrIn6) != 0x8080691a || uint32(siocDIFAddrIn6) != 0x81206919 {
		t.Errorf("ioctls %#x and %#x", uint32(siocAIFAddrIn6), uint32(siocDIFAddrIn6))
	}
}
