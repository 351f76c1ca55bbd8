package sim

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"warren/coord/policy"
	"warren/coord/policy/compile"
	"warren/internal/ipproto"
	"warren/tunnel/filter"
)

// member is a device with the filter that its agent makes of what the coordinator's compiler tells it.
type member struct {
	compile.Device
	*filter.Filter
	filter.Peer
}

// grant is one as the test writes it down, and judges packets by.
type grant struct {
	src, dst    string
	proto       uint8
	first, last uint16
}

func (g grant) text() string {
	return fmt.Sprintf(`{"src": [%q], "dst": [%q], "ip": ["%s:%d-%d"]}`, g.src, g.dst, policy.ProtocolName(g.proto), g.first, g.last)
}

// is reports whether a device is what a selector says; asks is who sends.
func is(selector string, d, asks *member) bool {
	user := d.Owner
	if len(d.Tags) > 0 {
		user = ""
	}
	switch tag, tagged := strings.CutPrefix(selector, "tag:"); {
	case selector == "*":
		return true
	case tagged:
		return len(d.Tags) > 0 && d.Tags[0] == tag
	case selector == "autogroup:self":
		return user != "" && user == asks.Owner && len(asks.Tags) == 0
	case selector == "autogroup:member":
		return user != ""
	}
	return user == selector
}

// TestCompilerWithFilter sends packets through the filters of both ends, which hold what the compiler tells each: a flow begins if, and only if, a
// grant says so, and then its answers return.
func TestCompilerWithFilter(t *testing.T) {
	began, refused := 0, 0
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 3))
		grants, members := policyWorld(t, rng)
		for n := range 60 {
			a, b := members[rng.IntN(len(members))], members[rng.IntN(len(members))]
			if a == b {
				continue
			}
			proto, family := []uint8{ipproto.TCP, ipproto.UDP}[rng.IntN(2)], rng.IntN(2)
			sport, dport := uint16(1024+n), uint16(79+rng.IntN(6))
			want := false
			for _, g := range grants {
				want = want || is(g.src, a, a) && is(g.dst, b, a) && g.proto == proto && g.first <= dport && dport <= g.last
			}
			src, dst := a.Addresses[family], b.Addresses[family]
			question, answer := segment(proto, src, dst, sport, dport), segment(proto, dst, src, dport, sport)
			if passes(b, a, answer) { // nobody asked, and no grant is of such a port
				t.Fatalf("seed %d: %s sends an answer to %s to nothing", seed, b.Name, a.Name)
			}
			if got := passes(a, b, question); got != want {
				t.Fatalf("seed %d: %s > %s %d/%d: %v, want %v; %v", seed, a.Name, b.Name, proto, dport, got, want, grants)
			}
			if got := passes(b, a, answer); got != want {
				t.Fatalf("seed %d: the answer of %s to %s %d/%d: %v, want %v", seed, b.Name, a.Name, proto, dport, got, want)
			}
			if want {
				began++
			} else {
				refused++
			}
		}
	}
	if began < 500 || refused < 500 {
		t.Errorf("%d flows began, %d were refused: the worlds say little", began, refused)
	}
}

// policyWorld makes devices, grants, and the filter of each device.
func policyWorld(t *testing.T, rng *rand.Rand) (grants []grant, members []*member) {
	dir := compile.Directory{Prefixes: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/16"), netip.MustParsePrefix("fd00:1::/48")}}
	for i := range 3 + rng.IntN(6) {
		d := compile.Device{ID: compile.ID{1, byte(i)}, Name: fmt.Sprint("d", i), Owner: []string{"", "ann", "bob"}[rng.IntN(3)]}
		d.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 0, byte(i + 1)}), netip.AddrFrom16([16]byte{0xfd, 0, 0, 1, 15: byte(i + 1)})}
		if rng.IntN(3) == 0 {
			d.Tags = []string{[]string{"web", "db"}[rng.IntN(2)]}
		}
		dir.Devices = append(dir.Devices, d)
	}
	var texts []string
	for range 1 + rng.IntN(5) {
		sources, more := []string{"ann", "bob", "tag:web", "tag:db", "autogroup:member", "*"}, []string{"ann", "bob", "tag:web", "tag:db", "autogroup:member", "*"}
		g := grant{src: sources[rng.IntN(6)], dst: more[rng.IntN(6)], proto: []uint8{ipproto.TCP, ipproto.UDP}[rng.IntN(2)], first: uint16(79 + rng.IntN(4))}
		if g.last = g.first + uint16(rng.IntN(3)); rng.IntN(4) == 0 {
			g.src, g.dst = "autogroup:member", "autogroup:self"
		}
		grants, texts = append(grants, g), append(texts, g.text())
	}
	p, err := policy.Parse([]byte(`{"grants": [` + strings.Join(texts, ",") + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	c := compile.New(p, dir, time.Unix(1_800_000_000, 0))
	for _, d := range dir.Devices {
		rules, err := filter.Compile(c.View(d.ID).Grants)
		if err != nil {
			t.Fatal(err)
		}
		m := &member{Device: d, Filter: filter.New(filter.Config{Records: rng.IntN(2) == 0})}
		m.SetRules(rules, 0)
		members = append(members, m)
	}
	return grants, members
}

// passes reports whether a packet leaves the one device and enters the other.
func passes(from, to *member, b []byte) bool {
	return from.Judge(filter.Out, &to.Peer, b, 0).Verdict == filter.Pass && to.Judge(filter.In, &from.Peer, b, 0).Verdict == filter.Pass
}

// segment is an IP packet with the beginning of a TCP segment or a UDP datagram.
func segment(proto uint8, src, dst netip.Addr, sport, dport uint16) []byte {
	var b []byte
	if src.Is4() {
		b = make([]byte, 20)
		b[0], b[3], b[8], b[9] = 0x45, 40, 64, proto
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
	} else {
		b = make([]byte, 40)
		b[0], b[5], b[6], b[7] = 0x60, 20, proto, 64
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
	}
	b = binary.BigEndian.AppendUint16(b, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	return append(b, make([]byte, 16)...)
}
