package filter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// reference judges packets as a test writes them down, by lists that it searches from the beginning. It has no tables, no bounds, and
// knows nothing of bytes.
type reference struct {
	rules naiveRules
	flows []*refFlow
	parts []refPart
}

type refFlow struct {
	first   shape
	history []refSeen // TCP: since the last SYN of the side that began
	last    time.Duration
}

type refSeen struct {
	flags  uint8
	answer bool
}

type refPart struct {
	first   shape
	verdict Verdict
	at      time.Duration
}

func (s shape) addresses() (src, dst netip.Addr) {
	return netip.MustParseAddr(s.src), netip.MustParseAddr(s.dst)
}

// ports are those that grants and flows see.
func (s shape) ports() (src, dst uint16) {
	switch s.proto {
	case protoTCP, protoUDP, protoSCTP:
		return s.sport, s.dport
	}
	return 0, 0
}

func (s shape) isRequest() bool {
	return s.proto == protoICMP && s.kind == 8 || s.proto == protoICMPv6 && s.kind == 128
}

func (s shape) isReply() bool {
	return s.proto == protoICMP && s.kind == 0 || s.proto == protoICMPv6 && s.kind == 129
}

func (s shape) isICMP() bool { return s.proto == protoICMP || s.proto == protoICMPv6 }

func (r *reference) allowed(s shape) (some, anything bool) {
	src, dst := s.addresses()
	_, port := s.ports()
	return r.rules.allows(src, dst, s.proto, port)
}

// carries reports whether s belongs to the flow, and in which direction.
func (f *refFlow) carries(s shape) (yes, answer bool) {
	sport, dport := s.ports()
	fsport, fdport := f.first.ports()
	if f.first.proto != s.proto || (s.isICMP() && (f.first.echoID != s.echoID || !s.isRequest() && !s.isReply())) {
		return false, false
	}
	with := f.first.src == s.src && f.first.dst == s.dst && fsport == sport && fdport == dport && !s.isReply()
	against := f.first.src == s.dst && f.first.dst == s.src && fsport == dport && fdport == sport && !s.isRequest()
	return with || against, !with
}

func (f *refFlow) idle() time.Duration {
	switch f.first.proto {
	case protoUDP, protoSCTP:
		return idleUDP
	case protoTCP:
	default:
		return idleOther
	}
	answered, reset := false, false
	var ended [2]bool
	for _, h := range f.history {
		answered = answered || h.answer
		reset = reset || h.flags&tcpRST != 0
		if h.flags&tcpFIN != 0 {
			ended[map[bool]int{true: 1}[h.answer]] = true
		}
	}
	if !answered || reset || ended[0] && ended[1] {
		return idleTCPBrief
	}
	return idleTCP
}

// find gives the flow of a packet. Flows that have expired or that rules forbid are gone once something asks for them.
func (r *reference) find(s shape, now time.Duration) (flow *refFlow, answer bool) {
	for i := 0; i < len(r.flows); i++ {
		f := r.flows[i]
		yes, against := f.carries(s)
		if !yes {
			continue
		}
		if some, _ := r.allowed(f.first); !some || now >= f.last+f.idle() {
			r.flows = slices.Delete(r.flows, i, i+1)
			i--
			continue
		}
		if flow == nil || !against { // a flow in the packet's own direction comes first
			flow, answer = f, against
		}
		if !against {
			return flow, answer
		}
	}
	return flow, answer
}

func (f *refFlow) note(s shape, answer bool, now time.Duration) {
	if s.flags&tcpSYN != 0 && !answer {
		f.history = nil
	}
	f.history = append(f.history, refSeen{s.flags, answer})
	f.last = now
}

// judge takes what the packet reports on, if it is an error.
func (r *reference) judge(s shape, quotes *shape, now time.Duration) Verdict {
	_, there := r.allowed(s)
	_, back := r.allowed(shape{src: s.dst, dst: s.src})
	switch {
	case there && back:
		return Pass
	case quotes != nil:
		return r.judgeError(s, *quotes, now)
	case s.offset != 0:
		return r.judgeLater(s, now)
	}
	v := r.judgeWhole(s, now)
	if s.more {
		r.parts = append(r.parts, refPart{s, v, now})
	}
	return v
}

func (r *reference) judgeWhole(s shape, now time.Duration) Verdict {
	if f, answer := r.find(s, now); f != nil {
		f.note(s, answer, now)
		return Pass
	}
	if some, _ := r.allowed(s); !some {
		return Denied
	}
	if !s.isICMP() || s.isRequest() {
		f := &refFlow{first: s}
		f.note(s, false, now)
		r.flows = append(r.flows, f)
	}
	return Pass
}

func (r *reference) judgeError(s, quotes shape, now time.Duration) Verdict {
	_, there := r.allowed(quotes)
	_, back := r.allowed(shape{src: quotes.dst, dst: quotes.src})
	_, router := r.allowed(shape{src: quotes.src, dst: s.src})
	if quotes.src != s.dst || quotes.offset != 0 || s.more || (quotes.dst != s.src && !router) {
		return Unrelated
	}
	if there && back {
		return Pass
	}
	if f, _ := r.find(quotes, now); f == nil {
		return Unrelated
	}
	return Pass
}

func (r *reference) judgeLater(s shape, now time.Duration) Verdict {
	for _, p := range slices.Backward(r.parts) {
		same := p.first.src == s.src && p.first.dst == s.dst && p.first.id == s.id
		if v4, _ := s.addresses(); v4.Is4() {
			same = same && p.first.proto == s.proto
		}
		if !same {
			continue
		}
		if now >= p.at+idleFragment {
			return Unrelated
		}
		if p.verdict == Pass {
			some, _ := r.allowed(p.first)
			if f, _ := r.find(p.first, now); f == nil && !some {
				return Denied
			}
		}
		return p.verdict
	}
	return Unrelated
}

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
		s.fragment, s.offset, s.more = true, uint16(rng.IntN(3)), true
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
	if rng.IntN(4) == 0 {
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

// TestFilterModel plays random packets, grants and pauses against the reference.
func TestFilterModel(t *testing.T) {
	var seen [verdicts]int
	for seed := range uint64(120) {
		rng := rand.New(rand.NewPCG(seed, 2))
		f, ref := New(), &reference{}
		now := time.Duration(0)
		var sent []shape
		var log []string
		for range 400 {
			if rng.IntN(40) == 0 || len(log) == 0 {
				list := randomGrants(rng, 10)
				rules, err := Compile(list)
				if err != nil {
					t.Fatal(err)
				}
				f.SetRules(rules)
				ref.rules = naive(list)
				log = append(log, fmt.Sprint(list))
			}
			now += []time.Duration{0, time.Millisecond, time.Second, 20 * time.Second, time.Minute, idleTCPBrief, idleUDP, 2 * time.Hour}[min(rng.IntN(8), rng.IntN(8))]
			s, quotes := draw(rng, sent)
			want, got := ref.judge(s, quotes, now), f.In(s.bytes(), now)
			log = append(log, fmt.Sprintf("%v %+v", now, s))
			if got != want {
				t.Fatalf("seed %d: %v, want %v\n%s", seed, got, want, log[len(log)-1])
			}
			seen[got]++
			if quotes == nil {
				sent = append(sent, s)
			}
		}
	}
	t.Logf("verdicts %v", seen)
	if seen[Pass] < 1000 || seen[Denied] < 1000 || seen[Unrelated] < 1000 || seen[Malformed] > 0 {
		t.Errorf("the packets were not much of a test: %v", seen)
	}
}
