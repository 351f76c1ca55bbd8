package path

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	pb "warren/proto/warrenv1"
)

type hostAddr = netip.Addr

// pair is one local address and one remote, and what checks of it have shown.
type pair struct {
	Pair
	rank      int  // order of checks, lower first
	reflexive bool // only a request of the peer told of it
	worked    bool // answered at some time
	heardAt   time.Time

	tries, limit int       // in this round
	nextTry      time.Time // zero: none
	lastSent     time.Time

	rtt        time.Duration // smoothed
	recent     [recentMax]time.Duration
	answers    int // in a row
	lastAnswer time.Time
	after      time.Time   // answers to checks before do not count
	missed     []time.Time // checks since the last answer, while current
	long       long

	sent, answered int // checks since the pair exists
}

// reset forgets everything but that the pair exists and how often it was tried.
func (p *pair) reset() {
	*p = pair{
		Pair: p.Pair, rank: p.rank, reflexive: p.reflexive, worked: p.worked, heardAt: p.heardAt, lastSent: p.lastSent, after: p.after,
		sent: p.sent, answered: p.answered,
	}
}

// timeout is after how long a check counts as unanswered.
func (p *pair) timeout() time.Duration {
	return max(min(2*p.rtt+timeoutSpare, timeoutMax), timeoutMin)
}

// expired is how many checks since the last answer have gone unanswered.
func (p *pair) expired(now time.Time) (n int) {
	for _, at := range p.missed {
		if now.Sub(at) >= p.timeout() {
			n++
		}
	}
	return n
}

// bonus is by how much a pair may be slower and still be preferred.
func (p *pair) bonus() time.Duration {
	switch a := p.Remote.Addr(); {
	case a.IsPrivate():
		return bonusPrivate
	case a.Is6():
		return bonusIPv6
	}
	return 0
}

// measured takes a round trip in.
func (p *pair) measured(rtt time.Duration, first bool) {
	if first {
		p.answers, p.rtt, p.recent = 0, rtt, [recentMax]time.Duration{}
	} else {
		p.rtt += (rtt - p.rtt) / 4
	}
	p.recent[p.answers%recentMax] = rtt
	p.answers++
}

// least is the shortest of the last round trips. A busy host only ever makes them longer, so it tells more of the path than their mean does: of
// two uplinks that are alike, a moment's load must not make one seem better.
func (p *pair) least() time.Duration {
	least := p.rtt
	for _, rtt := range p.recent {
		if rtt > 0 {
			least = min(least, rtt)
		}
	}
	return least
}

// cost compares pairs that work: lower is better.
func (p *pair) cost() time.Duration { return p.least() - p.bonus() }

// betterThan has hysteresis: between two that are alike nothing changes. One of a kind that is preferred need not be faster, however long both
// take.
func (p *pair) betterThan(o *pair) bool {
	gain := gainMin
	if p.bonus() == o.bonus() {
		gain = gainAlike
	}
	if p.bonus() <= o.bonus() {
		gain = max(gain, o.least()/gainPart)
	}
	return o.cost()-p.cost() >= gain
}

// rebuild makes the pairs fit the candidates of both sides. Pairs that stay keep what is known of them; new ones are checked at once.
func (s *session) rebuild() {
	want := map[Pair]int{}
	for _, r := range s.remote {
		for _, l := range s.localsFor(r.Addr.Addr()) {
			want[Pair{Local: l, Remote: r.Addr}] = rank(l, r.Addr.Addr(), r.Kind)
		}
	}
	if _, ok := want[s.lastGood]; ok {
		want[s.lastGood] = 0
	}
	kept := s.pairs[:0:0]
	for _, p := range s.pairs {
		r, ok := want[p.Pair]
		if ok {
			p.rank, p.reflexive = r, false
			delete(want, p.Pair)
		}
		if ok || p.reflexive || p == s.current {
			kept = append(kept, p)
		}
	}
	for w, r := range want {
		kept = append(kept, &pair{Pair: w, rank: r})
	}
	slices.SortFunc(kept, func(a, b *pair) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), a.Remote.Compare(b.Remote), a.Local.Compare(b.Local))
	})
	s.pairs = s.bounded(kept)
	for _, p := range s.pairs {
		if _, fresh := want[p.Pair]; fresh && s.awake {
			p.nextTry, p.limit = s.c.now, s.tries(triesFull)
		}
	}
}

// bounded drops the pairs of the highest rank; never the current one.
func (s *session) bounded(pairs []*pair) []*pair {
	for i := len(pairs) - 1; i >= 0 && len(pairs) > pairsMax+reflexiveMax; i-- {
		if pairs[i] != s.current && !pairs[i].reflexive {
			pairs = slices.Delete(pairs, i, i+1)
		}
	}
	return pairs
}

// localsFor gives the addresses to check a remote address from.
func (s *session) localsFor(remote netip.Addr) (out []netip.Addr) {
	if len(s.c.hosts) == 0 {
		return []netip.Addr{{}} // not known yet: the kernel's choice
	}
	for _, h := range s.c.hosts {
		if h.Is4() == remote.Is4() && s.c.Reaches(h, remote) {
			out = append(out, h)
		}
	}
	return out
}

// Reaches reports whether what is sent from a local address to a remote one leaves by the link of that address, as far as is known: a confined link leads
// to its own prefixes, and others do not lead there unless they are in the same network. One packet that leaves by another link
// spoils more than itself. A NAT there gives the port of the tunnel's socket to a source that does not exist for it, and our own gets another.
func (c *Core) Reaches(local, remote netip.Addr) bool {
	prefixes, confined := c.confined[local]
	if confined {
		return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(remote) })
	}
	for _, prefixes := range c.confined {
		if slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(remote) && !p.Contains(local) }) {
			return !local.IsValid()
		}
	}
	return true
}

// rank orders checks by how likely and how good a pair is. 0 is the last that worked.
func rank(local, remote netip.Addr, kind pb.CandidateKind) int {
	switch {
	case remote.IsPrivate() && near(local, remote):
		return 1
	case remote.Is6() && !remote.IsPrivate():
		return 2
	case !remote.IsPrivate() && kind != pb.CandidateKind_CANDIDATE_KIND_HOST:
		return 3
	case !remote.IsPrivate():
		return 4
	case local.IsValid() && local.IsPrivate():
		return 5
	}
	return 6
}

// near guesses whether two addresses are on one network.
func near(a, b netip.Addr) bool {
	if !a.IsValid() || a.Is4() != b.Is4() {
		return false
	}
	bits := 24
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	return err == nil && p.Contains(b)
}

// find gives the pair; nil if there is none. Without a local address, which not every system tells, any of that remote address will do.
func (s *session) find(at Pair) *pair {
	for _, p := range s.pairs {
		if p.Pair == at || (!at.Local.IsValid() && p.Remote == at.Remote && p.Socket == at.Socket) {
			return p
		}
	}
	return nil
}

// learn adds a peer-reflexive pair (RFC 8445 section 7.3.1.3). If there is no room, the one that was heard of longest ago and does not work
// goes. Nil means that all work.
func (s *session) learn(at Pair) *pair {
	count, oldest := 0, -1
	for i, p := range s.pairs {
		if !p.reflexive {
			continue
		}
		count++
		if p != s.current && !s.within(p.lastAnswer, trustFor) && (oldest < 0 || p.heardAt.Before(s.pairs[oldest].heardAt)) {
			oldest = i
		}
	}
	if count >= reflexiveMax {
		if oldest < 0 {
			return nil
		}
		s.pairs = slices.Delete(s.pairs, oldest, oldest+1)
	}
	p := &pair{Pair: at, reflexive: true, rank: rank(at.Local, at.Remote.Addr(), pb.CandidateKind_CANDIDATE_KIND_UNSPECIFIED)}
	s.pairs = append(s.pairs, p)
	return p
}
