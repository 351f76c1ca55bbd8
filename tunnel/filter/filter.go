// Package filter decides which packets may pass between the host and its peers. It denies what no grant allows, in both directions, and
// knows flows: an answer may return where the question was allowed. Compile turns the map's grants into Rules, SetRules publishes them,
// In and Out judge packets.
//
// Where grants allow everything between two addresses, both ways, no state is kept. Whether the inner source address belongs to the peer
// that sent a packet is for others to check: WireGuard by its allowed IPs, and tundev.
//
//	rules.go   grants, compiled
//	packet.go  what is read of a packet
//	flows.go   state: flows, and packets whose fragments are under way
package filter

import (
	"hash/maphash"
	"net/netip"
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

// New makes a filter that denies everything until SetRules.
func New() *Filter {
	f := &Filter{seed: maphash.MakeSeed()}
	f.rules.Store(&generation{Rules: newRules()})
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

// PassedIn and PassedOut count packets that need no judging, since each is of the flow of one that passed at the same moment.
func (f *Filter) PassedIn(n int) { f.counts[0][Pass].Add(uint64(n)) }

// PassedOut counts what PassedIn does, the other way.
func (f *Filter) PassedOut(n int) { f.counts[1][Pass].Add(uint64(n)) }

// Again judges a packet that has been counted before, and has waited since.
func (f *Filter) Again(b []byte, now time.Duration) Verdict { return f.judge(b, now) }

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
	if rules.anything && open(rules.of(src), rules.of(dst)) {
		return Pass
	}
	p, err := Parse(b)
	if err != nil {
		return Malformed
	}
	if p.icmpError {
		return f.related(rules, &p, now)
	}
	s := f.shard(src, dst)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.Later {
		return s.laterFragment(rules, &p, now)
	}
	v := s.whole(rules, &p, now)
	if p.Fragment {
		s.firstFragment(rules, &p, v, now)
	}
	return v
}

// shard keeps both directions of a flow together.
func (f *Filter) shard(a, b netip.Addr) *shard {
	a16, b16 := a.As16(), b.As16()
	h := maphash.Bytes(f.seed, a16[:]) ^ maphash.Bytes(f.seed, b16[:])
	return &f.shards[h%shards]
}

// related passes an ICMP error only about a packet that may have been sent: one of a known flow, or between addresses that keep none. It goes
// back to that packet's sender, and comes from its destination or else from a router to which the sender may send anything.
func (f *Filter) related(rules *generation, p *Packet, now time.Duration) Verdict {
	q, err := quoted(p.payload)
	if err != nil {
		return Malformed
	}
	if q.Src != p.Dst || q.Later || p.Fragment { // errors are short: they never come in fragments
		return Unrelated
	}
	from, to := rules.of(q.Src), rules.of(q.Dst)
	if q.Dst != p.Src && !anything(from, rules.of(p.Src)) {
		return Unrelated
	}
	if open(from, to) {
		return Pass
	}
	s := f.shard(q.Src, q.Dst)
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := q.flow(); s.live(k, rules, now) != nil || s.live(k.reverse(), rules, now) != nil {
		return Pass
	}
	return Unrelated
}
