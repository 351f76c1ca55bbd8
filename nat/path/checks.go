package path

import (
	"time"

	"warren/nat/stunmsg"
)

// probe is a check that may still be answered.
type probe struct {
	session *session
	tx      stunmsg.TxID
	at      Pair
	sent    time.Time
	size    int // of the packet that it is as long as; 0: short
}

// tries: with a direct path in hand less is worth finding.
func (s *session) tries(n int) int {
	if s.current != nil {
		return min(n, triesLight)
	}
	return n
}

// startRound has every pair checked anew. Addresses that only requests told of are checked once they have answered before.
func (s *session) startRound(tries int) {
	now := s.c.now
	s.roundAt = now
	for _, p := range s.pairs {
		if p == s.current || (p.reflexive && !p.worked) {
			continue
		}
		p.tries, p.limit, p.nextTry = 0, s.tries(tries), now
	}
	s.plan()
}

// plan says when the next round is.
func (s *session) plan() {
	if s.current != nil {
		s.nextRound = s.c.now.Add(betterEvery)
	} else {
		s.nextRound = s.c.now.Add(s.retryIn)
	}
}

// retrySoon is for when something has changed: attempts are frequent again.
func (s *session) retrySoon() {
	s.retryIn = retryFirst
	s.plan()
}

// runRound starts a round if one is due. Only a side that has use for the peer tries again by itself.
func (s *session) runRound() time.Time {
	if s.current == nil && !s.used() {
		return time.Time{}
	}
	if s.nextRound.IsZero() {
		s.plan()
	}
	if !s.nextRound.After(s.c.now) {
		if s.current == nil {
			s.retryIn = min(2*s.retryIn, retryMax)
			s.call(false) // so that the other side begins at the same time
		}
		s.growLong()
		s.startRound(triesFull)
	}
	return s.nextRound
}

// runProbes sends the checks that are due, as far as the pace allows.
func (s *session) runProbes() time.Time {
	now := s.c.now
	for {
		p := s.nextProbe()
		if p == nil {
			return time.Time{}
		}
		at := later(p.nextTry, s.paceUntil)
		if at.After(now) {
			return at
		}
		if wait := max(s.budget.wait(now), s.c.budget.wait(now)); wait > 0 {
			s.paceUntil = now.Add(wait)
			return s.paceUntil
		}
		if !s.mute.allows(p.Remote.Addr(), now) {
			p.nextTry = time.Time{} // not in this round
			continue
		}
		s.budget.take()
		s.c.budget.take()
		s.paceUntil = now.Add(pace)
		p.tries++
		p.nextTry = time.Time{}
		if p.tries < p.limit {
			p.nextTry = now.Add(retransmit[min(p.tries, triesFull)-1])
		}
		s.send(p)
	}
}

// nextProbe is the pair that is due first; of several the one of the lowest rank.
func (s *session) nextProbe() (first *pair) {
	for _, p := range s.pairs {
		if p == s.current || p.nextTry.IsZero() {
			continue
		}
		if first == nil || p.nextTry.Before(first.nextTry) {
			first = p
		}
	}
	return first
}

// send sends a check. On the path in use it counts until it is answered.
func (s *session) send(p *pair) {
	now, size := s.c.now, 0
	if p == s.current {
		size = s.wantsLong(p)
		if len(p.missed) == missedMax {
			p.missed = append(p.missed[:0], p.missed[1:]...)
		}
		p.missed = append(p.missed, now)
	}
	p.lastSent = now
	s.sendCheck(p, size)
}

// sendFrom sends a check of a pair that is none yet.
func (s *session) sendFrom(at Pair) { s.sendCheck(&pair{Pair: at}, 0) }

// sendCheck sends a check that is as long as a packet of size bytes is inside the tunnel, or short.
func (s *session) sendCheck(p *pair, size int) {
	now := s.c.now
	s.forgetProbes(now)
	pr := &probe{session: s, tx: s.c.cfg.NewTx(), at: p.Pair, sent: now, size: size}
	s.probes = append(s.probes, pr)
	p.sent++
	s.c.probes[pr.tx] = pr
	out := SendCheck{Peer: s.id, Pair: p.Pair, Tx: pr.tx}
	if size > 0 {
		p.noteLong(now, size)
		out.Size = size + overhead
	}
	s.c.emit(out)
}

// forgetProbes drops those that nobody will answer any more, and the oldest of too many.
func (s *session) forgetProbes(now time.Time) {
	n := 0
	for n < len(s.probes) && (now.Sub(s.probes[n].sent) >= lateAfter || len(s.probes)-n >= probesMax) {
		delete(s.c.probes, s.probes[n].tx)
		n++
	}
	s.probes = append(s.probes[:0], s.probes[n:]...)
}

// requested takes a check of the peer: it earns a check in return (RFC 8445 section 7.3.1.4), if that could tell something new.
func (s *session) requested(at Pair) {
	if !s.c.Reaches(at.Local, at.Remote.Addr()) {
		return
	}
	now := s.c.now
	p := s.find(at)
	known := p != nil && !p.reflexive
	if known && s.within(p.lastAnswer, freshFor) || p != nil && s.within(p.lastSent, triggeredPace) {
		return
	}
	if p == s.current && p != nil {
		s.send(p)
		return
	}
	if s.current != nil && !s.within(s.current.lastAnswer, freshFor) {
		s.doubt = true // the peer's NAT may have mapped it anew: what goes to the old address would be lost while its own packets arrive
	}
	from := &s.budget
	if !known {
		from = &s.reflex
	}
	if from.wait(now) > 0 || s.c.budget.wait(now) > 0 || !s.mute.allows(at.Remote.Addr(), now) {
		return
	}
	if p == nil {
		if p = s.learn(at); p == nil {
			return
		}
	}
	from.take()
	s.c.budget.take()
	p.heardAt = now
	s.send(p)
}

// answeredAt reports whether an answer may arrive at that pair: where the check left, from where it went (RFC 8445 section 7.2.5.2.1).
func (pr *probe) answeredAt(at Pair) bool {
	local := !pr.at.Local.IsValid() || !at.Local.IsValid() || at.Local == pr.at.Local
	return at.Remote == pr.at.Remote && at.Socket == pr.at.Socket && local
}

// answered takes an answer to a check of ours. It must come the way that the check went (RFC 8445 section 7.2.5.2.1).
func (s *session) answered(pr *probe, at Pair) {
	now := s.c.now
	if !s.awake || !pr.answeredAt(at) {
		return
	}
	p := s.find(pr.at)
	if p == nil && s.current == nil && s.c.hunt != nil && s.c.hunt.s == s {
		p = s.learn(pr.at)
	}
	if p == nil || pr.sent.Before(p.after) {
		return
	}
	s.mute.heard(at.Remote.Addr())
	rtt := max(now.Sub(pr.sent), time.Microsecond)
	p.measured(rtt, p.answers == 0 || !s.within(p.lastAnswer, answersFresh))
	p.answered++
	p.lastAnswer, p.worked = now, true
	p.missed = p.missed[:0]
	p.nextTry = time.Time{}
	if pr.size > 0 {
		s.answeredLong(p, pr.size, pr.sent)
	}
	if p == s.current {
		s.doubt = false
		s.announce(0, "")
		return
	}
	if s.failing() {
		s.replace(p)
		return
	}
	s.consider(p)
}
