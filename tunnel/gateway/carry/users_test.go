package carry

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/tunnel/gateway"
)

var other = prefix("10.9.0.0/16")

// pair is an office with two CIDRs: the LAN, which siblings b and c carry too, and one without siblings.
func pair(t testing.TB) *office {
	return newOffice(t, nil, CIDR{Prefix: lan, Siblings: []ID{id('b'), id('c'), id(self)}}, CIDR{Prefix: other})
}

func (o *office) handed(want ...string) {
	o.t.Helper()
	if diff := cmp.Diff(want, o.hands); diff != "" {
		o.t.Error(diff)
	}
	o.hands = nil
}

// reports gives what was sent since the last time.
func (o *office) reports() (out []string) {
	for _, s := range o.sent {
		kind := "news"
		if s.Report.Answers != (gateway.Stamp{}) {
			kind = fmt.Sprintf("answer %d", s.Report.Answers.Sequence)
		}
		line := fmt.Sprintf("%c %s:", s.To[0], kind)
		for _, h := range s.Report.Health {
			line += fmt.Sprintf(" %s %s", h.Prefix, h.Health)
		}
		out = append(out, line)
	}
	o.sent = nil
	return out
}

func TestHandOver(t *testing.T) {
	o := pair(t)
	o.ping('d', 1, self, true, lan, other)
	o.handed() // that is how it is anyway
	o.ping('d', 2, 'b', true, lan)
	o.handed("10.1.0.0/16 for d to b")
	o.ping('d', 3, 'b', true, lan)
	o.handed()
	o.ping('d', 4, 'c', true, lan)
	o.handed("10.1.0.0/16 for d to c")
	o.ping('d', 5, 'x', true, lan) // a gateway that we know nothing of
	o.handed("10.1.0.0/16 for d to \x00")
	o.ping('d', 6, 'b', true, lan, other, prefix("10.1.2.0/24")) // the last we do not carry, the other has no such sibling
	o.handed("10.1.0.0/16 for d to b")
	o.ping('d', 7, 0, true, lan)
	o.handed("10.1.0.0/16 for d to \x00")
	o.ping('b', 1, 'b', false, lan) // a sibling uses itself
	o.handed("10.1.0.0/16 for b to b")
	o.ping('c', 1, 'b', false, lan)
	o.handed("10.1.0.0/16 for c to b")
	o.ping(self, 1, 'b', true, lan) // nonsense
	o.ping(0, 1, 'b', true, lan)
	o.handed()

	o.ping('d', 8, 'b', true, lan)
	o.ping('e', 8, 'c', true, lan)
	o.handed("10.1.0.0/16 for d to b", "10.1.0.0/16 for e to c")
	o.handle(Forget{id('e')})
	o.handle(Forget{id('e')})
	o.handed("10.1.0.0/16 for e to \x00")
	o.handle(SetCarried{[]CIDR{{Prefix: lan, Siblings: []ID{id('c')}}}}) // b has gone
	o.handed("10.1.0.0/16 for b to \x00", "10.1.0.0/16 for c to \x00", "10.1.0.0/16 for d to \x00")
	o.handle(SetCarried{[]CIDR{{Prefix: lan, Siblings: []ID{id('b')}}}}) // and is back
	o.handed("10.1.0.0/16 for b to b", "10.1.0.0/16 for c to b", "10.1.0.0/16 for d to b")
	o.handle(SetCarried{})
	o.handed("10.1.0.0/16 for b to \x00", "10.1.0.0/16 for c to \x00", "10.1.0.0/16 for d to \x00")
	if o.core.uses != 0 {
		t.Errorf("%d uses are left", o.core.uses)
	}
}

// TestOldUses brings pings again that newer ones have followed.
func TestOldUses(t *testing.T) {
	o := pair(t)
	say := func(start, seq uint64, to byte) {
		o.handle(Heard{id('d'), gateway.Ping{Stamp: gateway.Stamp{Start: start, Sequence: seq}, Uses: []gateway.Use{{Prefix: lan, Gateway: id(to)}}}})
	}
	say(1, 5, 'b')
	o.handed("10.1.0.0/16 for d to b")
	say(1, 4, 'c')
	o.handed()
	say(1, 6, 'c')
	o.handed("10.1.0.0/16 for d to c")
	say(2, 1, 'b') // it has restarted
	o.handed("10.1.0.0/16 for d to b")
	o.sent = nil
	say(1, 7, 'c')
	o.handed()
	if n := len(o.sent); n > 0 {
		t.Errorf("a ping of an old start is answered")
	}
	say(2, 2, 'c')
	o.handed("10.1.0.0/16 for d to c")
}

// TestExpiry has devices fall silent.
func TestExpiry(t *testing.T) {
	o := pair(t)
	o.ping('d', 1, 'b', false, lan)
	o.ping('e', 1, 'b', false, lan, other)
	o.handed("10.1.0.0/16 for d to b", "10.1.0.0/16 for e to b")
	for i := range uint64(14) {
		o.run(time.Minute)
		o.ping('e', 2+i, 'b', false, other)
	}
	o.handed()
	for i := range uint64(3) {
		o.run(time.Minute)
		o.ping('e', 20+i, 'b', false, other)
	}
	o.handed("10.1.0.0/16 for d to \x00", "10.1.0.0/16 for e to \x00")
	if len(o.core.devices) != 1 || o.core.uses != 1 {
		t.Errorf("%d devices and %d uses are left", len(o.core.devices), o.core.uses)
	}
	o.run(time.Hour)
	if len(o.core.devices) != 0 || !o.core.sweepAt.IsZero() {
		t.Errorf("%d devices are left, and the next look at them is at %s", len(o.core.devices), o.core.sweepAt)
	}
}

// TestAnswers shows what a device is told: the CIDRs that it has named, and no others.
func TestAnswers(t *testing.T) {
	o := newOffice(t, addrs("10.1.0.1"), CIDR{Prefix: lan, Targets: addrs("10.1.0.1")}, CIDR{Prefix: other})
	o.run(time.Second)
	o.ping('d', 1, self, true, lan, prefix("10.7.0.0/16"))
	o.ping('e', 9, self, true)
	o.ping('f', 3, self, true, other, lan)
	want := []string{"d answer 1: 10.1.0.0/16 working", "e answer 9:", "f answer 3: 10.9.0.0/16 unknown 10.1.0.0/16 working"}
	if diff := cmp.Diff(want, o.reports()); diff != "" {
		t.Error(diff)
	}
}

// TestAnswerRate shows that pings are not answered as often as somebody likes.
func TestAnswerRate(t *testing.T) {
	o := pair(t)
	for i := range uint64(10_000) {
		o.ping('d', i+1, self, true, lan)
		o.run(time.Millisecond)
	}
	if n := len(o.sent); n > answersAtOnce+10*answersPerSecond || n < 10*answersPerSecond {
		t.Errorf("%d answers in 10 s", n)
	}
	o.sent = nil
	o.ping('e', 1, self, true, lan)
	if len(o.sent) != 1 {
		t.Error("another device gets no answer")
	}
}

// TestNews tells of a LAN that is lost.
func TestNews(t *testing.T) {
	o := newOffice(t, addrs("10.1.0.1"), CIDR{Prefix: lan, Targets: addrs("10.1.0.1")}, CIDR{Prefix: other})
	o.run(time.Second)
	o.ping('d', 1, self, true, lan, other)
	o.ping('e', 1, 'b', true, lan)
	o.ping('f', 1, self, true, other)
	o.run(time.Second)
	o.sent, o.health, o.cut = nil, nil, true
	o.run(3*time.Second, o.changed)
	lost := []string{"d news: 10.1.0.0/16 failing", "e news: 10.1.0.0/16 failing"}
	heard := o.sent[0].Report.Stamp
	if diff := cmp.Diff(lost, o.reports()); diff != "" {
		t.Fatal(diff)
	}
	// The one confirms, the other does not.
	o.handle(Heard{id('d'), gateway.Ping{Stamp: gateway.Stamp{Start: 'd', Sequence: 2}, Heard: heard}})
	o.sent = nil
	at := o.now
	o.run(450 * time.Millisecond)
	again := []string{lost[1], lost[1], lost[1], lost[1]}
	if diff := cmp.Diff(again, o.reports()); diff != "" {
		t.Error(diff)
	}
	o.run(10 * time.Second)
	if len(o.sent) > 0 {
		t.Errorf("%v after %s", o.reports(), o.now.Sub(at))
	}
	// One that has heard something else has not heard this. What confirms the last of several confirms.
	o.health, o.cut = nil, false
	o.run(3*time.Second, o.changed)
	first := o.sent
	o.sent = nil
	for _, seq := range []uint64{first[0].Report.Sequence - 1, first[1].Report.Sequence} {
		o.handle(Heard{id('d'), gateway.Ping{Stamp: gateway.Stamp{Start: 'd', Sequence: 2 + seq}, Heard: gateway.Stamp{Start: 55, Sequence: seq}}})
	}
	o.handle(Heard{id('e'), gateway.Ping{Stamp: gateway.Stamp{Start: 'e', Sequence: 2}, Heard: gateway.Stamp{Start: 54, Sequence: first[1].Report.Sequence}}})
	o.sent = nil
	o.run(150 * time.Millisecond)
	if diff := cmp.Diff([]string{"d news: 10.1.0.0/16 working", "e news: 10.1.0.0/16 working"}, o.reports()); diff != "" {
		t.Error(diff)
	}
	// An answer that says it is as good.
	o.ping('e', 3, 'b', true, lan)
	answer := o.sent[0].Report.Stamp
	o.handle(Heard{id('e'), gateway.Ping{Stamp: gateway.Stamp{Start: 'e', Sequence: 4}, Heard: answer}})
	o.sent = nil
	o.run(100 * time.Millisecond)
	if diff := cmp.Diff([]string{"d news: 10.1.0.0/16 working"}, o.reports()); diff != "" {
		t.Error(diff)
	}
}

// TestManyNews tells of more CIDRs than a report holds.
func TestManyNews(t *testing.T) {
	var cidrs []CIDR
	var all []netip.Prefix
	for i := range 40 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i)}), 16)
		cidrs, all = append(cidrs, CIDR{Prefix: p, Targets: []netip.Addr{p.Addr().Next()}}), append(all, p)
	}
	o := newOffice(t, nil, cidrs...)
	for i := 0; i < len(all); i += 10 {
		o.ping('d', uint64(1+i), self, true, all[i:i+10]...)
	}
	o.sent = nil
	o.run(time.Second)
	told := map[netip.Prefix]gateway.Health{}
	for _, s := range o.sent {
		for _, h := range s.Report.Health {
			told[h.Prefix] = h.Health
		}
	}
	for _, p := range all {
		if told[p] != gateway.Failing {
			t.Errorf("%s: %s is told", p, told[p])
		}
	}
}

func TestLeave(t *testing.T) {
	o := newOffice(t, addrs("10.1.0.1"), CIDR{Prefix: lan, Targets: addrs("10.1.0.1")}, CIDR{Prefix: other})
	o.run(time.Second)
	o.ping('d', 1, self, true, lan, other)
	o.ping('e', 1, self, true)
	o.sent = nil
	o.handle(Leave{})
	if diff := cmp.Diff([]string{"d news: 10.1.0.0/16 failing 10.9.0.0/16 failing"}, o.reports()); diff != "" {
		t.Error(diff)
	}
	o.ping('e', 2, self, true, lan)
	if diff := cmp.Diff([]string{"e answer 2: 10.1.0.0/16 failing"}, o.reports()); diff != "" {
		t.Error(diff)
	}
}

// TestManyDevices shows what is forgotten when there are too many: who was silent for longest.
func TestManyDevices(t *testing.T) {
	o := pair(t)
	name := func(i int) (out ID) {
		binary.BigEndian.PutUint32(out[:], uint32(i)+1<<24)
		return out
	}
	for i := range MaxDevices + 10 {
		if i%100 == 0 {
			o.now = o.now.Add(time.Millisecond)
		}
		o.handle(Heard{name(i), gateway.Ping{Stamp: gateway.Stamp{Start: 1, Sequence: 1}, Uses: []gateway.Use{{Prefix: lan, Gateway: id('b')}}}})
		if i == 5 { // says it again and again
			continue
		}
		if i%1000 == 0 {
			o.handle(Heard{name(5), gateway.Ping{Stamp: gateway.Stamp{Start: 1, Sequence: uint64(i + 2)}, Uses: []gateway.Use{{Prefix: lan, Gateway: id('b')}}}})
		}
	}
	if len(o.core.devices) != MaxDevices || o.core.uses != MaxDevices {
		t.Errorf("%d devices, %d uses", len(o.core.devices), o.core.uses)
	}
	for i, want := range map[int]bool{0: false, 5: true, 9: false, 10: false, 100: true, MaxDevices + 9: true} {
		if got := o.core.devices[name(i)] != nil; got != want {
			t.Errorf("device %d is kept: %v", i, got)
		}
	}
}

// BenchmarkHeard is a ping in use, among ten thousand devices.
func BenchmarkHeard(b *testing.B) {
	o := pair(b)
	for i := range 10_000 {
		o.handle(Heard{ID{byte(i >> 8), byte(i), 1}, gateway.Ping{Stamp: gateway.Stamp{Start: 1, Sequence: 1}, Uses: []gateway.Use{{Prefix: lan, Gateway: id('b'), Active: true}}}})
	}
	i := 0
	for b.Loop() {
		i++
		o.now = o.now.Add(40 * time.Microsecond)
		o.core.Handle(o.now, Heard{ID{byte(i % 10_000 >> 8), byte(i % 10_000), 1},
			gateway.Ping{Stamp: gateway.Stamp{Start: 1, Sequence: uint64(i + 1)}, Uses: []gateway.Use{{Prefix: lan, Gateway: id('b'), Active: true}}}})
	}
}
