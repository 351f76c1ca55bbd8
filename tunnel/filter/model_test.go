package filter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// draw makes a packet: often of a flow that there was before, back or forth.
func draw(rng *rand.Rand, sent []shape) (s shape, quotes *shape) {
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	ports := []uint16{80, 81, 1000, 1001}
	if len(sent) > 0 && rng.IntN(3) > 0 {
		s = sent[len(sent)-1-rng.IntN(min(len(sent), 12))]
		if rng.IntN(2) == 0 {
			s.src, s.dst, s.sport, s.dport = s.dst, s.src, s.dport, s.sport
			if s.isRequest() || s.isReply() {
				s.kind ^= map[bool]uint8{true: 8, false: 1}[s.proto == protoICMP]
			}
		}
	} else {
		v6 := rng.IntN(2) == 0
		s = shape{payload: "12345678", proto: []uint8{6, 6, 17, 17, 1, 47, 132}[rng.IntN(7)], sport: ports[rng.IntN(4)], dport: ports[rng.IntN(4)], echoID: uint16(rng.IntN(2))}
		s.src, s.dst = pick(a4, b4, c4, "10.1.2.3"), pick(a4, b4, c4, "10.1.2.3")
		s.kind = []uint8{8, 8, 0, 13, 5}[rng.IntN(5)]
		if v6 {
			s.src, s.dst = pick(a6, b6, c6), pick(a6, b6, c6)
			s.kind = []uint8{128, 128, 129, 133, 137}[rng.IntN(5)]
			if s.proto == protoICMP {
				s.proto = protoICMPv6
			}
		}
	}
	s.flags = []uint8{0, 0, 0, tcpSYN, tcpFIN, tcpFIN, tcpRST}[rng.IntN(7)]
	s.fragment, s.offset, s.more, s.id, s.extensions, s.inner = false, 0, false, uint32(rng.IntN(3)), nil, nil
	if rng.IntN(5) == 0 {
		s.extensions = []uint8{extHopByHop, extDestination}[:1+rng.IntN(2)]
	}
	switch rng.IntN(8) {
	case 0:
		s.fragment, s.offset, s.more = true, uint16(rng.IntN(5)), true
		if rng.IntN(2) == 0 {
			s.inner = []uint8{extDestination}
		}
	case 1:
		if len(sent) > 0 {
			return drawError(rng, sent)
		}
	}
	return s, nil
}

// drawError reports on a recent packet, mostly truly.
func drawError(rng *rand.Rand, sent []shape) (shape, *shape) {
	q := sent[len(sent)-1-rng.IntN(min(len(sent), 8))]
	from, to := q.dst, q.src
	if rng.IntN(3) == 0 {
		o := sent[rng.IntN(len(sent))]
		if a, _ := o.addresses(); a.Is4() == netip.MustParseAddr(from).Is4() {
			from = o.src
		}
	}
	if rng.IntN(8) == 0 {
		to = from
	}
	return report(from, to, q.bytes()), &q
}

// game is a filter and the reference, which see the same.
type game struct {
	*testing.T
	rng     *rand.Rand
	filter  *Filter
	ref     *reference
	now     time.Duration
	sent    []shape
	peers   []*Peer
	carrier map[string]int // address -> index of the peer that carries it
	log     []string
	seen    map[string]int // what happened how often
}

func newGame(t *testing.T, seed uint64, seen map[string]int) *game {
	g := &game{T: t, rng: rand.New(rand.NewPCG(seed, 2)), peers: []*Peer{new(Peer), new(Peer), new(Peer)}, carrier: map[string]int{}, seen: seen}
	g.filter = New(Config{Records: seed%4 > 0})
	g.ref = &reference{records: seed%4 > 0}
	for i := range g.filter.shards {
		g.filter.shards[i].passing = 1 << 20 // the reference has no bounds
	}
	for i, a := range []string{a4, b4, c4, "10.1.2.3", a6, b6, c6} {
		g.carrier[a] = i % 3
	}
	return g
}

// change replaces the rules; sometimes a peer is gone, and another has its place.
func (g *game) change() {
	list := randomGrants(g.rng, 10)
	rules, err := Compile(list)
	if err != nil {
		g.Fatal(err)
	}
	gone := []*Peer{}
	if i := g.rng.IntN(8); i < len(g.peers) {
		gone = append(gone, g.peers[i])
		g.ref.setRules(naive(list), g.peers[i])
		g.peers[i] = new(Peer)
	} else {
		g.ref.setRules(naive(list), nil)
	}
	g.filter.SetRules(rules, g.now, gone...)
	g.log = append(g.log, fmt.Sprint(list))
}

// packet has both judge one.
func (g *game) packet() {
	s, quotes := draw(g.rng, g.sent)
	d, remote := Out, s.dst
	if in := s.src < s.dst; in != (g.rng.IntN(6) == 0) { // the ends are mostly on the same sides; otherwise the host forwards between peers
		d, remote = In, s.src
	}
	peer, b := g.peers[g.carrier[remote]], s.bytes()
	want, grant := g.ref.judge(d, peer, s, quotes, len(b), g.now)
	got := g.filter.Judge(d, peer, b, g.now)
	g.log = append(g.log, fmt.Sprintf("%v %v %+v", g.now, d, s))
	if got.Verdict != want || got.Grant != grant {
		g.Fatalf("%v by %q, want %v by %q\n%s", got.Verdict, got.Grant, want, grant, g.log[len(g.log)-1])
	}
	g.seen[want.String()]++
	if quotes != nil && want == Pass {
		g.seen["errors"]++
	}
	if s.offset > 0 && want == Pass {
		g.seen["fragments"]++
	}
	if quotes == nil {
		g.sent = append(g.sent, s)
	}
}

// collect compares what both tell.
func (g *game) collect() {
	want := g.ref.collect(g.now)
	var got []string
	g.filter.Collect(g.now, func(r *Record) {
		got = append(got, told(r))
		g.seen[r.Kind.String()+" "+r.Reason.String()]++
	}, func(_ *Peer, o Omitted) {
		g.Fatalf("left out: %+v", o)
	})
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		g.Fatalf("records (-want +got):\n%s", diff)
	}
	live := 0
	g.filter.Flows(nil, g.now, func(*Record) bool { live++; return true })
	for _, f := range g.ref.flows {
		if _, closed := f.state(); !closed {
			live--
		}
	}
	if live != 0 || g.filter.Stats().Flows != len(g.ref.flows) {
		g.Fatalf("%d live flows too many, %+v, want %d", live, g.filter.Stats(), len(g.ref.flows))
	}
}

func (g *game) play(steps int) {
	for n := range steps {
		if n == 0 || g.rng.IntN(40) == 0 {
			g.change()
		}
		if g.rng.IntN(60) == 0 { // a prefix moves to another device
			for a := range g.carrier {
				g.carrier[a] = g.rng.IntN(len(g.peers))
				break
			}
		}
		g.now += []time.Duration{
			0, time.Millisecond, time.Second, 20 * time.Second, time.Minute, idleTCPBrief, idleUDP, 2 * time.Hour,
		}[min(g.rng.IntN(8), g.rng.IntN(8), g.rng.IntN(8))]
		g.packet()
		if g.rng.IntN(10) == 0 {
			g.collect()
		}
	}
}

// TestFilterModel plays random packets, grants, peers and pauses against the reference.
func TestFilterModel(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(150) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { newGame(t, seed, seen).play(400) })
	}
	t.Logf("%v", seen)
	for _, what := range []string{
		"pass", "denied", "unrelated", "errors", "fragments", "began ", "refused ", "ended idle", "ended closed", "ended policy", "ended peer left",
	} {
		if seen[what] < 50 {
			t.Errorf("only %d of %q: not much of a test", seen[what], what)
		}
	}
}

// FuzzModel plays as TestFilterModel does, from seeds that the fuzzer draws.
func FuzzModel(f *testing.F) {
	f.Add(uint64(1000))
	f.Fuzz(func(t *testing.T, seed uint64) { newGame(t, seed, map[string]int{}).play(100) })
}
