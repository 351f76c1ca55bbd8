package filter

import (
	"net/netip"
	"sync"
	"time"
)

const (
	shards = 32
	// maxFlows bounds the flows of a shard, maxFragments the packets whose fragments are under way.
	maxFlows     = 2048
	maxFragments = 256
	// Idle flows are forgotten, after the times that RFC 4787, 5382 and 5508 ask of NATs for the same purpose.
	idleTCP      = 2*time.Hour + 4*time.Minute
	idleTCPBrief = 4 * time.Minute // being opened or closed
	idleUDP      = 5 * time.Minute
	idleOther    = time.Minute
	idleFragment = 30 * time.Second
	// sample is how many entries are looked at for one that may go.
	sample = 8
)

type shard struct {
	mu        sync.Mutex // guards the maps; the callers of all methods hold it
	flows     map[flowKey]*flowState
	fragments map[fragmentKey]fragmentState
}

// flowKey names a flow in the direction of its first packet.
type flowKey struct {
	src, dst         netip.Addr
	srcPort, dstPort uint16
	proto            uint8
	echo             echo
}

func (k flowKey) reverse() flowKey {
	return flowKey{k.dst, k.src, k.dstPort, k.srcPort, k.proto, k.echo.reverse()}
}

// flow is that of a packet, seen in the packet's direction.
func (p *Packet) flow() flowKey {
	return flowKey{p.Src, p.Dst, p.SrcPort, p.DstPort, p.Proto, p.echo}
}

type flowState struct {
	expires    time.Duration
	generation uint64
	tcp        uint8 // what has been seen of a connection
}

const (
	seenAnswer     = 1 << iota
	seenEnd        // FIN from the side that began
	seenAnswersEnd // FIN from the other
	seenReset
)

type fragmentKey struct {
	src, dst netip.Addr
	id       uint32
	proto    uint8 // IPv4 only: IPv6 takes it from the first fragment (RFC 8200 section 4.5)
}

func (p *Packet) fragment() fragmentKey {
	k := fragmentKey{p.Src, p.Dst, p.FragmentID, p.Proto}
	if p.Src.Is6() {
		k.proto = 0
	}
	return k
}

type fragmentState struct {
	verdict    Verdict
	flow       flowKey
	expires    time.Duration
	generation uint64
}

// whole judges a packet that has its ports.
func (s *shard) whole(rules *generation, p *Packet, now time.Duration) Verdict {
	k := p.flow()
	if !p.single {
		if st := s.live(k, rules, now); st != nil {
			st.refresh(p, false, now)
			return Pass
		}
		if st := s.live(k.reverse(), rules, now); st != nil {
			st.refresh(p, true, now)
			return Pass
		}
	}
	if !rules.allow(k) {
		return Denied
	}
	if p.single || p.echo == echoReply { // no question, so no answer may follow
		return Pass
	}
	st := &flowState{generation: rules.number}
	st.refresh(p, false, now)
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
		if !rules.allow(k) {
			delete(s.flows, k)
			return nil
		}
		st.generation = rules.number
	}
	return st
}

// refresh sets when the flow is forgotten if nothing more comes. answer says that p goes against the flow's direction.
func (st *flowState) refresh(p *Packet, answer bool, now time.Duration) {
	idle := idleOther
	switch p.Proto {
	case protoTCP:
		idle = st.track(p.tcpFlags, answer)
	case protoUDP, protoSCTP:
		idle = idleUDP
	}
	st.expires = now + idle
}

// track follows a TCP connection. One that is not answered yet, or that both sides have ended, is forgotten sooner.
func (st *flowState) track(flags uint8, answer bool) time.Duration {
	if flags&tcpSYN != 0 && !answer {
		st.tcp = 0 // the ports are used again
	}
	end := uint8(seenEnd)
	if answer {
		st.tcp |= seenAnswer
		end = seenAnswersEnd
	}
	if flags&tcpFIN != 0 {
		st.tcp |= end
	}
	if flags&tcpRST != 0 {
		st.tcp |= seenReset
	}
	const both = seenEnd | seenAnswersEnd
	if st.tcp&seenAnswer == 0 || st.tcp&seenReset != 0 || st.tcp&both == both {
		return idleTCPBrief
	}
	return idleTCP
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

// firstFragment remembers what became of it, for those that follow.
func (s *shard) firstFragment(rules *generation, p *Packet, v Verdict, now time.Duration) {
	if len(s.fragments) >= maxFragments {
		for k, st := range s.fragments {
			if now >= st.expires || len(s.fragments) >= maxFragments {
				delete(s.fragments, k)
			}
		}
	}
	s.fragments[p.fragment()] = fragmentState{v, p.flow(), now + idleFragment, rules.number}
}

// laterFragment gives the verdict of the first one, unless the rules have changed and no longer allow it.
func (s *shard) laterFragment(rules *generation, p *Packet, now time.Duration) Verdict {
	st, ok := s.fragments[p.fragment()]
	if !ok || now >= st.expires {
		return Unrelated
	}
	if k := st.flow; st.verdict == Pass && st.generation != rules.number &&
		s.live(k, rules, now) == nil && s.live(k.reverse(), rules, now) == nil &&
		!rules.allow(k) {
		return Denied
	}
	return st.verdict
}
