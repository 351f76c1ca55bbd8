package filter

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	a4, b4, c4 = "100.64.0.1", "100.64.0.2", "100.64.0.3"
	a6, b6, c6 = "fd00::1", "fd00::2", "fd00::3"
)

var comparePackets = cmp.Options{
	cmp.AllowUnexported(Packet{}),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}

// with changes a copy of b at i.
func with(b []byte, i int, v byte) []byte {
	b = append([]byte(nil), b...)
	b[i] = v
	return b
}

func TestParse(t *testing.T) {
	v4, v6 := Packet{Src: netip.MustParseAddr(a4), Dst: netip.MustParseAddr(b4)}, Packet{Src: netip.MustParseAddr(a6), Dst: netip.MustParseAddr(b6)}
	inner := udp(b4, a4, 1, 2)
	for name, c := range map[string]struct {
		in     []byte
		base   Packet
		change func(*Packet)
	}{
		"TCP": {tcp(a4, b4, 1000, 80, tcpSYN).bytes(), v4, func(p *Packet) {
			p.Proto, p.SrcPort, p.DstPort, p.tcpFlags = protoTCP, 1000, 80, tcpSYN
		}},
		"UDP": {udp(a6, b6, 1000, 53).bytes(), v6, func(p *Packet) { p.Proto, p.SrcPort, p.DstPort = protoUDP, 1000, 53 }},
		"SCTP": {shape{src: a4, dst: b4, proto: protoSCTP, sport: 7, dport: 8}.bytes(), v4, func(p *Packet) {
			p.Proto, p.SrcPort, p.DstPort = protoSCTP, 7, 8
		}},
		"GRE": {shape{src: a4, dst: b4, proto: 47, payload: "x"}.bytes(), v4, func(p *Packet) { p.Proto = 47 }},
		"echo": {icmp(a4, b4, 8, 77).bytes(), v4, func(p *Packet) {
			p.Proto, p.SrcPort, p.DstPort, p.echo = protoICMP, 77, 77, echoRequest
		}},
		"echo reply": {icmp(a6, b6, 129, 77).bytes(), v6, func(p *Packet) {
			p.Proto, p.SrcPort, p.DstPort, p.echo = protoICMPv6, 77, 77, echoReply
		}},
		"redirect":         {icmp(a4, b4, 5, 77).bytes(), v4, func(p *Packet) { p.Proto, p.single = protoICMP, true }},
		"router solicited": {icmp(a6, b6, 133, 77).bytes(), v6, func(p *Packet) { p.Proto, p.single = protoICMPv6, true }},
		"ICMP error": {report(a4, b4, inner.bytes()).bytes(), v4, func(p *Packet) {
			p.Proto, p.icmpError, p.payload = protoICMP, true, inner.bytes()
		}},
		"first fragment": {shape{src: a4, dst: b4, proto: protoUDP, sport: 5, dport: 6, more: true, id: 9}.bytes(), v4, func(p *Packet) {
			p.Proto, p.SrcPort, p.DstPort, p.Fragment, p.FragmentID, p.reach = protoUDP, 5, 6, true, 9, 8
		}},
		"later fragment": {shape{src: a4, dst: b4, proto: protoUDP, offset: 3, id: 9, payload: "12345678"}.bytes(), v4, func(p *Packet) {
			p.Proto, p.Fragment, p.Later, p.FragmentID, p.reach = protoUDP, true, true, 9, 24
		}},
		"first fragment, v6": {
			shape{src: a6, dst: b6, proto: protoUDP, sport: 5, dport: 6, fragment: true, more: true, id: 1 << 20,
				extensions: []uint8{extHopByHop, extRouting}, inner: []uint8{extDestination}}.bytes(),
			v6, func(p *Packet) {
				p.Proto, p.SrcPort, p.DstPort, p.Fragment, p.FragmentID, p.reach = protoUDP, 5, 6, true, 1<<20, 16+8
			},
		},
		"later fragment, v6": {
			shape{src: a6, dst: b6, proto: protoUDP, fragment: true, offset: 100, more: true, id: 1 << 20, inner: []uint8{extDestination}, payload: "x"}.bytes(),
			v6, func(p *Packet) {
				p.Proto, p.Fragment, p.Later, p.FragmentID, p.reach = extDestination, true, true, 1<<20, 800
			},
		},
		"atomic fragment, v6": {shape{src: a6, dst: b6, proto: protoUDP, sport: 5, dport: 6, fragment: true, id: 4}.bytes(), v6, func(p *Packet) {
			p.Proto, p.SrcPort, p.DstPort, p.FragmentID = protoUDP, 5, 6, 4
		}},
		"most extensions": {
			shape{src: a6, dst: b6, proto: 59, extensions: []uint8{0, 60, 60, 60, 60, 60, 43}}.bytes(), v6, func(p *Packet) { p.Proto = 59 },
		},
	} {
		want := c.base
		c.change(&want)
		for _, behind := range []string{"", "junk behind the packet's end"} {
			got, err := Parse(append(c.in[:len(c.in):len(c.in)], behind...))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			got.payload, want.payload = append([]byte(nil), got.payload...), append([]byte(nil), want.payload...)
			if diff := cmp.Diff(want, got, comparePackets); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
		if src, dst, err := Addresses(c.in); err != nil || src != want.Src || dst != want.Dst {
			t.Errorf("%s: addresses %v, %v, %v", name, src, dst, err)
		}
	}
}

func TestParseMalformed(t *testing.T) {
	v4, v6 := udp(a4, b4, 1, 2).bytes(), udp(a6, b6, 1, 2).bytes()
	extended := shape{src: a6, dst: b6, proto: protoUDP, extensions: []uint8{extHopByHop}}.bytes()
	twice := shape{src: a6, dst: b6, proto: extFragment, fragment: true, payload: "\x11\x00\x00\x00\x00\x00\x00\x00udp.udp."}.bytes()
	for name, in := range map[string][]byte{
		"empty":                          {},
		"version 0":                      with(v4, 0, 0x05),
		"version 5":                      with(v4, 0, 0x55),
		"v4, cut in the header":          v4[:19],
		"v4, header of 16 bytes":         with(v4, 0, 0x44),
		"v4, header longer than all":     with(v4[:24], 0, 0x4f),
		"v4, total below header":         with(v4, 3, 19),
		"v4, cut in the payload":         v4[:len(v4)-1],
		"v4, UDP of 7 bytes":             with(v4, 3, 27),
		"v4, TCP of 19 bytes":            with(tcp(a4, b4, 1, 2, 0).bytes(), 3, 39),
		"v4, ICMP of 7 bytes":            with(icmp(a4, b4, 8, 1).bytes(), 3, 27),
		"v4, ICMPv6":                     with(icmp(a4, b4, 8, 1).bytes(), 9, protoICMPv6),
		"v6, cut in the header":          v6[:39],
		"v6, cut in the payload":         v6[:len(v6)-1],
		"v6, ICMP":                       with(icmp(a6, b6, 128, 1).bytes(), 6, protoICMP),
		"v6, nothing behind the header":  with(with(v6, 4, 0), 5, 0),
		"v6, extension beyond the end":   with(extended, 41, 200),
		"v6, cut in an extension":        with(extended[:46], 5, 6),
		"v6, two fragment headers":       twice,
		"v6, cut in the fragment header": with(shape{src: a6, dst: b6, proto: 59, fragment: true, more: true}.bytes(), 5, 4),
		"v6, too many extensions":        shape{src: a6, dst: b6, proto: 59, extensions: []uint8{0, 60, 60, 60, 60, 60, 60, 60, 60}}.bytes(),
	} {
		if p, err := Parse(in); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, %+v", name, err, p)
		}
	}
}

func TestQuoted(t *testing.T) {
	whole := tcp(a4, b4, 1000, 80, tcpSYN).bytes()
	walked := shape{src: a6, dst: b6, proto: protoUDP, sport: 5, dport: 6, extensions: []uint8{extHopByHop}, fragment: true, more: true, id: 3}.bytes()
	for name, c := range map[string]struct {
		in           []byte
		fails, later bool
		sport, dport uint16
	}{
		"whole":                      {in: whole, sport: 1000, dport: 80},
		"cut behind the ports":       {in: whole[:28], sport: 1000, dport: 80},
		"cut in the ports":           {in: whole[:27], fails: true},
		"cut in the header":          {in: whole[:19], fails: true},
		"header of 16 bytes":         {in: with(whole, 0, 0x44), fails: true},
		"header longer than all":     {in: with(whole[:28], 0, 0x4f), fails: true},
		"v6 with extensions":         {in: walked, sport: 5, dport: 6},
		"v6 cut behind the ports":    {in: walked[:40+8+8+8], sport: 5, dport: 6},
		"v6 cut in an extension":     {in: walked[:44], fails: true},
		"later fragment":             {in: shape{src: a4, dst: b4, proto: protoTCP, offset: 9}.bytes(), later: true},
		"later fragment, v6":         {in: shape{src: a6, dst: b6, proto: protoTCP, fragment: true, offset: 9}.bytes(), later: true},
		"an error about an error":    {in: report(a4, b4, whole).bytes(), fails: true},
		"an error about an error, 6": {in: report(a6, b6, walked).bytes(), fails: true},
		"echo":                       {in: icmp(a4, b4, 8, 5).bytes(), sport: 5, dport: 5},
	} {
		p, err := quoted(c.in)
		if (err != nil) != c.fails {
			t.Errorf("%s: %v", name, err)
		} else if err == nil && (p.SrcPort != c.sport || p.DstPort != c.dport || p.Later != c.later) {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// seedPackets are packets of every kind, whole and cut.
func seedPackets(add func([]byte)) {
	for _, s := range []shape{
		tcp(a4, b4, 1, 80, tcpSYN), udp(a6, b6, 1, 80), icmp(a4, b4, 8, 1), icmp(a6, b6, 129, 1),
		report(a4, b4, udp(b4, a4, 80, 1).bytes()), report(a6, b6, udp(b6, a6, 80, 1).bytes()),
		{src: a4, dst: b4, proto: protoUDP, more: true, id: 1}, {src: a4, dst: b4, proto: protoUDP, offset: 4, id: 1, payload: "12345678"},
		{src: a6, dst: b6, proto: protoUDP, fragment: true, more: true, id: 1, extensions: []uint8{0, 43}, inner: []uint8{60}},
		{src: a6, dst: b6, proto: protoUDP, fragment: true, offset: 2, id: 1, inner: []uint8{60}},
	} {
		b := s.bytes()
		add(b)
		add(b[:len(b)-1])
		add(b[:len(b)/2])
	}
}

// FuzzParse: no bytes make the parser fail other than by its error; what is behind the end does not count; the header's word stands.
func FuzzParse(f *testing.F) {
	seedPackets(func(b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		again, errAgain := Parse(append(b[:len(b):len(b)], 1, 2, 3, 4))
		if err == nil {
			p.payload, again.payload = append([]byte{}, p.payload...), append([]byte{}, again.payload...)
			if diff := cmp.Diff(p, again, comparePackets); errAgain != nil || diff != "" {
				t.Errorf("bytes behind the end count: %v\n%s", errAgain, diff)
			}
			if src, dst, err := Addresses(b); err != nil || src != p.Src || dst != p.Dst || src.Is4() != dst.Is4() {
				t.Errorf("addresses %v and %v, %v; parsed %+v", src, dst, err, p)
			}
			if p.Later && (!p.Fragment || p.SrcPort != 0 || p.DstPort != 0 || p.icmpError) {
				t.Errorf("a later fragment with more than it has: %+v", p)
			}
		} else if !errors.Is(err, ErrMalformed) {
			t.Error(err)
		}
		if q, err := quoted(b); err == nil && q.icmpError {
			t.Errorf("an error about an error: %+v", q)
		}
	})
}

// FuzzFilter: whatever comes in, nothing passes that neither a grant nor a flow allows, and state stays within its bounds.
func FuzzFilter(f *testing.F) {
	seedPackets(func(b []byte) { f.Add(b, b) })
	rules := mustCompile(a4+","+a6+" -> "+b4+","+b6+" 17:80-80", c4+" -> "+b4+" any")
	granted := netip.MustParseAddr(c4)
	f.Fuzz(func(t *testing.T, first, second []byte) {
		filter, peer := New(Config{}), new(Peer)
		filter.SetRules(rules, 0)
		for i, b := range [][]byte{first, second, first} {
			if filter.on(peer, b, 0) != Pass {
				continue
			}
			p, err := Parse(b)
			if err != nil {
				t.Fatalf("malformed, but passed: % x", b)
			}
			begins := p.Src.String() == a4 || p.Src.String() == a6 || p.Src == granted
			if !begins && i == 0 {
				t.Fatalf("passed: %+v", p)
			}
		}
		if st := filter.Stats(); st.Flows > 2 || st.Fragments > 2 || st.Refused > 0 {
			t.Fatalf("%+v of two packets", st)
		}
	})
}
