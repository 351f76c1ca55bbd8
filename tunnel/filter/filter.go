// Package filter decides which packets may pass between the host and its peers. It denies what no grant allows, in both directions, and
// knows flows: an answer may return where the question was allowed. Compile turns the map's grants into Rules, SetRules publishes them,
// In and Out judge packets.
//
// Where a grant allows everything between two addresses no state is kept and nothing is allocated. Whether the inner source address belongs
// to the peer that sent a packet has been checked by WireGuard before.
package filter

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Verdict is what becomes of a packet.
type Verdict uint8

// The verdicts; all but Pass drop the packet, and say why.
const (
	Pass Verdict = iota
	Denied
	Malformed
	Unrelated // an ICMP error, or a later fragment, of nothing that is known
	verdicts
)

// String is for metrics.
func (v Verdict) String() string {
	return [...]string{"pass", "denied", "malformed", "unrelated"}[v]
}

const (
	shards = 32
	// maxFlows bounds the flows of a shard, maxFragments the packets whose fragments are under way.
	maxFlows     = 2048
	maxFragments = 256
	// Idle flows are forgotten, after the times that RFC 4787, 5382 and 5508 ask of NATs for the same purpose.
	idleTCP       = 2*time.Hour + 4*time.Minute
	idleTCPEnding = 4 * time.Minute
	idleUDP       = 5 * time.Minute
	idleOther     = time.Minute
	idleFragment  = 30 * time.Second
	// sample is how many entries are looked at for one that may go.
	sample = 8
)

// Filter is safe for concurrent use.
type Filter struct {
	rules  atomic.Pointer[generation]
	seed   maphash.Seed
	shards [shards]shard
	counts [2][verdicts]atomic.Uint64
}

// generation is a set of rules with its number: flows remember under which they were last allowed.
type generation struct {
	*Rules
	number uint64
}

type shard struct {
	mu        sync.Mutex
	flows     map[flowKey]*flowState
	fragments map[fragmentKey]fragmentState
}

// flowKey names a flow in the direction of its first packet.
type flowKey struct {
	src, dst         netip.Addr
	srcPort, dstPort uint16
	proto            uint8
}

func (k flowKey) reverse() flowKey {
	return flowKey{k.dst, k.src, k.dstPort, k.srcPort, k.proto}
}

type flowState struct {
	expires    time.Duration
	generation uint64
}

type fragmentKey struct {
	src, dst netip.Addr
	id       uint32
	proto    uint8
}

type fragmentState struct {
	verdict Verdict
	expires time.Duration
}

// New makes a filter that denies everything until SetRules.
func New() *Filter {
	f := &Filter{seed: maphash.MakeSeed()}
	f.rules.Store(&generation{Rules: new(Rules)})
	for i := range f.shards {
		f.shards[i].flows, f.shards[i].fragments = map[flowKey]*flowState{}, map[fragmentKey]fragmentState{}
	}
	return f
}

// SetRules puts r into force. Flows that it does not allow end with their next packet.
func (f *Filter) SetRules(r *Rules) {
	old := f.rules.Load()
	f.rules.Store(&generation{r, old.number + 1})
}

// In judges a packet from a peer, Out one to a peer. now is any clock that only goes forward.
func (f *Filter) In(b []byte, now time.Duration) Verdict { return f.count(0, f.judge(b, now)) }

// Out judges a packet to a peer.
func (f *Filter) Out(b []byte, now time.Duration) Verdict { return f.count(1, f.judge(b, now)) }

func (f *Filter) count(direction int, v Verdict) Verdict {
	f.counts[direction][v].Add(1)
	return v
}

// Counters are how many packets got each verdict.
type Counters struct{ In, Out [verdicts]uint64 }

// Counters gives the counts so far.
func (f *Filter) Counters() (c Counters) {
	for v := range verdicts {
		c.In[v], c.Out[v] = f.counts[0][v].Load(), f.counts[1][v].Load()
	}
	return c
}

// judge is the same for both directions: grants name source and destination.
func (f *Filter) judge(b []byte, now time.Duration) Verdict {
	src, dst, err := Addresses(b)
	if err != nil {
		return Malformed
	}
	rules := f.rules.Load()
	if rules.open(src, dst) {
		return Pass
	}
	p, err := Parse(b)
	if err != nil {
		return Malformed
	}
	s := f.shard(src, dst)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.Later {
		return s.laterFragment(&p, now)
	}
	v := s.whole(rules, &p, now)
	if p.Fragment {
		s.firstFragment(&p, v, now)
	}
	return v
}

// shard keeps both directions of a flow together.
func (f *Filter) shard(a, b netip.Addr) *shard {
	h := maphash.Comparable(f.seed, a) ^ maphash.Comparable(f.seed, b)
	return &f.shards[h%shards]
}

// whole judges a packet that has its ports. The caller holds mu, as for all methods of shard.
func (s *shard) whole(rules *generation, p *Packet, now time.Duration) Verdict {
	if p.icmpError {
		return s.related(rules, p, now)
	}
	k := flowKey{p.Src, p.Dst, p.SrcPort, p.DstPort, p.Proto}
	if st := s.live(k, rules, now); st != nil {
		st.refresh(p, now)
		return Pass
	}
	if st := s.live(k.reverse(), rules, now); st != nil {
		st.refresh(p, now)
		return Pass
	}
	if !rules.allow(p.Src, p.Dst, p.Proto, p.DstPort) {
		return Denied
	}
	st := &flowState{generation: rules.number}
	st.refresh(p, now)
	s.makeRoom(now)
	s.flows[k] = st
	return Pass
}

// live finds a flow that has not expired and that the rules still allow.
func (s *shard) live(k flowKey, rules *generation, now time.Duration) *flowState {
	st := s.flows[k]
	if st == nil {
		return nil
	}
	if now >= st.expires {
		delete(s.flows, k)
		return nil
	}
	if st.generation != rules.number {
		if !rules.allow(k.src, k.dst, k.proto, k.dstPort) && !rules.open(k.src, k.dst) {
			delete(s.flows, k)
			return nil
		}
		st.generation = rules.number
	}
	return st
}

// refresh sets when the flow is forgotten if nothing more comes. A TCP connection that is being closed is forgotten sooner.
func (st *flowState) refresh(p *Packet, now time.Duration) {
	idle := idleOther
	switch p.Proto {
	case protoTCP:
		idle = idleTCP
		if p.tcpFlags&(tcpFIN|tcpRST) != 0 {
			idle = idleTCPEnding
		}
	case protoUDP, protoSCTP:
		idle = idleUDP
	}
	st.expires = now + idle
}

// makeRoom drops, among a few flows, an expired one or else the one that would expire first.
func (s *shard) makeRoom(now time.Duration) {
	if len(s.flows) < maxFlows {
		return
	}
	var victim flowKey
	earliest, seen := time.Duration(0), 0
	for k, st := range s.flows {
		if seen == 0 || st.expires < earliest {
			victim, earliest = k, st.expires
		}
		if seen++; seen == sample || earliest <= now {
			break
		}
	}
	delete(s.flows, victim)
}

// related passes an ICMP error only about a packet of a flow that is known, from or to the addresses of that flow.
func (s *shard) related(rules *generation, p *Packet, now time.Duration) Verdict {
	q, err := quoted(p.payload)
	if err != nil {
		return Malformed
	}
	// The error goes back to the quoted packet's sender. It may come from a router on the way, but inside the tunnel that is the peer itself or
	// a gateway with the flow's own destination behind it.
	if q.Src != p.Dst {
		return Unrelated
	}
	if rules.open(q.Src, q.Dst) {
		return Pass
	}
	if q.Dst != p.Src {
		return Unrelated
	}
	k := flowKey{q.Src, q.Dst, q.SrcPort, q.DstPort, q.Proto}
	if s.live(k, rules, now) == nil && s.live(k.reverse(), rules, now) == nil {
		return Unrelated
	}
	return Pass
}

// firstFragment remembers what became of it, for those that follow.
func (s *shard) firstFragment(p *Packet, v Verdict, now time.Duration) {
	if len(s.fragments) >= maxFragments {
		for k, st := range s.fragments {
			if now >= st.expires || len(s.fragments) >= maxFragments {
				delete(s.fragments, k)
			}
		}
	}
	s.fragments[fragmentKey{p.Src, p.Dst, p.FragmentID, p.Proto}] = fragmentState{v, now + idleFragment}
}

func (s *shard) laterFragment(p *Packet, now time.Duration) Verdict {
	k := fragmentKey{p.Src, p.Dst, p.FragmentID, p.Proto}
	st, ok := s.fragments[k]
	if !ok || now >= st.expires {
		return Unrelated
	}
	return st.verdict
}
