package capture

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/ipv4"
)

var (
	a4, b4 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.2")
	a6, b6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
)

func packet4(t *testing.T, protocol byte, fragment int, options, payload []byte) []byte {
	t.Helper()
	h := ipv4.Header{Version: 4, Len: 20 + len(options), TotalLen: 20 + len(options) + len(payload), TTL: 63, Protocol: int(protocol), FragOff: fragment,
		Src: a4.AsSlice(), Dst: b4.AsSlice(), Options: options}
	b, err := h.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return append(b, payload...)
}

func packet6(next byte, payload []byte) []byte {
	b := append([]byte{0x60, 0, 0, 0, 0, byte(len(payload)), next, 255}, a6.AsSlice()...)
	return append(append(b, b6.AsSlice()...), payload...)
}

func TestParse(t *testing.T) {
	ports := []byte{0x04, 0x00, 0x00, 0x35, 0, 8, 0, 0}
	opening := append([]byte{0x04, 0x00, 0x01, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0x60, syn, 0, 0, 0, 0, 0, 0}, optionMSS, 4, 0x05, 0xb4)
	open4 := Frame{From: a4, To: b4, Protocol: tcp, Hops: 63, Source: 1024, Port: 443, Segment: 1460}
	settled := append([]byte(nil), opening...)
	settled[13] = 0
	for name, c := range map[string]struct {
		packet []byte
		want   Frame
	}{
		"nothing":            {nil, Frame{}},
		"ARP":                {make([]byte, 28), Frame{}},
		"short":              {packet4(t, 17, 0, nil, ports)[:19], Frame{}},
		"UDP":                {packet4(t, 17, 0, nil, ports), Frame{From: a4, To: b4, Protocol: 17, Hops: 63, Source: 1024, Port: 53}},
		"no ports":           {packet4(t, 17, 0, nil, ports[:3]), Frame{From: a4, To: b4, Protocol: 17, Hops: 63}},
		"options":            {packet4(t, 17, 0, []byte{1, 1, 1, 0}, ports), Frame{From: a4, To: b4, Protocol: 17, Hops: 63, Source: 1024, Port: 53}},
		"options cut off":    {packet4(t, 17, 0, []byte{1, 1, 1, 0}, nil)[:20], Frame{From: a4, To: b4, Protocol: 17, Hops: 63}},
		"later fragment":     {packet4(t, 17, 10, nil, ports), Frame{From: a4, To: b4, Protocol: 17, Hops: 63, Later: true}},
		"TCP opening":        {packet4(t, tcp, 0, nil, opening), open4},
		"TCP opened":         {packet4(t, tcp, 0, nil, settled), Frame{From: a4, To: b4, Protocol: tcp, Hops: 63, Source: 1024, Port: 443}},
		"ICMP":               {packet4(t, icmp, 0, nil, []byte{8, 0, 0xfd, 0xe9}), Frame{From: a4, To: b4, Protocol: icmp, Hops: 63, Source: 8 << 8}},
		"IPv6 UDP":           {packet6(17, ports), Frame{From: a6, To: b6, Protocol: 17, Hops: 255, Source: 1024, Port: 53}},
		"ICMPv6":             {packet6(icmpv6, []byte{135, 0, 1, 1}), Frame{From: a6, To: b6, Protocol: icmpv6, Hops: 255, Source: 135 << 8}},
		"IPv6 short":         {packet6(17, nil)[:39], Frame{}},
		"IPv6 first part":    {packet6(fragmentHeader, append([]byte{17, 0, 0, 1, 0, 0, 0, 9}, ports...)), Frame{From: a6, To: b6, Protocol: 17, Hops: 255, Source: 1024, Port: 53}},
		"IPv6 later part":    {packet6(fragmentHeader, append([]byte{17, 0, 0, 8, 0, 0, 0, 9}, ports...)), Frame{From: a6, To: b6, Protocol: 17, Hops: 255, Later: true}},
		"IPv6 part, cut off": {packet6(fragmentHeader, []byte{17, 0, 0}), Frame{From: a6, To: b6, Protocol: fragmentHeader, Hops: 255}},
	} {
		if d := cmp.Diff(c.want, Parse(c.packet), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(packet6(fragmentHeader, []byte{17, 0, 0, 1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p := Parse(b); p.To.IsValid() != p.From.IsValid() || p.Later && p.Port != 0 {
			t.Errorf("%v", p)
		}
	})
}
