// Package filter decides which packets may pass between the host and its peers. It denies what no grant allows, in both directions, and
// knows flows: an answer may return where the question was allowed. Compile turns the map's grants into Rules, SetRules publishes them,
// Judge decides about a packet and names the grant, and Collect tells which flows began, ended and were refused since the last time.
// Explain tells from the grants alone why a flow is allowed or not.
//
// Whether the inner source address belongs to the peer that sent a packet is for others to check: WireGuard by its allowed IPs, and tundev.
// They say which peer a packet comes from or goes to.
//
// A peer cannot harm another by what it sends: the table of flows is bounded, and when it is full the peer that has most of it gives up its
// own oldest entry.
//
//	filter.go   what becomes of a packet
//	rules.go    grants, compiled; pair.go: what one address may send another
//	packet.go   what is read of a packet
//	flow.go     one flow; table.go: all of them, shared out fairly
//	collect.go  what there is to tell of flows
//	keep.go     flows that outlive the process
//	explain.go  grants in words, for people
package filter

import (
	"hash/maphash"
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

// Direction is that of a packet.
type Direction uint8

// In is from a peer, Out to one.
const (
	In Direction = iota
	Out
)

func (d Direction) other() Direction { return d ^ 1 }

// String is for people and records.
func (d Direction) String() string { return [...]string{"in", "out"}[d] }

// Judgement is what becomes of a packet and why.
type Judgement struct {
	Verdict Verdict
	// Grant is the id of the one that lets it pass.
	Grant string
	// Flow is the one that it belongs to, for Add; nil if it passes without one.
	Flow *Flow
}

// DefaultMaxFlows bounds the table. A full table takes 12 MB; where each flow has a peer of its own, 23 MB.
const DefaultMaxFlows = 1 << 16

// Config is what a Filter is made with.
type Config struct {
	// MaxFlows bounds flows, packets whose fragments are under way and refused flows together; 0: DefaultMaxFlows.
	MaxFlows int
	// Records has all flows known, so that they can be told of. Without, nothing is known of flows between addresses that may send each other
	// anything, and of those that are refused.
	Records bool
}

// Filter is safe for concurrent use.
type Filter struct {
	records bool
	rules   atomic.Pointer[Rules]
	setting sync.Mutex // one SetRules at a time
	seed    maphash.Seed
	shards  [shards]shard
	counts  [2]struct {
		_        [64]byte // the two directions have processors of their own
		verdicts [verdicts]atomic.Uint64
	}
	collecting sync.Mutex
	scratch    []Record // Collect's
}

// New makes a filter that denies everything until SetRules.
func New(cfg Config) *Filter {
	if cfg.MaxFlows <= 0 {
		cfg.MaxFlows = DefaultMaxFlows
	}
	f := &Filter{seed: maphash.MakeSeed(), records: cfg.Records}
	f.rules.Store(newRules())
	for i := range f.shards {
		f.shards[i].init(f.seed, max(1, cfg.MaxFlows/shards), cfg.Records)
	}
	return f
}

// SetRules puts r into force; nil leaves the rules as they are. When it returns, flows that they do not allow have ended, and so have those with
// peers that are gone.
func (f *Filter) SetRules(r *Rules, now time.Duration, gone ...*Peer) {
	f.setting.Lock()
	defer f.setting.Unlock()
	for _, p := range gone {
		p.gone.Store(true)
	}
	if r == nil {
		r = f.rules.Load()
	}
	f.rules.Store(r)
	for i := range f.shards { // whoever enters something into a shard reads the rules while it has it
		f.shards[i].enforce(r, now)
	}
}

// Judge decides about a packet from or to a peer, and counts it. now is any clock that only goes forward.
func (f *Filter) Judge(d Direction, p *Peer, b []byte, now time.Duration) Judgement {
	j := f.judge(d, p, b, now)
	f.counts[d].verdicts[j.Verdict].Add(1)
	if j.Flow != nil {
		j.Flow.Add(d, 1, len(b))
	}
	return j
}

// Passed counts packets that need no judging, since each is of the flow of one that passed at the same moment. That flow's Add counts them, too.
func (f *Filter) Passed(d Direction, n int) { f.counts[d].verdicts[Pass].Add(uint64(n)) }

// Again judges a packet to a peer that has been counted before, and has waited since.
func (f *Filter) Again(p *Peer, b []byte, now time.Duration) Verdict {
	return f.judge(Out, p, b, now).Verdict
}

// Counters are how many packets got each verdict.
type Counters struct{ In, Out [verdicts]uint64 }

// Counters gives the counts so far.
func (f *Filter) Counters() (c Counters) {
	for v := range verdicts {
		c.In[v], c.Out[v] = f.counts[In].verdicts[v].Load(), f.counts[Out].verdicts[v].Load()
	}
	return c
}

// judge decides alike for both directions: grants name source and destination. What the host forwards from one peer to another is judged twice, as
// two flows: In when it comes from the one, Out when it goes to the other.
func (f *Filter) judge(d Direction, peer *Peer, b []byte, now time.Duration) Judgement {
	rules := f.rules.Load()
	if !f.records && rules.anything {
		if j := rules.openOr(b, Denied); j.Verdict == Pass {
			return j
		}
	}
	p, err := Parse(b)
	if err != nil {
		return rules.openOr(b, Malformed)
	}
	switch {
	case p.icmpError:
		j := f.related(d, peer, &p, now)
		if j.Verdict != Pass {
			return rules.openOr(b, j.Verdict)
		}
		return j
	case p.Later:
		j := f.laterFragment(d, &p, now)
		if j.Verdict != Pass {
			return rules.openOr(b, j.Verdict)
		}
		return j
	}
	j := f.whole(d, peer, &p, now)
	if j.Verdict == Denied {
		f.refuse(d, peer, &p, len(b), now)
	}
	if p.Fragment {
		f.firstFragment(d, peer, &p, j, rules, now)
	}
	return j
}

// whole judges a packet that has its ports.
func (f *Filter) whole(d Direction, peer *Peer, p *Packet, now time.Duration) Judgement {
	k, flipped := p.key(d)
	s, hash := f.shard(&k)
	defer s.mu.Unlock()
	if !p.single {
		if e := s.live(hash, &k, now); e != nil && !e.beginsAnew(p, flipped) {
			s.carry(e, peer, p, flipped, now)
			return Judgement{Pass, e.grant, e}
		} else if e != nil {
			s.end(e, Closed, now)
		}
	}
	grant, ok := f.rules.Load().allow(p.Src, p.Dst, p.Proto, p.DstPort)
	if !ok {
		return Judgement{Verdict: Denied}
	}
	if p.single || p.echo == echoReply { // no question, so no answer may follow
		return Judgement{Pass, grant, nil}
	}
	e := &Flow{key: k, flipped: flipped, in: d == In, grant: grant, began: now, used: now, told: never}
	e.class = e.track(p, false, now)
	s.add(hash, e, peer, now)
	return Judgement{Pass, grant, e}
}

// related passes an ICMP error only about a packet that may have been sent: one of a known flow, or between addresses that keep none. It goes
// back to that packet's sender, and comes from the peer on the flow's way, whichever of the addresses behind it reports; or else from a router
// to which the sender may send anything.
func (f *Filter) related(d Direction, peer *Peer, p *Packet, now time.Duration) Judgement {
	q, err := quoted(p.payload)
	if err != nil {
		return Judgement{Verdict: Malformed}
	}
	if q.Src != p.Dst || q.Later || p.Fragment { // errors are short: they never come in fragments
		return Judgement{Verdict: Unrelated}
	}
	k, _ := q.key(d.other())
	s, hash := f.shard(&k)
	defer s.mu.Unlock()
	e := s.live(hash, &k, now)
	if e != nil && e.account.peer == peer {
		return Judgement{Pass, e.grant, e}
	}
	rules := f.rules.Load()
	from, to := rules.of(q.Src), rules.of(q.Dst)
	if _, ok := anything(from, rules.of(p.Src)); q.Dst != p.Src && !ok {
		return Judgement{Verdict: Unrelated}
	}
	if e != nil {
		return Judgement{Pass, e.grant, e}
	}
	if _, ok := open(from, to); ok {
		grant, _ := rules.allow(q.Src, q.Dst, q.Proto, q.DstPort)
		return Judgement{Pass, grant, nil}
	}
	return Judgement{Verdict: Unrelated}
}

// refuse remembers that a flow was refused, whatever port it came from.
func (f *Filter) refuse(d Direction, peer *Peer, p *Packet, size int, now time.Duration) {
	if !f.records {
		return
	}
	k, srcPort := p.refusedKey(d)
	s, hash := f.shard(&k)
	defer s.mu.Unlock()
	e := s.live(hash, &k, now)
	if e == nil {
		e = &Flow{key: k, class: refused, in: d == In, srcPort: srcPort, began: now, used: now, told: never}
		s.add(hash, e, peer, now)
	} else {
		s.touch(e, peer, refused, now)
	}
	e.expires = now + idleRefused
	e.Add(d, 1, size)
}

// firstFragment remembers one that passed, for those that follow. One that did not takes away what had its name before. The packet was
// judged by rules, or by newer ones.
func (f *Filter) firstFragment(d Direction, peer *Peer, p *Packet, j Judgement, rules *Rules, now time.Duration) {
	k := p.fragmentKey(d)
	s, hash := f.shard(&k)
	defer s.mu.Unlock()
	if e := s.entries.find(hash, &k); e != nil {
		s.end(e, Closed, now)
	}
	if j.Verdict != Pass {
		return
	}
	e := &Flow{key: k, class: fragment, whole: j.Flow, head: p.reach, grant: j.Grant, used: now, expires: now + idleFragment}
	if e.whole == nil {
		e.whole = new(Flow)
		e.whole.key, e.whole.flipped = p.key(d)
	}
	if current := f.rules.Load(); current == rules || current.renew(e) {
		s.add(hash, e, peer, now)
	}
}

// laterFragment passes with the first one's flow, unless it would write over what that one was judged by (RFC 1858, RFC 5722).
func (f *Filter) laterFragment(d Direction, p *Packet, now time.Duration) Judgement {
	k := p.fragmentKey(d)
	s, hash := f.shard(&k)
	defer s.mu.Unlock()
	e := s.live(hash, &k, now)
	switch {
	case e == nil:
		return Judgement{Verdict: Unrelated}
	case p.reach < e.head:
		return Judgement{Verdict: Malformed}
	}
	return Judgement{Pass, e.grant, e.whole}
}
