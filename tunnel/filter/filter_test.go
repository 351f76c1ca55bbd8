package filter

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// step is a packet at a time, after new rules if there are any, and the verdict that is due. It comes from the only peer there is unless
// another is named.
type step struct {
	at    time.Duration
	s     shape
	want  Verdict
	rules *Rules
	peer  *Peer
}

// on judges a packet on the way between the host and a peer that has a4 and a6.
func (f *Filter) on(p *Peer, b []byte, now time.Duration) Verdict {
	d := In
	if _, dst, err := Addresses(b); err == nil && (dst.String() == a4 || dst.String() == a6) {
		d = Out
	}
	return f.Judge(d, p, b, now).Verdict
}

func fragmentOf(s shape, id uint32, offset uint16, more bool) shape {
	s.fragment, s.id, s.offset, s.more, s.payload = true, id, offset, more, "12345678"
	return s
}

func TestFlows(t *testing.T) {
	web := mustCompile(a4+","+a6+" -> "+b4+","+b6+" 6:80-80,17:53-53,1,58", "100.64.0.0/24 -> 100.64.0.9 47")
	none, anyOneWay := mustCompile(), mustCompile(a4+" -> "+b4+",10.0.0.0/8 any")
	ask, answer := udp(a4, b4, 1000, 53), udp(b4, a4, 53, 1000)
	syn, synAck, ack := tcp(a4, b4, 1000, 80, tcpSYN), tcp(b4, a4, 80, 1000, tcpSYN), tcp(a4, b4, 1000, 80, 0)
	fin, finBack, rst := tcp(a4, b4, 1000, 80, tcpFIN), tcp(b4, a4, 80, 1000, tcpFIN), tcp(b4, a4, 80, 1000, tcpRST)
	back := tcp(b4, a4, 80, 1000, 0)
	big, other := udp(a6, b6, 5, 53), new(Peer)
	for name, steps := range map[string][]step{
		"default deny": {{s: ask, want: Denied, rules: none}, {s: syn, want: Denied}, {s: icmp(a4, b4, 8, 1), want: Denied}},
		"answer": {
			{s: answer, want: Denied, rules: web}, {s: ask}, {s: answer}, {s: udp(b4, a4, 53, 1001), want: Denied}, {s: udp(b4, a4, 54, 1000), want: Denied},
			{s: udp(c4, a4, 53, 1000), want: Denied}, {s: tcp(b4, a4, 53, 1000, 0), want: Denied},
		},
		"other ports and protocols": {
			{s: udp(a4, b4, 1000, 54), want: Denied, rules: web}, {s: tcp(a4, b4, 1000, 53, tcpSYN), want: Denied},
			{s: shape{src: a4, dst: b4, proto: 47}, want: Denied}, {s: shape{src: a4, dst: b4, proto: protoSCTP, dport: 80}, want: Denied},
		},
		"no ports": {
			{s: shape{src: a4, dst: "100.64.0.9", proto: 47}, rules: web}, {s: shape{src: "100.64.0.9", dst: a4, proto: 47}},
			{s: shape{src: "100.64.0.9", dst: b4, proto: 47}, want: Denied},
		},
		"UDP is forgotten": {
			{s: ask, rules: web}, {at: idleUDP - 1, s: answer}, {at: 2*idleUDP - 2, s: answer}, {at: 3*idleUDP - 2, s: answer, want: Denied},
		},
		"TCP stays for hours":                       {{s: syn, rules: web}, {s: synAck}, {s: ack}, {at: idleTCP - 1, s: back}, {at: 2*idleTCP - 1, s: back, want: Denied}},
		"TCP that nobody answers is forgotten soon": {{s: syn, rules: web}, {s: ack}, {at: idleTCPBrief, s: back, want: Denied}},
		"TCP that both have ended is forgotten soon, whatever comes after": {
			{s: syn, rules: web}, {s: synAck}, {s: ack}, {s: fin}, {s: finBack}, {s: ack}, {at: idleTCPBrief, s: back, want: Denied},
		},
		"TCP that one side has ended goes on": {{s: syn, rules: web}, {s: synAck}, {s: fin}, {at: idleTCP - 1, s: back}},
		"TCP reset is forgotten soon":         {{s: syn, rules: web}, {s: synAck}, {s: rst}, {s: ack}, {at: idleTCPBrief, s: back, want: Denied}},
		"TCP ports used again": {
			{s: syn, rules: web}, {s: synAck}, {s: fin}, {s: finBack}, {at: 1, s: syn}, {at: 1, s: synAck}, {at: idleTCP, s: back},
		},
		"echo": {
			{s: icmp(a4, b4, 8, 7), rules: web}, {s: icmp(b4, a4, 0, 7)}, {s: icmp(b4, a4, 0, 8), want: Denied}, {s: icmp(b4, a4, 8, 7), want: Denied},
			{at: idleOther, s: icmp(b4, a4, 0, 7), want: Denied},
		},
		"echo, v6": {{s: icmp(a6, b6, 128, 7), rules: web}, {s: icmp(b6, a6, 129, 7)}, {s: icmp(b6, a6, 128, 7), want: Denied}},
		"an answer lets no question in": {
			{s: icmp(a4, b4, 0, 7), rules: web}, {s: icmp(b4, a4, 8, 7), want: Denied}, {s: icmp(b4, a4, 0, 7), want: Denied},
		},
		"other ICMP keeps no state": {{s: icmp(a4, b4, 13, 0), rules: web}, {s: icmp(b4, a4, 5, 0), want: Denied}, {s: icmp(b4, a4, 14, 0), want: Denied}},
		"any, one way": {
			{s: tcp(b4, a4, 9, 9, 0), want: Denied, rules: anyOneWay}, {s: tcp(a4, b4, 9, 9, tcpSYN)}, {s: tcp(b4, a4, 9, 9, 0)},
			{s: shape{src: a4, dst: b4, proto: 250}}, {s: shape{src: b4, dst: a4, proto: 250}}, {s: shape{src: b4, dst: a4, proto: 251}, want: Denied},
		},
		"rules replaced": {
			{s: ask, rules: web}, {s: answer}, {s: answer, want: Denied, rules: none}, {s: ask, want: Denied}, {s: answer, want: Denied, rules: web}, {s: ask}, {s: answer},
		},
		"rules replaced by some that still allow the flow": {
			{s: ask, rules: web}, {s: answer, rules: mustCompile(a4 + " -> " + b4 + " 17:50-60")}, {s: udp(a4, b4, 1000, 60)}, {s: syn, want: Denied},
		},
		"rules that were away between two packets": {{s: ask, rules: web}, {s: answer, rules: web}},
		"errors": {
			{s: report(b4, a4, ask.bytes()), want: Unrelated, rules: web}, {s: ask}, {s: report(b4, a4, ask.bytes()[:28])}, {s: report(b4, a4, ask.bytes()[:27]), want: Malformed},
			{s: report(a4, b4, answer.bytes())}, {s: report(b4, a4, udp(a4, b4, 1001, 53).bytes()), want: Unrelated}, {s: report(c4, a4, ask.bytes()), want: Unrelated, peer: other},
			{s: report(b4, c4, ask.bytes()), want: Unrelated}, {at: idleUDP, s: report(b4, a4, ask.bytes()), want: Unrelated},
		},
		"errors about echoes": {
			{s: icmp(a4, b4, 8, 7), rules: web}, {s: report(b4, a4, icmp(a4, b4, 8, 7).bytes())},
			{s: report(b4, a4, icmp(a4, b4, 8, 8).bytes()), want: Unrelated},
		},
		"errors, v6, extensions": {
			{s: big, rules: web},
			{s: report(b6, a6, shape{src: a6, dst: b6, proto: protoUDP, sport: 5, dport: 53, fragment: true, more: true, extensions: []uint8{extDestination}}.bytes())},
			{s: report(b6, a6, fragmentOf(big, 1, 9, true).bytes()), want: Unrelated},
		},
		"errors keep no flow alive": {{s: ask, rules: web}, {at: idleUDP - 1, s: report(b4, a4, ask.bytes())}, {at: idleUDP, s: answer, want: Denied}},
		"errors from a router": {
			{s: ask, rules: web}, {s: report("11.0.0.1", a4, ask.bytes())}, {s: report("11.0.0.1", a4, udp(a4, b4, 1, 3).bytes()), want: Unrelated},
			{s: report("11.0.0.1", c4, ask.bytes()), want: Unrelated}, {s: report("11.0.0.1", a4, ask.bytes()), want: Unrelated, peer: other},
			{s: report(b4, a4, ask.bytes()), peer: other}, {at: idleUDP, s: report("11.0.0.1", a4, ask.bytes()), want: Unrelated},
		},
		"errors from a router of another peer": {
			{s: udp(a4, b4, 1, 2), rules: anyOneWay}, {s: report("10.0.0.1", a4, udp(a4, b4, 1, 2).bytes()), peer: other},
			{s: report("11.0.0.1", a4, udp(a4, b4, 1, 2).bytes()), want: Unrelated, peer: other}, {s: report("10.0.0.1", a4, udp(a4, b4, 1, 3).bytes()), want: Unrelated},
		},
		"errors follow a flow to another peer": {
			{s: ask, rules: web}, {s: answer, peer: other}, {s: report("11.0.0.1", a4, ask.bytes()), peer: other},
			{s: report("11.0.0.1", a4, ask.bytes()), want: Unrelated},
		},
		"errors in fragments": {{s: ask, rules: web}, {s: fragmentOf(report(b4, a4, ask.bytes()), 1, 0, true), want: Unrelated}},
		"fragments": {
			{s: fragmentOf(ask, 1, 3, true), want: Unrelated, rules: web}, {s: fragmentOf(ask, 1, 0, true)}, {s: fragmentOf(ask, 1, 3, true)}, {s: fragmentOf(ask, 1, 6, false)},
			{s: fragmentOf(ask, 2, 6, false), want: Unrelated}, {s: fragmentOf(syn, 1, 6, false), want: Unrelated}, {s: answer},
			{at: idleFragment, s: fragmentOf(ask, 1, 6, false), want: Unrelated},
		},
		"fragments of what is denied": {
			{s: fragmentOf(udp(a4, b4, 1, 54), 1, 0, true), want: Denied, rules: web}, {s: fragmentOf(udp(a4, b4, 1, 54), 1, 3, false), want: Unrelated},
			{s: fragmentOf(ask, 1, 0, true)}, {s: fragmentOf(ask, 1, 3, true)},
			{s: fragmentOf(udp(a4, b4, 1, 54), 1, 0, true), want: Denied}, {s: fragmentOf(ask, 1, 3, true), want: Unrelated},
		},
		"fragments, v6, with extensions behind": {
			{s: fragmentOf(shape{src: a6, dst: b6, proto: protoUDP, dport: 53, inner: []uint8{extDestination}}, 1<<16+1, 0, true), rules: web},
			{s: fragmentOf(shape{src: a6, dst: b6, proto: protoUDP, inner: []uint8{extDestination}}, 1<<16+1, 3, false)},
			{s: fragmentOf(shape{src: a6, dst: b6, proto: protoUDP, inner: []uint8{extDestination}}, 1, 3, false), want: Unrelated},
		},
		"fragments that would write over the ports": {
			{s: fragmentOf(syn, 1, 0, true), rules: web}, {s: fragmentOf(syn, 1, 1, true), want: Malformed}, {s: fragmentOf(syn, 1, 2, true), want: Malformed},
			{s: fragmentOf(syn, 1, 3, false)}, {s: fragmentOf(ask, 1, 0, true)}, {s: fragmentOf(ask, 1, 1, false)},
		},
		"fragments that would write over the ports, v6": {
			{s: fragmentOf(shape{src: a6, dst: b6, proto: protoUDP, dport: 53, inner: []uint8{extDestination}}, 1, 0, true), rules: web},
			{s: fragmentOf(shape{src: a6, dst: b6, proto: protoUDP, inner: []uint8{extDestination}}, 1, 1, true), want: Malformed},
			{s: fragmentOf(shape{src: a6, dst: b6, proto: protoUDP, inner: []uint8{extDestination}}, 1, 2, true), want: Malformed},
			{s: fragmentOf(shape{src: a6, dst: b6, proto: protoUDP, inner: []uint8{extDestination}}, 1, 3, false)},
		},
		"fragments when rules are replaced": {
			{s: fragmentOf(ask, 1, 0, true), rules: web}, {s: fragmentOf(ask, 1, 3, true), rules: web}, {s: fragmentOf(ask, 1, 6, true), want: Unrelated, rules: none},
		},
		"an atomic fragment leaves others alone": {
			{s: fragmentOf(big, 1, 0, true), rules: web}, {s: fragmentOf(udp(a6, b6, 5, 54), 1, 0, false), want: Denied}, {s: fragmentOf(big, 1, 3, false)},
		},
	} {
		for _, records := range []bool{false, true} {
			f, only := New(Config{Records: records}), new(Peer)
			for i, st := range steps {
				if st.rules != nil {
					f.SetRules(st.rules, st.at)
				}
				p := only
				if st.peer != nil {
					p = st.peer
				}
				if got := f.on(p, st.s.bytes(), st.at); got != st.want {
					t.Errorf("%s, step %d, records %v: %v, want %v", name, i+1, records, got, st.want)
				}
			}
		}
	}
}

// TestForwarded: what the host forwards from one peer to another is two flows, each on its peer's account. Errors about it find their way whichever peer's
// router reports, and no peer can report on what it has no part in.
func TestForwarded(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		a, b := a4, b4
		echo := [2]uint8{8, 0}
		if v6 {
			a, b, echo = a6, b6, [2]uint8{128, 129}
		}
		f, x, y, z := New(Config{Records: true}), new(Peer), new(Peer), new(Peer)
		f.SetRules(mustCompile(a+" -> "+b+" 6:80-80,17:53-53,1,58"), 0)
		type leg struct {
			d    Direction
			peer *Peer
			want Verdict
		}
		there, back := []leg{{In, x, Pass}, {Out, y, Pass}}, []leg{{In, y, Pass}, {Out, x, Pass}}
		syn, ask := tcp(a, b, 1000, 80, tcpSYN), udp(a, b, 1000, 53)
		for i, c := range []struct {
			s    shape
			legs []leg
		}{
			{syn, there}, {tcp(b, a, 80, 1000, tcpSYN), back}, {tcp(a, b, 1000, 80, 0), there},
			{ask, there}, {udp(b, a, 53, 1000), back},
			{icmp(a, b, echo[0], 7), there}, {icmp(b, a, echo[1], 7), back},
			{fragmentOf(ask, 1, 0, true), there}, {fragmentOf(ask, 1, 3, false), there}, {fragmentOf(udp(b, a, 53, 1000), 2, 0, true), back},
			{report(b, a, syn.bytes()), back}, {report(b, a, ask.bytes()), back}, {report(a, b, udp(b, a, 53, 1000).bytes()), there},
			{report(c4, a, ask.bytes()), []leg{{In, y, Pass}, {Out, x, Pass}, {In, z, Unrelated}, {Out, z, Unrelated}}},
			{udp(b, a, 53, 1001), []leg{{In, y, Denied}, {Out, x, Denied}}},
			{tcp(a, b, 1000, 80, tcpRST), there}, {tcp(a, b, 1000, 80, tcpSYN), there}, {tcp(b, a, 80, 1000, tcpSYN), back},
		} {
			if a, _ := c.s.addresses(); v6 == a.Is4() {
				continue
			}
			for _, l := range c.legs {
				if got := f.Judge(l.d, l.peer, c.s.bytes(), 0).Verdict; got != l.want {
					t.Errorf("packet %d, %+v, %v: %v, want %v", i, c.s, l.d, got, l.want)
				}
			}
		}
		count := map[*Peer]map[Direction]int{x: {}, y: {}}
		f.Flows(nil, 0, func(r *Record) bool {
			count[r.Peer][r.Direction]++
			if r.Src.Addr().String() != a || r.Traffic[In].Packets == 0 || r.Traffic[Out].Packets == 0 {
				t.Errorf("%+v", r)
			}
			return true
		})
		if diff := cmp.Diff(map[*Peer]map[Direction]int{x: {In: 3}, y: {Out: 3}}, count); diff != "" {
			t.Errorf("flows by peer and direction of the first packet (-want +got):\n%s", diff)
		}
	}
}

// TestLessThanAny: where all flows are known, those that began under a grant of everything go on under one that still allows them.
func TestLessThanAny(t *testing.T) {
	for _, records := range []bool{false, true} {
		f, p := New(Config{Records: records}), new(Peer)
		f.SetRules(mustCompile(a4+" -> "+b4+" any", b4+" -> "+a4+" any"), 0)
		f.on(p, tcp(a4, b4, 1000, 80, tcpSYN).bytes(), 0)
		f.SetRules(mustCompile(a4+" -> "+b4+" any"), 0)
		if got := f.on(p, tcp(b4, a4, 80, 1000, 0).bytes(), 0); (got == Pass) != records {
			t.Errorf("records %v: %v", records, got)
		}
		if got := f.on(p, tcp(b4, a4, 80, 1001, 0).bytes(), 0); got != Denied {
			t.Errorf("records %v: %v", records, got)
		}
	}
}

// TestOpen: where both ways are open nothing is looked into, and nothing remembered without records.
func TestOpen(t *testing.T) {
	odd := with(udp(a4, b4, 1, 2).bytes(), 3, 255) // says it is longer than it is
	for _, records := range []bool{false, true} {
		f, p := New(Config{Records: records}), new(Peer)
		f.SetRules(mustCompile("0.0.0.0/0,::/0 -> 0.0.0.0/0,::/0 any"), 0)
		for _, b := range [][]byte{udp(a4, b4, 1, 2).bytes(), fragmentOf(udp(a6, b6, 1, 2), 1, 5, true).bytes(), report(b4, a4, []byte("?")).bytes(), odd} {
			if j := f.Judge(Out, p, b, 0); j.Verdict != Pass || j.Grant != "0" {
				t.Errorf("%+v: % x", j, b)
			}
		}
		if j := f.Judge(Out, p, []byte("not IP"), 0); j.Verdict != Malformed {
			t.Error(j)
		}
		want := Stats{}
		if records {
			want.Flows = 1
		}
		if diff := cmp.Diff(want, f.Stats()); diff != "" {
			t.Errorf("records %v (-want +got):\n%s", records, diff)
		}
		if diff := cmp.Diff(Counters{Out: [verdicts]uint64{Pass: 4, Malformed: 1}}, f.Counters()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestVerdictNames(t *testing.T) {
	var got []string
	for v := range verdicts {
		got = append(got, fmt.Sprint(v))
	}
	if diff := cmp.Diff([]string{"pass", "denied", "malformed", "unrelated"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestAgain: a second look does not count.
func TestAgain(t *testing.T) {
	f := New(Config{Records: true})
	if v := f.Again(new(Peer), udp(a4, b4, 1, 2).bytes(), 0); v != Denied {
		t.Error(v)
	}
	if diff := cmp.Diff(Counters{}, f.Counters()); diff != "" {
		t.Error(diff)
	}
}
