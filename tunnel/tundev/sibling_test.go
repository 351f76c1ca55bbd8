package tundev

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"warren/proto/key"
	"warren/tunnel/filter"
)

// office is a CIDR with two gateways, and a laptop that uses one of them.
type office struct {
	*mesh
	laptop, a, b *end
	grants       []string
}

var officeCIDRs = []string{"10.1.0.0/16", "fd01::/64"}

func newOffice(t testing.TB, grants ...string) *office {
	m := newMesh(t)
	o := &office{m, m.add("laptop", "100.64.0.1", "fd00::1"), m.add("a", "100.64.0.2", "fd00::2"), m.add("b", "100.64.0.3", "fd00::3"), grants}
	for _, g := range []*end{o.a, o.b} {
		g.knows(plan{
			carries: officeCIDRs, peers: map[string][]string{"laptop": {"10.3.0.0/16"}, o.other(g).name: nil},
			siblings: map[string][]string{officeCIDRs[0]: {o.other(g).name}, officeCIDRs[1]: {o.other(g).name}}, grants: grants,
		})
	}
	o.use(o.a)
	o.tell(o.a)
	return o
}

func (o *office) other(g *end) *end {
	if g == o.a {
		return o.b
	}
	return o.a
}

// use has the laptop use a gateway, tell has both gateways know.
func (o *office) use(g *end) {
	o.laptop.knows(plan{carries: []string{"10.3.0.0/16"}, peers: map[string][]string{g.name: officeCIDRs, o.other(g).name: nil}, grants: o.grants})
}

func (o *office) tell(g *end) {
	for _, cidr := range officeCIDRs {
		x := netip.MustParsePrefix(cidr)
		if !g.dev.Uses(o.laptop.id, x, key.DevicePublic{}) || !o.other(g).dev.Uses(o.laptop.id, x, g.id) {
			o.Fatal("a gateway does not take what the laptop uses")
		}
	}
}

// datagram is UDP, with a number in it.
func datagram(src string, sport uint16, dst string, dport uint16, number, size int) []byte {
	b := raw(protoUDP, src, dst, make([]byte, max(size, 12)))
	udp := payloadOf(b)
	binary.BigEndian.PutUint16(udp, sport)
	binary.BigEndian.PutUint16(udp[2:], dport)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	binary.BigEndian.PutUint32(udp[8:], uint32(number))
	return b
}

// TestHandOver: the LAN's packets for the laptop take the gateway that it uses, whichever reads them, and both directions of a flow are one to the
// filter there.
func TestHandOver(t *testing.T) {
	for _, c := range []struct{ lan, laptop string }{{"10.1.0.7", "100.64.0.1"}, {"10.1.0.7", "10.3.0.9"}, {"fd01::7", "fd00::1"}} {
		o := newOffice(t, "0.0.0.0/0 10.1.0.0/16 17 53", "::/0 fd01::/64 17 53", "10.1.0.8/32 0.0.0.0/0 17 22")
		ask, answer := datagram(c.laptop, 9, c.lan, 53, 1, 100), datagram(c.lan, 53, c.laptop, 9, 2, 100)
		o.laptop.sends(ask)
		if got := o.a.hears(); len(got) != 1 || !bytes.Equal(got[0], ask) {
			t.Fatalf("the gateway in use received % x", got)
		}
		o.b.sends(answer)
		if got := o.laptop.hears(); len(got) != 1 || !bytes.Equal(got[0], answer) {
			t.Errorf("%s: the laptop received % x", c.lan, got)
		}
		o.b.sends(datagram(c.lan, 53, c.laptop, 10, 3, 100)) // of no flow
		if got := o.laptop.hears(); len(got) != 0 {
			t.Errorf("%s: the laptop received % x", c.lan, got)
		}
		if h := o.b.dev.Hosts(netip.MustParsePrefix("10.1.0.0/16")); netip.MustParseAddr(c.lan).Is4() && (len(h) != 1 || h[0].Addr.String() != c.lan) {
			t.Errorf("the other has learnt %v", h)
		}
		a, b := o.a.dev.Counters(), o.b.dev.Counters()
		if a.Unwrapped != 2 || a.Handed != 0 || a.Refused != 0 || a.Table.Flows != 1 || a.Filter.Out != [4]uint64{filter.Pass: 1, filter.Denied: 1} {
			t.Errorf("%s: the gateway in use counts %+v", c.lan, a)
		}
		if b.Handed != 2 || b.Unwrapped != 0 || b.Table != (filter.Stats{}) || b.Filter != (filter.Counters{}) {
			t.Errorf("%s: the other counts %+v", c.lan, b)
		}
	}
	o := newOffice(t, "10.1.0.8/32 0.0.0.0/0 17 22")
	begins, reply := datagram("10.1.0.8", 9, "100.64.0.1", 22, 1, 100), datagram("100.64.0.1", 22, "10.1.0.8", 9, 2, 100)
	o.b.sends(begins)
	if got := o.laptop.hears(); len(got) != 1 || !bytes.Equal(got[0], begins) {
		t.Errorf("of a flow that begins in the LAN the laptop received % x", got)
	}
	o.laptop.sends(reply)
	if got := o.a.hears(); len(got) != 1 || !bytes.Equal(got[0], reply) {
		t.Errorf("the LAN received % x in answer", got)
	}
}

// TestHandOverRefuses: a sibling can hand over packets of what both carry, for others, and nothing else.
func TestHandOverRefuses(t *testing.T) {
	plain := datagram("10.1.0.7", 1, "100.64.0.1", 53, 1, 100)
	long := append(bytes.Clone(plain), 0)
	short := plain[:len(plain)-1]
	fragment := raw(protoIPv4, "100.64.0.3", "100.64.0.2", plain)
	fragment[6] = 0x20
	for _, c := range []struct {
		what    string
		packet  []byte
		refused bool
		passes  bool
	}{
		{"an honest one", raw(protoIPv4, "100.64.0.3", "100.64.0.2", plain), false, true},
		{"an honest one over IPv6", raw(protoIPv4, "fd00::3", "fd00::2", plain), false, true},
		{"from another peer", raw(protoIPv4, "100.64.0.1", "100.64.0.2", plain), false, false},
		{"from a host behind another peer", raw(protoIPv4, "10.3.0.1", "100.64.0.2", plain), false, false},
		{"of a host of nobody's", raw(protoIPv4, "100.64.0.3", "100.64.0.2", datagram("9.9.9.9", 1, "100.64.0.1", 53, 1, 100)), true, false},
		{"of the laptop's", raw(protoIPv4, "100.64.0.3", "100.64.0.2", datagram("100.64.0.1", 1, "10.3.0.1", 53, 1, 100)), true, false},
		{"of the sibling's own", raw(protoIPv4, "100.64.0.3", "100.64.0.2", datagram("100.64.0.3", 1, "100.64.0.1", 53, 1, 100)), true, false},
		{"of our own", raw(protoIPv4, "100.64.0.3", "100.64.0.2", datagram("100.64.0.2", 1, "100.64.0.1", 53, 1, 100)), true, false},
		{"of what only we carry", raw(protoIPv4, "100.64.0.3", "100.64.0.2", datagram("10.8.0.1", 1, "100.64.0.1", 53, 1, 100)), true, false},
		{"of what the laptop carries within it", raw(protoIPv4, "100.64.0.3", "100.64.0.2", datagram("10.1.9.1", 1, "100.64.0.1", 53, 1, 100)), true, false},
		{"for us", raw(protoIPv4, "100.64.0.3", "100.64.0.2", datagram("10.1.0.7", 1, "100.64.0.2", 53, 1, 100)), true, false},
		{"for our LAN", raw(protoIPv4, "100.64.0.3", "100.64.0.2", datagram("10.1.0.7", 1, "10.1.0.8", 53, 1, 100)), true, false},
		{"for the sibling", raw(protoIPv4, "100.64.0.3", "100.64.0.2", datagram("10.1.0.7", 1, "100.64.0.3", 53, 1, 100)), true, false},
		{"for nobody", raw(protoIPv4, "100.64.0.3", "100.64.0.2", datagram("10.1.0.7", 1, "100.64.0.77", 53, 1, 100)), true, false},
		{"what no grant allows", raw(protoIPv4, "100.64.0.3", "100.64.0.2", datagram("10.1.0.7", 1, "100.64.0.1", 54, 1, 100)), false, false},
		{"nested", raw(protoIPv4, "100.64.0.3", "100.64.0.2", raw(protoIPv4, "100.64.0.3", "100.64.0.2", plain)), true, false},
		{"a word in it", raw(protoIPv4, "100.64.0.3", "100.64.0.2", raw(protoWord, "10.1.0.7", "100.64.0.1", []byte("word"))), true, false},
		{"of the other family", raw(protoIPv6, "100.64.0.3", "100.64.0.2", plain), true, false},
		{"with something behind", raw(protoIPv4, "100.64.0.3", "100.64.0.2", long), true, false},
		{"cut", raw(protoIPv4, "100.64.0.3", "100.64.0.2", short), true, false},
		{"empty", raw(protoIPv4, "100.64.0.3", "100.64.0.2", nil), true, false},
		{"a fragment", fragment, true, false},
	} {
		o := newOffice(t, "0.0.0.0/0 0.0.0.0/0 17 53")
		o.a.knows(plan{
			carries: append(officeCIDRs, "10.8.0.0/16"), peers: map[string][]string{"laptop": {"10.3.0.0/16", "10.1.9.0/24"}, "b": nil},
			siblings: map[string][]string{officeCIDRs[0]: {"b"}}, grants: o.grants,
		})
		o.a.takes(c.packet)
		if got := o.a.hears(); len(got) > 0 {
			t.Errorf("%s: the gateway's host received % x", c.what, got)
		}
		if got := o.laptop.hears(); (len(got) > 0) != c.passes {
			t.Errorf("%s: the laptop received % x", c.what, got)
		}
		if n := o.a.dev.Counters(); (n.Refused == 1) != c.refused {
			t.Errorf("%s: counted %+v", c.what, n)
		}
	}
}

// TestHostHandsOver: a host cannot hand anything over; between hosts, and to peers that are no siblings, IP in IP is like any other protocol.
func TestHostHandsOver(t *testing.T) {
	o := newOffice(t, "0.0.0.0/0 0.0.0.0/0 4 0")
	plain := datagram("10.1.0.7", 1, "100.64.0.1", 53, 1, 100)
	o.b.sends(raw(protoIPv4, "100.64.0.3", "100.64.0.2", plain))
	o.b.sends(raw(protoIPv4, "10.1.0.7", "100.64.0.2", plain))
	if n := o.b.dev.Counters(); n.Refused != 2 || len(o.a.hears())+len(o.laptop.hears()) > 0 {
		t.Errorf("counted %+v", n)
	}
	for _, c := range []struct{ src, dst string }{{"100.64.0.3", "100.64.0.1"}, {"10.1.0.7", "10.3.0.1"}} {
		tunnel := raw(protoIPv4, c.src, c.dst, plain)
		if o.b.sends(tunnel); c.src == "10.1.0.7" {
			if n := o.b.dev.Counters(); n.Handed != 1 {
				t.Errorf("counted %+v", n)
			}
		}
		if got := o.laptop.hears(); len(got) != 1 || !bytes.Equal(got[0], tunnel) {
			t.Errorf("from %s the laptop received % x", c.src, got)
		}
	}
}

func prefixOr(s string) netip.Prefix {
	p, _ := netip.ParsePrefix(s)
	return p
}

func TestUses(t *testing.T) {
	o := newOffice(t)
	x, none, stranger := netip.MustParsePrefix(officeCIDRs[0]), key.DevicePublic{}, key.NewDevice().Public()
	for _, c := range []struct {
		what    string
		device  key.DevicePublic
		cidr    string
		sibling key.DevicePublic
		want    bool
	}{
		{"us", o.laptop.id, officeCIDRs[0], none, true},
		{"a sibling", o.laptop.id, officeCIDRs[0], o.b.id, true},
		{"with host bits", o.laptop.id, "10.1.2.3/16", o.b.id, true},
		{"a stranger's", stranger, officeCIDRs[0], o.b.id, false},
		{"no CIDR", o.laptop.id, "0.0.0.0/33", o.b.id, false},
	} {
		if got := o.a.dev.Uses(c.device, prefixOr(c.cidr), c.sibling); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
	// What was said holds as long as everybody is there.
	o.grants = []string{"0.0.0.0/0 0.0.0.0/0 17 53"}
	packet := datagram("10.1.0.7", 1, "100.64.0.1", 53, 1, 100)
	handed := func() bool {
		before := o.a.dev.Counters().Handed
		o.a.sends(packet)
		return o.a.dev.Counters().Handed > before
	}
	with := func(peers []string, siblings ...string) {
		p := plan{carries: officeCIDRs, peers: map[string][]string{}, siblings: map[string][]string{officeCIDRs[0]: siblings}, grants: o.grants}
		for _, n := range peers {
			p.peers[n] = nil
		}
		o.a.knows(p)
	}
	if !handed() {
		t.Error("not handed over")
	}
	if with([]string{"laptop", "b"}); handed() {
		t.Error("handed over to one that is no sibling any more")
	}
	if with([]string{"laptop", "b"}, "b"); !handed() {
		t.Error("not handed over when it is one again")
	}
	if with([]string{"laptop"}, "b"); handed() {
		t.Error("handed over to one that has left")
	}
	if with([]string{"laptop", "b"}, "b"); !handed() {
		t.Error("not handed over to one that has come back")
	}
	if o.a.dev.Uses(o.laptop.id, x, o.laptop.id); handed() {
		t.Error("handed over to the laptop, which is no sibling")
	}
	if o.a.dev.Uses(o.laptop.id, netip.MustParsePrefix("10.1.0.0/24"), o.b.id); handed() {
		t.Error("handed over for a narrower prefix that nobody carries")
	}
	if o.a.dev.Uses(o.laptop.id, x, o.b.id); !handed() {
		t.Error("not handed over beside what was said of a narrower prefix that nobody carries")
	}
	for i := range 2 * maxUses {
		if got := o.a.dev.Uses(o.laptop.id, netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 8), byte(i), 0}), 24), o.b.id); !got {
			t.Fatalf("no room for what was said %d times, most of it of nothing that siblings carry", i+1)
		}
		if n := len(*o.a.dev.accounts[o.laptop.id.Raw()].uses.Load()); n > maxUses {
			t.Fatalf("%d are kept", n)
		}
	}
	if o.a.dev.Uses(o.laptop.id, x, o.b.id); !handed() {
		t.Error("not handed over in the end")
	}
	with([]string{"b"}, "b")
	if with([]string{"laptop", "b"}, "b"); handed() {
		t.Error("handed over for a laptop that has left and come back")
	}
}

// TestLongestWins: of nested CIDRs what the laptop said of the longest counts.
func TestLongestWins(t *testing.T) {
	o := newOffice(t, "0.0.0.0/0 0.0.0.0/0 17 53")
	o.b.knows(plan{
		carries: []string{"10.0.0.0/8", "10.1.0.0/16"}, peers: map[string][]string{"laptop": {"10.3.0.0/16"}, "a": nil}, grants: o.grants,
		siblings: map[string][]string{"10.0.0.0/8": {"a"}, "10.1.0.0/16": {"a"}},
	})
	wide, narrow, us := netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.1.0.0/16"), key.DevicePublic{}
	for _, c := range []struct {
		src          string
		wide, narrow key.DevicePublic
		want         bool
	}{
		{"10.1.0.1", o.a.id, us, false}, {"10.2.0.1", o.a.id, us, true}, {"10.1.0.1", us, o.a.id, true}, {"10.2.0.1", us, o.a.id, false},
		{"10.1.0.1", o.a.id, o.a.id, true}, {"10.2.0.1", us, us, false},
		{"10.3.0.1", o.a.id, o.a.id, false}, // the laptop carries it, which forwards it elsewhere
	} {
		o.b.dev.Uses(o.laptop.id, wide, c.wide)
		o.b.dev.Uses(o.laptop.id, narrow, c.narrow)
		before := o.b.dev.Counters().Handed
		o.b.sends(datagram(c.src, 1, "100.64.0.1", 53, 1, 100))
		if got := o.b.dev.Counters().Handed > before; got != c.want {
			t.Errorf("from %s with %v for the wide and %v for the narrow CIDR: handed over %v", c.src, !c.wide.IsZero(), !c.narrow.IsZero(), got)
		}
	}
}

// TestHandOverMTU: packets that do not fit with the outer header are answered, and connections keep room for it.
func TestHandOverMTU(t *testing.T) {
	o := newOffice(t, "0.0.0.0/0 0.0.0.0/0 17 53", "0.0.0.0/0 0.0.0.0/0 6 80")
	for _, c := range []struct {
		what        string
		own, theirs int // MTUs of the paths to the sibling, and from there to the laptop
		size        int
		told        int // 0: it arrives
		by          *end
	}{
		{"fits the interface", 0, 0, 1400, 0, nil}, {"too long by one", 0, 0, 1401, 1400, o.b},
		{"fits the path", 1390, 0, 1370, 0, nil}, {"too long for the path", 1390, 0, 1371, 1370, o.b},
		{"a path longer than the interface", 1500, 0, 1401, 1400, o.b},
		{"too long for the sibling's path", 0, 1350, 1351, 1350, o.a},
		{"nobody is told of less than the least", 1290, 0, 1281, 1280, o.b}, {"what all may send goes out", 1290, 0, 1280, 0, nil},
	} {
		o.b.dev.SetMTU(o.a.node, c.own)
		o.a.dev.SetMTU(o.laptop.node, c.theirs)
		b := datagram("10.1.0.7", 1, "100.64.0.1", 53, 1, c.size-20)
		o.b.sends(b)
		if got := o.laptop.hears(); (len(got) == 1) != (c.told == 0) {
			t.Errorf("%s: the laptop received %d packets", c.what, len(got))
		}
		for _, g := range []*end{o.a, o.b} {
			got := g.hears()
			if (len(got) == 1) != (g == c.by) {
				t.Errorf("%s: the LAN received from %s: % x", c.what, g.name, got)
			} else if g == c.by && (got[0][9] != protoICMP || int(binary.BigEndian.Uint16(got[0][26:])) != c.told || netip.AddrFrom4([4]byte(got[0][16:])).String() != "10.1.0.7") {
				t.Errorf("%s: the LAN was told % x", c.what, got[0])
			}
		}
	}
	o.b.dev.SetMTU(o.a.node, 0)
	o.a.dev.SetMTU(o.laptop.node, 0)
	syn := func(src, dst string) []byte {
		b := raw(protoTCP, src, dst, make([]byte, 24))
		tcp := payloadOf(b)
		binary.BigEndian.PutUint16(tcp[2:], 80)
		tcp[12], tcp[13] = 6<<4, flagSYN
		copy(tcp[20:], []byte{optionMSS, sizeMSS, 1460 >> 8, 1460 & 255})
		return b
	}
	mss := func(b []byte) int { return int(binary.BigEndian.Uint16(b[42:])) }
	o.b.sends(syn("10.1.0.7", "100.64.0.1"))
	if got := o.laptop.hears(); len(got) != 1 || mss(got[0]) != 1420-20-40 {
		t.Errorf("the laptop received % x", got)
	}
	o.laptop.sends(syn("100.64.0.1", "10.1.0.7"))
	if got := o.a.hears(); len(got) != 1 || mss(got[0]) != 1420-40-40 {
		t.Errorf("the LAN received % x", got)
	}
}

// TestHandOverWaits: packets to hand over wait for the sibling, and there for the laptop, in order.
func TestHandOverWaits(t *testing.T) {
	o := newOffice(t, "0.0.0.0/0 0.0.0.0/0 17 53")
	o.b.dev.Configured(o.a.node, false)
	o.a.dev.Configured(o.laptop.node, false)
	for i := range 10 {
		o.b.sends(datagram("10.1.0.7", 1, "100.64.0.1", 53, i, 100))
	}
	o.b.dev.Configured(o.a.node, true)
	o.settle()
	if n := o.a.dev.Counters(); n.Unwrapped != 10 || n.Held != 10 || len(o.laptop.hears()) > 0 || len(o.a.wanted) != 1 {
		t.Errorf("counted %+v", n)
	}
	o.a.dev.Configured(o.laptop.node, true)
	o.settle()
	got := o.laptop.hears()
	for i, b := range got {
		if !bytes.Equal(b, datagram("10.1.0.7", 1, "100.64.0.1", 53, i, 100)) {
			t.Errorf("packet %d is % x", i, b)
		}
	}
	if len(got) != 10 {
		t.Errorf("%d packets came", len(got))
	}
	// New rules are put to what waits for the laptop, and not to what waits for the sibling, which judges.
	o.b.dev.Configured(o.a.node, false)
	o.b.sends(datagram("10.1.0.7", 1, "100.64.0.1", 53, 10, 100))
	none, _ := filter.Compile(nil)
	o.b.dev.Update(Update{Rules: none})
	o.a.dev.Configured(o.laptop.node, false)
	o.b.dev.Configured(o.a.node, true)
	o.settle()
	if n := o.a.dev.Counters(); n.Held != 11 {
		t.Errorf("counted %+v", n)
	}
	o.a.dev.Update(Update{Rules: none})
	o.a.dev.Configured(o.laptop.node, true)
	if o.settle(); len(o.laptop.hears()) > 0 || o.a.dev.Counters().HeldDropped != 1 {
		t.Error("a packet that is not allowed any more came")
	}
}

// officeModel plays packets of both sides against plain sets of flows, one for each filter.
type officeModel struct {
	*office
	rng    *rand.Rand
	flows  map[string]map[string]bool // by device: flows that may go on, by their first packet
	number int
}

func (m *officeModel) judge(at *end, in bool, src, dst string, sport, dport uint16) bool {
	flows := m.flows[at.name]
	if flows[fmt.Sprint(in, src, sport, dst, dport)] || flows[fmt.Sprint(!in, dst, dport, src, sport)] {
		return true
	}
	for _, g := range m.grants {
		var from, to string
		var proto, port int
		fmt.Sscan(g, &from, &to, &proto, &port)
		a, b := netip.MustParseAddr(src), netip.MustParseAddr(dst)
		if netip.MustParsePrefix(from).Contains(a) && netip.MustParsePrefix(to).Contains(b) && int(dport) == port {
			flows[fmt.Sprint(in, src, sport, dst, dport)] = true
			return true
		}
	}
	return false
}

// step sends one packet and checks where it comes out.
func (m *officeModel) step(used, told *end) error {
	lan, laptop := []string{"10.1.0.7", "10.1.0.8"}[m.rng.IntN(2)], []string{"100.64.0.1", "10.3.0.9"}[m.rng.IntN(2)]
	if m.rng.IntN(3) == 0 {
		lan, laptop = "fd01::7", "fd00::1"
	}
	p, q := uint16(1+m.rng.IntN(3)), uint16(1+m.rng.IntN(3))
	m.number++
	var b []byte
	var to []*end
	if m.rng.IntN(2) == 0 {
		b = datagram(laptop, p, lan, q, m.number, 50)
		if m.judge(m.laptop, false, laptop, lan, p, q) && m.judge(used, true, laptop, lan, p, q) {
			to = append(to, used)
		}
		m.laptop.sends(b)
	} else {
		b = datagram(lan, p, laptop, q, m.number, 50)
		// Whichever reads it, the gateway that was told of judges; and only the one in use is heard.
		if m.judge(told, false, lan, laptop, p, q) && told == used && m.judge(m.laptop, true, lan, laptop, p, q) {
			to = append(to, m.laptop)
		}
		[]*end{m.a, m.b}[m.rng.IntN(2)].sends(b)
	}
	for _, name := range slices.Sorted(maps.Keys(m.ends)) {
		e := m.ends[name]
		got := e.hears()
		if want := slices.Contains(to, e); want != (len(got) == 1) || want && !bytes.Equal(got[0], b) {
			return fmt.Errorf("packet % x is due at %d places; at %s came % x", b, len(to), name, got)
		}
	}
	return nil
}

// TestOfficeModel: any packet between LAN and laptop comes out where and only where it should, once, whichever gateway reads it, through changes of the
// gateway in use, of which the gateways hear at once or later; nothing is handed over twice.
func TestOfficeModel(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 5))
		var grants []string
		for _, g := range []string{
			"100.64.0.0/16 10.1.0.0/16 17 1", "10.3.0.0/16 10.1.0.7/32 17 2", "10.1.0.0/16 100.64.0.0/16 17 2", "fd00::/64 fd01::/64 17 3", "fd01::/64 fd00::/64 17 1",
			"10.1.0.8/32 10.3.0.0/16 17 3",
		} {
			if rng.IntN(2) == 0 {
				grants = append(grants, g)
			}
		}
		m := &officeModel{office: newOffice(t, grants...), rng: rng, flows: map[string]map[string]bool{"laptop": {}, "a": {}, "b": {}}}
		hops := map[string]int{}
		m.wire = func(_, _ *end, b []byte) {
			if protocol(b) == protoIPv4 || protocol(b) == protoIPv6 {
				if inner := innerOf(b); inner == nil || protocol(inner) != protoUDP {
					t.Errorf("seed %d: handed over: % x", seed, b)
				} else if hops[string(inner)]++; hops[string(inner)] > 1 {
					t.Errorf("seed %d: handed over twice: % x", seed, inner)
				}
			}
		}
		used, told := m.a, m.a
		for n := range 300 {
			if rng.IntN(30) == 0 {
				used = m.other(used)
				m.use(used)
			}
			if rng.IntN(15) == 0 && told != used {
				told = used
				m.tell(told)
			}
			if err := m.step(used, told); err != nil {
				t.Fatalf("seed %d, step %d, %s used, %s told, %q: %v", seed, n, used.name, told.name, grants, err)
			}
		}
	}
}
