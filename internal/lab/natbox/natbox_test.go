package natbox

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/internal/sim/natmodel"
)

var (
	began    = time.Unix(1_000_000, 0)
	external = netip.MustParseAddr("192.0.2.1")
	host     = netip.MustParseAddrPort("192.168.1.2:41000")
	server   = netip.MustParseAddrPort("203.0.113.2:3478")
	router   = netip.MustParseAddr("203.0.113.9")
	host6    = netip.MustParseAddrPort("[2001:db8:1::2]:41000")
	server6  = netip.MustParseAddrPort("[2001:db8:2::2]:3478")
)

// sum is the checksum of RFC 1071, from scratch.
func sum(parts ...[]byte) uint16 {
	var s uint32
	for _, b := range parts {
		for i, v := range b {
			s += uint32(v) << (8 * (1 - i%2))
		}
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

func pseudo(src, dst netip.Addr, proto byte, length int) []byte {
	b := append(src.AsSlice(), dst.AsSlice()...)
	return append(b, 0, 0, byte(length>>8), byte(length), 0, 0, 0, proto)
}

// inner makes a transport header and payload, with its checksum.
func inner(proto byte, src, dst netip.AddrPort, payload []byte) []byte {
	b := make([]byte, map[byte]int{protoUDP: 8, protoTCP: 20, protoICMP: 8, protoICMPv6: 8}[proto])
	switch proto {
	case protoICMP:
		b[0] = 8
		binary.BigEndian.PutUint16(b[4:], src.Port()|dst.Port())
	case protoICMPv6:
		b[0] = 128
		binary.BigEndian.PutUint16(b[4:], src.Port()|dst.Port())
	default:
		binary.BigEndian.PutUint16(b, src.Port())
		binary.BigEndian.PutUint16(b[2:], dst.Port())
	}
	if proto == protoUDP {
		binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	}
	b = append(b, payload...)
	seal(proto, src.Addr(), dst.Addr(), b)
	return b
}

var checksumAt = map[byte]int{protoUDP: 6, protoTCP: 16, protoICMP: 2, protoICMPv6: 2}

func seal(proto byte, src, dst netip.Addr, b []byte) {
	at := checksumAt[proto]
	b[at], b[at+1] = 0, 0
	s := innerSum(proto, src, dst, b)
	if s == 0 && proto == protoUDP {
		s = 0xffff
	}
	binary.BigEndian.PutUint16(b[at:], s)
}

func innerSum(proto byte, src, dst netip.Addr, b []byte) uint16 {
	if proto == protoICMP {
		return sum(b)
	}
	return sum(pseudo(src, dst, proto, len(b)), b)
}

// ip puts an IP header in front. flags is the field of IPv4 fragments.
func ip(proto byte, src, dst netip.Addr, flags uint16, body []byte) []byte {
	if src.Is6() {
		b := make([]byte, 40, 40+len(body))
		b[0], b[6], b[7] = 0x60, proto, 64
		binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
		return append(b, body...)
	}
	b := make([]byte, 20, 20+len(body))
	b[0], b[4], b[5], b[8], b[9] = 0x45, 7, 7, 64, proto
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(body)))
	binary.BigEndian.PutUint16(b[6:], flags)
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], sum(b))
	return append(b, body...)
}

func whole(proto byte, src, dst netip.AddrPort, payload []byte) []byte {
	return ip(proto, src.Addr(), dst.Addr(), 0, inner(proto, src, dst, payload))
}

func easy() *Box { return New(natmodel.New(*natmodel.Easy(), external, 1)) }
func hard() *Box { return New(natmodel.New(*natmodel.Hard(), external, 1)) }

// TestRewriting sends out and back. What arrives is what a sender at the other address would have made, checksums and all.
func TestRewriting(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		proto := []byte{protoUDP, protoTCP, protoICMP}[rng.IntN(3)]
		payload := make([]byte, rng.IntN(200))
		for i := range payload {
			payload[i] = byte(rng.Uint32())
		}
		dst := server
		if proto == protoICMP {
			dst = netip.AddrPortFrom(server.Addr(), 0)
		}
		b := hard()
		p := whole(proto, host, dst, payload)
		if v := b.Translate(began, p, true); v != natmodel.ToOutside {
			t.Fatalf("protocol %d: %s", proto, v)
		}
		at := 20
		if proto == protoICMP {
			at = 24
		}
		mapped := netip.AddrPortFrom(external, binary.BigEndian.Uint16(p[at:]))
		if diff := cmp.Diff(whole(proto, mapped, dst, payload), p); diff != "" || mapped.Port() == host.Port() {
			t.Fatalf("protocol %d, mapped to %s: (-want +got)\n%s", proto, mapped, diff)
		}
		back := whole(proto, dst, mapped, payload)
		if v := b.Translate(began, back, false); v != natmodel.ToInside {
			t.Fatalf("protocol %d, back: %s", proto, v)
		}
		if diff := cmp.Diff(whole(proto, dst, host, payload), back); diff != "" {
			t.Fatalf("protocol %d, back: (-want +got)\n%s", proto, diff)
		}
	}
}

func TestNoUDPChecksumStaysNone(t *testing.T) {
	p := whole(protoUDP, host, server, []byte("x"))
	p[26], p[27] = 0, 0
	if v := hard().Translate(began, p, true); v != natmodel.ToOutside || p[26] != 0 || p[27] != 0 {
		t.Errorf("%s, checksum %x", v, p[26:28])
	}
}

func TestOtherVerdictsChangeNothing(t *testing.T) {
	for name, p := range map[string][]byte{
		"unsolicited":      whole(protoUDP, server, netip.AddrPortFrom(external, 9), nil),
		"another protocol": ip(47, server.Addr(), external, 0, make([]byte, 30)),
		"router discovery": ip(protoICMP, server.Addr(), external, 0, []byte{9, 0, 0, 0, 0, 0, 0, 0}),
	} {
		before := bytes.Clone(p)
		if v := easy().Translate(began, p, false); v.Passes() || !bytes.Equal(p, before) {
			t.Errorf("%s: %s", name, v)
		}
	}
}

// TestErrors has a router on the way send an ICMP error about a packet of each protocol.
func TestErrors(t *testing.T) {
	for _, proto := range []byte{protoUDP, protoTCP, protoICMP} {
		for _, quote := range []int{28, 31, 60} {
			dst := server
			if proto == protoICMP {
				dst = netip.AddrPortFrom(server.Addr(), 0)
			}
			b := hard()
			p := whole(proto, host, dst, make([]byte, 40))
			sent := bytes.Clone(p)
			b.Translate(began, p, true)
			failure := func(to netip.Addr, quoted []byte) []byte {
				body := append([]byte{3, 4, 0, 0, 0, 0, 5, 0}, quoted[:quote]...)
				seal(protoICMP, router, to, body)
				return ip(protoICMP, router, to, 0, body)
			}
			got := failure(external, p)
			if v := b.Translate(began, got, false); v != natmodel.ToInside {
				t.Fatalf("protocol %d: %s", proto, v)
			}
			if diff := cmp.Diff(failure(host.Addr(), sent), got); diff != "" {
				t.Errorf("protocol %d, %d bytes quoted: (-want +got)\n%s", proto, quote, diff)
			}
			if v := b.Translate(began, failure(external, sent), false); v.Passes() {
				t.Errorf("an error about a packet that the box never sent: %s", v)
			}
			if v := b.Translate(began, failure(server.Addr(), p), true); v != natmodel.Blocked {
				t.Errorf("an error from inside: %s", v)
			}
		}
	}
}

// TestFragments follow the first one, and only with it.
func TestFragments(t *testing.T) {
	body := inner(protoUDP, host, server, make([]byte, 2000))
	make := func(src netip.Addr, body []byte) (first, second []byte) {
		return ip(protoUDP, src, server.Addr(), 0x2000, body[:1400]), ip(protoUDP, src, server.Addr(), 1400/8, body[1400:])
	}
	b := hard()
	first, second := make(host.Addr(), body)
	early := bytes.Clone(second)
	if v := b.Translate(began, early, true); v != natmodel.Unmapped {
		t.Errorf("a fragment without its first: %s", v)
	}
	for i, f := range [][]byte{first, second} {
		if v := b.Translate(began, f, true); v != natmodel.ToOutside {
			t.Fatalf("fragment %d: %s", i, v)
		}
	}
	mapped := netip.AddrPortFrom(external, binary.BigEndian.Uint16(first[20:]))
	wantFirst, wantSecond := make(external, inner(protoUDP, mapped, server, body[8:]))
	if diff := cmp.Diff([][]byte{wantFirst, wantSecond}, [][]byte{first, second}); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	_, late := make(host.Addr(), body)
	if v := b.Translate(began.Add(fragmentLife+1), late, true); v != natmodel.Unmapped {
		t.Errorf("a late fragment: %s", v)
	}
	for i := range 5000 {
		f := ip(protoUDP, host.Addr(), server.Addr(), 0x2000, body[:1400])
		binary.BigEndian.PutUint16(f[4:], uint16(i))
		b.Translate(began, f, true)
	}
	if len(b.fragments) > maxFragments {
		t.Errorf("%d fragments are remembered", len(b.fragments))
	}
}

func TestFirewall6(t *testing.T) {
	for _, proto := range []byte{protoUDP, protoTCP, protoICMPv6} {
		b := New(natmodel.New(natmodel.Options{Filtering: natmodel.FilterAddressAndPort}, netip.Addr{}, 1))
		dst := server6
		if proto == protoICMPv6 {
			dst = netip.AddrPortFrom(server6.Addr(), 0)
		}
		out, back := whole(proto, host6, dst, []byte("x")), whole(proto, dst, host6, []byte("y"))
		if v := b.Translate(began, bytes.Clone(back), false); v != natmodel.Unmapped {
			t.Errorf("protocol %d, unsolicited: %s", proto, v)
		}
		for _, tc := range []struct {
			p      []byte
			inside bool
		}{{out, true}, {back, false}} {
			before := bytes.Clone(tc.p)
			if v := b.Translate(began, tc.p, tc.inside); !v.Passes() || !bytes.Equal(before, tc.p) {
				t.Errorf("protocol %d: %s, %x became %x", proto, v, before, tc.p)
			}
		}
		body := append([]byte{2, 0, 0, 0, 0, 0, 5, 0}, out...) // packet too big
		seal(protoICMPv6, server6.Addr(), host6.Addr(), body)
		tooBig := ip(protoICMPv6, server6.Addr(), host6.Addr(), 0, body)
		before := bytes.Clone(tooBig)
		if v := b.Translate(began, tooBig, false); v != natmodel.ToInside || !bytes.Equal(before, tooBig) {
			t.Errorf("protocol %d: packet too big: %s", proto, v)
		}
	}
}

// FuzzTranslate feeds anything from both sides: nothing is read or written beyond the packet.
func FuzzTranslate(f *testing.F) {
	out := whole(protoUDP, host, server, []byte("payload"))
	f.Add(out, true)
	f.Add(whole(protoTCP, server, netip.AddrPortFrom(external, 41000), nil), false)
	f.Add(whole(protoICMPv6, host6, server6, nil), true)
	f.Add(ip(protoICMP, router, external, 0, append([]byte{3, 4, 0, 0, 0, 0, 5, 0}, out...)), false)
	f.Fuzz(func(t *testing.T, p []byte, fromInside bool) {
		if len(p) > 4000 {
			return
		}
		b := easy()
		first := bytes.Clone(out)
		b.Translate(began, first, true)
		got := append(bytes.Clone(p), "guard"...)
		b.Translate(began, got[:len(p):len(p)], fromInside)
		if string(got[len(p):]) != "guard" {
			t.Error("it wrote beyond the packet")
		}
	})
}
