package filter

import (
	"fmt"
	"sync"
	"testing"
	"time"

	pb "warren/proto/warrenv1"
)

// sizedRules are grants of which one concerns a and b. Each of the others has its own thousandth of the hosts.
func sizedRules(t testing.TB, mine string, others int) *Rules {
	list := grants(mine)
	for i := range others {
		list = append(list, grants(fmt.Sprintf("10.%d.%d.0/24 -> %s 6:443-443", i>>8, i&255, b4))...)
	}
	r, err := Compile(list)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var packetPath = map[string]struct {
	grant  string
	others int
	packet shape
}{
	"open":                    {a4 + "," + b4 + " -> " + a4 + "," + b4 + " any", 0, tcp(a4, b4, 1, 80, 0)},
	"open, 1000 grants":       {a4 + "," + b4 + " -> " + a4 + "," + b4 + " any", 1000, tcp(a4, b4, 1, 80, 0)},
	"flow":                    {a4 + " -> " + b4 + " 6:80-80", 0, tcp(a4, b4, 1, 80, 0)},
	"flow, 1000 grants":       {a4 + " -> " + b4 + " 6:80-80", 1000, tcp(a4, b4, 1, 80, 0)},
	"flow, v6":                {a6 + " -> " + b6 + " 17:80-80", 0, udp(a6, b6, 1, 80)},
	"denied, 1000 grants":     {a4 + " -> " + b4 + " 6:80-80", 1000, tcp(a4, b4, 1, 81, 0)},
	"error, 1000 grants":      {a4 + " -> " + b4 + " 6:80-80", 1000, report(b4, a4, tcp(a4, b4, 1, 80, 0).bytes())},
	"later fragment, unknown": {a4 + " -> " + b4 + " 6:80-80", 0, shape{src: a4, dst: b4, proto: 6, offset: 1}},
}

func BenchmarkFilter(b *testing.B) {
	for name, c := range packetPath {
		b.Run(name, func(b *testing.B) {
			f, peer, p := New(Config{Records: true}), new(Peer), c.packet.bytes()
			f.SetRules(sizedRules(b, c.grant, c.others), 0)
			b.ReportAllocs()
			for b.Loop() {
				f.Judge(Out, peer, p, 0)
			}
		})
	}
	b.Run("open, no records", func(b *testing.B) {
		f, peer, p := New(Config{}), new(Peer), tcp(a4, b4, 1, 80, 0).bytes()
		f.SetRules(sizedRules(b, a4+","+b4+" -> "+a4+","+b4+" any", 1000), 0)
		b.ReportAllocs()
		for b.Loop() {
			f.Judge(Out, peer, p, 0)
		}
	})
}

// BenchmarkNewFlow is a flow's first packet, when the table is full.
func BenchmarkNewFlow(b *testing.B) {
	for name, rules := range map[string]*Rules{
		"1 grant":           mustCompile(a4 + " -> " + b4 + " 17:0-65535"),
		"10000 other":       sizedRules(b, a4+" -> "+b4+" 17:0-65535", 10_000),
		"10000 of its pair": portRules(b, 10_000),
	} {
		b.Run(name, func(b *testing.B) {
			f, peer, p := New(Config{Records: true}), new(Peer), udp(a4, b4, 0, 9_999).bytes()
			f.SetRules(rules, 0)
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				p[20], p[21] = byte(n), byte(n>>8)
				p[15] = byte(n>>16) | 1
				if f.Judge(Out, peer, p, time.Duration(n)).Verdict != Pass && p[15] == 1 {
					b.Fatal("refused")
				}
			}
		})
	}
}

// portRules are grants between a and b, one for each port.
func portRules(t testing.TB, n int) *Rules {
	var list []*pb.Grant
	for port := range n {
		list = append(list, grants(fmt.Sprintf("100.64.0.0/24 -> %s 17:%d-%d", b4, port, port))...)
	}
	r, err := Compile(list)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// BenchmarkCollect is a look at a full table with nothing to tell.
func BenchmarkCollect(b *testing.B) {
	f, peer := New(Config{Records: true}), new(Peer)
	f.SetRules(mustCompile(a4+" -> "+b4+" 17:0-65535"), 0)
	p := udp(a4, b4, 0, 0).bytes()
	for n := range 2 * DefaultMaxFlows {
		p[20], p[21], p[22] = byte(n), byte(n>>8), byte(n>>16)
		f.Judge(Out, peer, p, 0)
	}
	nothing := func(*Record) {}
	f.Collect(0, nothing, func(*Peer, Omitted) {})
	b.ReportAllocs()
	for b.Loop() {
		f.Collect(0, nothing, func(*Peer, Omitted) {})
	}
	b.ReportMetric(float64(f.Stats().Flows), "flows")
}

// BenchmarkSetRules is what a change of the rules costs when the table is full.
func BenchmarkSetRules(b *testing.B) {
	f, peer := New(Config{Records: true}), new(Peer)
	rules := []*Rules{mustCompile(a4 + " -> " + b4 + " 17:0-65535"), portRules(b, 10_000)}
	f.SetRules(rules[0], 0)
	p := udp(a4, b4, 0, 99).bytes()
	for n := range DefaultMaxFlows {
		p[20], p[21] = byte(n), byte(n>>8)
		f.Judge(Out, peer, p, 0)
	}
	for n := 0; b.Loop(); n++ {
		f.SetRules(rules[n&1], 0)
	}
	b.ReportMetric(float64(f.Stats().Flows), "flows")
}

// BenchmarkCompile is what a change of the map costs: one grant to many devices.
func BenchmarkCompile(b *testing.B) {
	list := grants(a4 + " -> " + b4 + " any")
	for i := range 10_000 {
		p := &pb.Prefix{Address: []byte{100, 64, byte(i >> 8), byte(i)}, Bits: 32}
		list[0].Sources, list[0].Destinations = append(list[0].Sources, p), append(list[0].Destinations, p)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(list); err != nil {
			b.Fatal(err)
		}
	}
}

// TestNoAllocations: a packet that begins nothing new costs none.
func TestNoAllocations(t *testing.T) {
	for name, c := range packetPath {
		f, peer, p := New(Config{Records: true}), new(Peer), c.packet.bytes()
		f.SetRules(sizedRules(t, c.grant, c.others), 0)
		f.Judge(Out, peer, p, 0)
		if n := testing.AllocsPerRun(100, func() { f.Judge(Out, peer, p, 0); f.Judge(In, peer, p, 0) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// TestConcurrent is for the race detector: packets of both directions while rules are replaced and records are read.
func TestConcurrent(t *testing.T) {
	f, peers := New(Config{Records: true, MaxFlows: 64}), []*Peer{new(Peer), new(Peer)}
	rules := []*Rules{mustCompile(a4 + " -> " + b4 + " 17:0-65535"), mustCompile(a4+" -> "+b4+" any", b4+" -> "+a4+" any"), mustCompile()}
	var group sync.WaitGroup
	for side := range 2 {
		group.Go(func() {
			for n := range 5000 {
				p := udp(a4, b4, uint16(n&15), 9)
				if side == 1 {
					p = udp(b4, a4, 9, uint16(n&15))
				}
				now := time.Duration(n) * time.Millisecond
				f.Judge(In, peers[n&1], p.bytes(), now)
				f.Judge(Out, peers[n&1], report(p.dst, p.src, p.bytes()).bytes(), now)
				f.Judge(In, peers[n&1], fragmentOf(p, uint32(n&7), uint16(n&1), true).bytes(), now)
			}
		})
	}
	for n := range 300 {
		now := time.Duration(n) * 10 * time.Millisecond
		f.SetRules(rules[n%len(rules)], now)
		f.Counters()
		f.Stats()
		f.Collect(now, func(*Record) {}, func(*Peer, Omitted) {})
		f.Flows(nil, now, func(*Record) bool { return true })
	}
	group.Wait()
	c := f.Counters()
	total := uint64(0)
	for v := range verdicts {
		total += c.In[v] + c.Out[v]
	}
	if total != 30_000 {
		t.Errorf("%d packets counted, want 30000", total)
	}
}
