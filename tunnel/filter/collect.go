package filter

import (
	"net/netip"
	"time"
)

// Times of Collect.
const (
	// retell is how often a flow that goes on being refused is told of.
	retell = time.Minute
	// settle is how long the last packets of a connection that has ended may take.
	settle = time.Second
)

// Kind is what a Record tells.
type Kind uint8

// The kinds of records.
const (
	Live Kind = iota
	Began
	Ended
	Refused
)

// String is for people and records.
func (k Kind) String() string { return [...]string{"live", "began", "ended", "refused"}[k] }

// Reason is why a flow ended.
type Reason uint8

// The reasons; a flow that lives has none.
const (
	_         Reason = iota
	Idle             // nothing came for so long that it is taken for over
	Closed           // TCP: both sides have ended it, or one has reset it
	Evicted          // the table was full, and its peer had the most flows in it
	Forbidden        // new rules do not allow it
	Left             // its peer has left the map
)

// String is for people and records.
func (r Reason) String() string {
	return [...]string{"", "idle", "closed", "evicted", "policy", "peer left"}[r]
}

// Traffic counts packets and the bytes in them, with IP headers.
type Traffic struct{ Packets, Bytes uint64 }

// Record tells of one flow.
type Record struct {
	Kind Kind
	Peer *Peer
	// Direction is that of the first packet: In if the peer began.
	Direction Direction
	Proto     uint8
	// Src and Dst are those of the first packet. The ports of an ICMP echo are its identifier, and 0 if it is refused.
	Src, Dst netip.AddrPort
	// Grant is the id of the one that allows it; empty for what is refused.
	Grant  string
	Reason Reason
	// Age is how long ago it began, Idle how long ago its last packet came.
	Age, Idle time.Duration
	// Traffic is by Direction. Of a refused flow it is what came since it was last told.
	Traffic [2]Traffic
}

// Omitted is what there was too much of to be told flow by flow.
type Omitted struct {
	Ended, Refused uint64 // flows
	Traffic        [2]Traffic
}

func (o *Omitted) add(other *Omitted) {
	o.Ended += other.Ended
	o.Refused += other.Refused
	for d := range o.Traffic {
		o.Traffic[d].Packets += other.Traffic[d].Packets
		o.Traffic[d].Bytes += other.Traffic[d].Bytes
	}
}

// ended is a flow that Collect has to tell of.
type ended struct {
	*Flow
	peer   *Peer
	reason Reason
}

// Collect forgets flows that have been idle and tells what happened since the last time. A flow that began and ended meanwhile has only its
// end. Times are told as of now. Its cost grows with the table; packets wait for a look at 64 buckets of it at most.
func (f *Filter) Collect(now time.Duration, tell func(*Record), omitted func(*Peer, Omitted)) {
	f.collecting.Lock()
	defer f.collecting.Unlock()
	sums := map[*Peer]*Omitted{}
	for i := range f.shards {
		for from, more := 0, true; more; from += portion {
			more = f.collectSome(&f.shards[i], from, now, sums)
			for j := range f.scratch {
				tell(&f.scratch[j])
			}
			clear(f.scratch)
		}
	}
	for p, o := range sums {
		omitted(p, *o)
	}
}

// collectSome leaves in scratch what there is to tell of a portion of a shard, and with the last one of what ended there.
func (f *Filter) collectSome(s *shard, from int, now time.Duration, sums map[*Peer]*Omitted) (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.scratch, more = s.collect(from, now, f.scratch[:0])
	if !more {
		f.scratch = s.takeEnded(now, f.scratch)
		s.sumUp(sums)
	}
	return more
}

func (s *shard) collect(from int, now time.Duration, out []Record) (_ []Record, more bool) {
	more = s.each(from, func(e *Flow) {
		if now >= e.expires {
			s.end(e, Idle, now)
		} else if kind, due := e.due(now); due && s.records {
			out = append(out, e.record(kind, e.account.peer, now))
		}
	})
	return out, more
}

// takeEnded adds what ended since the last time.
func (s *shard) takeEnded(now time.Duration, out []Record) []Record {
	for i, e := range s.ended {
		kind := Ended
		if e.class == refused {
			kind = Refused
		}
		r := e.record(kind, e.peer, now)
		if kind == Ended {
			r.Reason = e.reason
		}
		out = append(out, r)
		s.ended[i] = ended{}
	}
	s.ended = s.ended[:0]
	return out
}

// due reports whether there is something to tell of an entry that lives on.
func (e *Flow) due(now time.Duration) (kind Kind, due bool) {
	switch {
	case e.class == fragment:
		return 0, false
	case e.class == refused:
		return Refused, e.untold() && (e.told == never || now-e.told >= retell)
	case e.closed():
		return Ended, !e.over && now-e.used >= settle
	}
	return Began, e.told == never
}

// tell keeps the end of a flow for Collect.
func (s *shard) tell(e *Flow, peer *Peer, why Reason) {
	if !s.records || e.class == fragment || e.over || e.class == refused && !e.untold() {
		return
	}
	if len(s.ended) < maxEnded {
		s.ended = append(s.ended, ended{e, peer, why})
		return
	}
	o := s.omitted[peer]
	if o == nil {
		o = new(Omitted)
		s.omitted[peer] = o
	}
	one := Omitted{Ended: 1, Traffic: e.counts()}
	if e.class == refused {
		one.Ended, one.Refused = 0, 1
	}
	o.add(&one)
}

func (s *shard) sumUp(sums map[*Peer]*Omitted) {
	for p, o := range s.omitted {
		if sums[p] == nil {
			sums[p] = new(Omitted)
		}
		sums[p].add(o)
	}
	clear(s.omitted)
}

// untold reports whether a refused flow has sent anything since it was told of.
func (e *Flow) untold() bool { return e.traffic[In].packets.Load()+e.traffic[Out].packets.Load() > 0 }

func (e *Flow) counts() (out [2]Traffic) {
	for d := range e.traffic {
		out[d] = Traffic{e.traffic[d].packets.Load(), e.traffic[d].bytes.Load()}
	}
	return out
}

// record describes e, for Live or else as told now. A refused flow's counters begin anew.
func (e *Flow) record(kind Kind, peer *Peer, now time.Duration) Record {
	r := Record{
		Kind: kind, Peer: peer, Direction: Out, Proto: e.key[keyProto], Grant: e.grant,
		Age: now - e.began, Idle: now - e.used, Traffic: e.counts(),
	}
	if r.Src, r.Dst = e.ends(); e.in {
		r.Direction = In
	}
	switch kind {
	case Ended:
		e.over, r.Reason = true, Closed
	case Began:
		e.told = now
	case Refused:
		e.told = now
		r.Src = netip.AddrPortFrom(r.Src.Addr(), e.srcPort)
		for d := range e.traffic {
			e.traffic[d].packets.Store(0)
			e.traffic[d].bytes.Store(0)
		}
	}
	return r
}

// Flows visits the flows that pass at present, those of one peer or, if p is nil, all, until visit says that it has seen enough.
func (f *Filter) Flows(p *Peer, now time.Duration, visit func(*Record) (more bool)) {
	var list []Record
	for i := range f.shards {
		list = f.shards[i].flows(p, now, list[:0])
		for j := range list {
			if !visit(&list[j]) {
				return
			}
		}
	}
}

func (s *shard) flows(p *Peer, now time.Duration, out []Record) []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	accounts := s.heaviest
	if p != nil {
		accounts = nil
		if a := s.accounts[p]; a != nil {
			accounts = heaviest{a}
		}
	}
	for _, a := range accounts {
		for c := brief; c < classes; c++ {
			for e := a.lists[c].newest; e != nil; e = e.older {
				if now < e.expires && !e.closed() {
					out = append(out, e.record(Live, a.peer, now))
				}
			}
		}
	}
	return out
}

// Stats is what the table holds.
type Stats struct {
	Flows, Fragments, Refused int
	// Evicted counts what had to make room for something newer of the same peer, or of one that had less.
	Evicted uint64
}

// Stats gives the sizes now.
func (f *Filter) Stats() (out Stats) {
	for i := range f.shards {
		s := &f.shards[i]
		s.mu.Lock()
		out.Flows += s.counts[brief] + s.counts[lasting]
		out.Fragments += s.counts[fragment]
		out.Refused += s.counts[refused]
		out.Evicted += s.evicted
		s.mu.Unlock()
	}
	return out
}
