package gateway

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func id(b byte) ID { return ID{b} }

var opts = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func TestWords(t *testing.T) {
	for name, w := range map[string]Word{
		"a bare ping": Ping{Stamp: Stamp{1, 2}},
		"a ping": Ping{Stamp: Stamp{1, 2}, Heard: Stamp{3, 4}, Uses: []Use{
			{prefix("10.1.0.0/16"), id(7), true}, {prefix("fd00:1::/48"), id(7), true}, {prefix("10.2.0.0/16"), id(7), false}, {prefix("10.3.0.0/16"), ID{}, false},
			{prefix("0.0.0.0/0"), id(9), false},
		}},
		"a bare report": Report{Stamp: Stamp{1 << 63, 1 << 62}},
		"a report": Report{Stamp: Stamp{1, 2}, Answers: Stamp{5, 6}, Health: []Told{
			{prefix("10.3.0.0/16"), Unknown}, {prefix("10.1.0.0/16"), Working}, {prefix("fd00:1::/48"), Working}, {prefix("10.2.0.0/16"), Failing}}},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := Append([]byte("before"), w)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Parse(bytes.TrimPrefix(b, []byte("before")))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(w, got, opts); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestLongestWords shows that whatever the cores may put into a word fits.
func TestLongestWords(t *testing.T) {
	p := Ping{Stamp: Stamp{1 << 63, 1 << 63}, Heard: Stamp{1 << 63, 1 << 63}}
	r := Report{Stamp: p.Stamp, Answers: p.Stamp}
	for i := range MaxPrefixes {
		q := netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, byte(i), 15: 1}), 128)
		p.Uses = append(p.Uses, Use{q, id(byte(i + 1)), true})
		r.Health = append(r.Health, Told{q, Failing})
	}
	for _, w := range []Word{p, r} {
		if _, err := Append(nil, w); err != nil {
			t.Error(err)
		}
	}
	p.Uses = append(p.Uses, p.Uses...)
	if _, err := Append(nil, p); err == nil || !strings.Contains(err.Error(), "more than 1200") {
		t.Errorf("too long a word: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	raw := func(m *pb.GatewayWord) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return append([]byte{version}, b...)
	}
	ping := func(m *pb.GatewayPing) []byte { return raw(&pb.GatewayWord{Word: &pb.GatewayWord_Ping{Ping: m}}) }
	report := func(m *pb.GatewayReport) []byte {
		return raw(&pb.GatewayWord{Word: &pb.GatewayWord_Report{Report: m}})
	}
	var many []*pb.Prefix
	for i := range MaxPrefixes + 1 {
		many = append(many, record.PrefixesToProto([]netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i)}), 16)})...)
	}
	for _, c := range []struct {
		name string
		b    []byte
		want string
	}{
		{"nothing", nil, "0 bytes"},
		{"too much", make([]byte, MaxSize+1), "1201 bytes"},
		{"another version", append([]byte{2}, ping(&pb.GatewayPing{Start: 1, Sequence: 1})[1:]...), "version 2"},
		{"no word", []byte{version}, "neither ping nor report"},
		{"a word of the future", []byte{version, 0x1a, 0}, "neither ping nor report"},
		{"no protobuf", []byte{version, 0xff, 0xff}, "proto"},
		{"no start", ping(&pb.GatewayPing{Sequence: 1}), "no stamp"},
		{"no sequence", ping(&pb.GatewayPing{Start: 1}), "no stamp"},
		{"a report without a stamp", report(&pb.GatewayReport{}), "no stamp"},
		{"half a stamp", ping(&pb.GatewayPing{Start: 1, Sequence: 1, HeardStart: 1}), "half a stamp"},
		{"half an answer", report(&pb.GatewayReport{Start: 1, Sequence: 1, AnswersSequence: 1}), "half a stamp"},
		{"a short key", ping(&pb.GatewayPing{Start: 1, Sequence: 1, Uses: []*pb.GatewayUse{{Gateway: make([]byte, 31)}}}), "31 bytes"},
		{"too many CIDRs", ping(&pb.GatewayPing{Start: 1, Sequence: 1, Uses: []*pb.GatewayUse{{Prefixes: many}}}), "prefixes"},
		{"too many CIDRs in several", ping(&pb.GatewayPing{Start: 1, Sequence: 1, Uses: []*pb.GatewayUse{{Prefixes: many[:9]}, {Prefixes: many[9:]}}}), "prefixes"},
		{"too many uses", ping(&pb.GatewayPing{Start: 1, Sequence: 1, Uses: slices.Repeat([]*pb.GatewayUse{{}}, MaxPrefixes+1)}), "17 uses"},
		{"too much health", report(&pb.GatewayReport{Start: 1, Sequence: 1, Working: many[:9], Failing: many[9:]}), "prefixes"},
		{"host bits", report(&pb.GatewayReport{Start: 1, Sequence: 1, Working: []*pb.Prefix{{Address: []byte{10, 0, 0, 1}, Bits: 8}}}), "bits set"},
		{"no address", ping(&pb.GatewayPing{Start: 1, Sequence: 1, Uses: []*pb.GatewayUse{{Prefixes: []*pb.Prefix{{}}}}}), "malformed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, err := Parse(c.b)
			if w != nil || !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, %v, not %q", w, err, c.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, w := range []Word{Ping{Stamp: Stamp{1, 1}, Uses: []Use{{prefix("10.0.0.0/8"), id(1), true}}}, Report{Stamp: Stamp{1, 1}, Health: []Told{{prefix("::/0"), Working}}}} {
		b, err := Append(nil, w)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := Parse(b)
		if err != nil {
			return
		}
		again, err := Append(nil, w)
		if err != nil {
			t.Fatalf("%v cannot be said again: %v", w, err)
		}
		got, err := Parse(again)
		if err != nil {
			t.Fatal(err)
		}
		// Saying it again gathers CIDRs of one gateway.
		if diff := cmp.Diff(normal(w), normal(got), opts); diff != "" {
			t.Error(diff)
		}
	})
}

func normal(w Word) Word {
	if p, ok := w.(Ping); ok {
		slices.SortStableFunc(p.Uses, func(a, b Use) int {
			if n := Compare(a.Gateway, b.Gateway); n != 0 {
				return n
			}
			if a.Active != b.Active {
				return map[bool]int{true: 1, false: -1}[a.Active]
			}
			return 0
		})
		return p
	}
	return w
}

func TestFresh(t *testing.T) {
	var f Fresh
	for i, c := range []struct {
		start         uint64
		restarted, ok bool
	}{{5, true, true}, {5, false, true}, {7, true, true}, {5, false, false}, {7, false, true}, {3, true, true}, {7, false, false}, {5, false, false}, {3, false, true}} {
		if restarted, ok := f.Accept(c.start); restarted != c.restarted || ok != c.ok {
			t.Errorf("step %d: start %d is %v, %v", i, c.start, restarted, ok)
		}
	}
}

// TestClock compares the clock with what it is to do, step by step.
func TestClock(t *testing.T) {
	start := time.Unix(1000, 0)
	s := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	for _, c := range []struct {
		name         string
		asked, comes float64 // when the core wants to be called, and when it is; asked 0: never
		own          float64
		jumped       bool
	}{
		{"in time", 1, 1, 1, false},
		{"early", 10, 1, 1, false},
		{"a little late", 1, 2.5, 2.5, false},
		{"after a sleep", 1, 3600, 1, true},
		{"never asked", 0, 3600, 3600, false},
		{"backwards", 1, -5, 0, true},
		{"much too early", 3600, 3599, 3599, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var k Clock
			if own, jumped := k.Set(start); own != start || jumped {
				t.Fatal("a clock that begins has jumped")
			}
			var asked time.Time
			if c.asked != 0 {
				asked = s(c.asked)
			}
			if got := k.Next(asked); got != asked {
				t.Errorf("asks for %v, not %v", got, asked)
			}
			own, jumped := k.Set(s(c.comes))
			if own != s(c.own) || jumped != c.jumped {
				t.Errorf("%v, %v", own, jumped)
			}
			if got := k.Next(own.Add(time.Second)); !got.Equal(s(c.comes + 1)) {
				t.Errorf("a second later is %v", got)
			}
			if own, jumped := k.Set(s(c.comes + 1)); !own.Equal(s(c.own+1)) || jumped {
				t.Errorf("a second later its time is %v, %v", own, jumped)
			}
		})
	}
}

// TestClockNeverGoesBack lets the caller's clock do what it likes.
func TestClockNeverGoesBack(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var k Clock
	now := time.Unix(1e6, 0)
	last, _ := k.Set(now)
	for range 10000 {
		if r.IntN(3) > 0 {
			k.Next(last.Add(time.Duration(r.IntN(2000)) * time.Millisecond))
		}
		now = now.Add(time.Duration(r.IntN(20000)-5000) * time.Millisecond)
		own, _ := k.Set(now)
		if own.Before(last) {
			t.Fatalf("%v after %v", own, last)
		}
		last = own
	}
}
