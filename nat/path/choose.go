package path

import (
	"fmt"
	"time"
)

// consider decides whether p, which has just answered, is to carry the traffic.
func (s *session) consider(p *pair) {
	switch c := s.current; {
	case c == nil:
		s.promote(p, Found, "")
	case !p.betterThan(c):
	case p.answers < 2: // one quick answer may be luck
		s.confirm(p)
	case c.answers < recentMax && len(c.missed) < recentMax: // ... and one slow answer of the other, amid the fault that put it there, bad luck
		s.send(c)
		s.confirm(p)
	case p.answers < recentMax && len(c.missed) < recentMax && p.bonus() == c.bonus(): // of two that are alike, both are measured as often in the same time
		s.send(c)
		s.confirm(p)
	default:
		s.promote(p, Better, fmt.Sprintf("better than %s, which takes %s", c.Remote, c.least()))
	}
}

// confirm has another look at p shortly.
func (s *session) confirm(p *pair) { p.tries, p.limit, p.nextTry = 0, 1, s.c.now.Add(confirmAfter) }

func (s *session) promote(p *pair, cause Cause, reason string) {
	s.current, s.since, s.doubt = p, s.c.now, false
	s.waiting = time.Time{}
	s.lastGood = p.Pair
	s.retryIn = retryFirst
	s.spreadConsent()
	for _, o := range s.pairs { // what is still to be sent of this round need not be pressed
		if o != p && o.limit > triesLight {
			o.limit = triesLight
			if o.tries >= o.limit {
				o.nextTry = time.Time{}
			}
		}
	}
	s.plan()
	s.announce(cause, reason)
	if p.long.mtu < s.c.mtu && p.long.limit == 0 {
		s.sendCheck(p, s.c.mtu)
	}
}

// demote gives the direct path up and looks for one at once.
func (s *session) demote(cause Cause, reason string) {
	p := s.current
	s.current, s.doubt = nil, false
	s.waiting = time.Time{}
	p.reset()
	p.after = s.c.now
	if cause != PeerLost {
		s.lostAt, s.lostTold = s.c.now, false
	}
	s.announce(cause, reason)
	if !s.awake {
		return
	}
	s.retryIn = retryFirst
	s.startRound(triesFull)
	if s.used() && cause != PeerLost { // else the answer to the peer's call is on its way
		s.call(true)
	}
}

// yield gives the direct path up because the peer has given up its own, unless a check was answered a moment ago: for another that was, which
// mostly is the one that the peer has found meanwhile, or else for the relay.
func (s *session) yield() {
	if s.current == nil || s.within(s.current.lastAnswer, freshFor) || s.within(s.yieldedAt, yieldEvery) {
		return
	}
	o := s.alternative(s.c.now.Add(-freshFor))
	if o == nil && !s.relayed() {
		return
	}
	s.yieldedAt = s.c.now
	if o != nil {
		s.replace(o)
	} else {
		s.demote(PeerLost, "")
	}
}

// failing reports whether the current pair is to be left for another that answers: at once if there was reason to doubt it, and else only when one
// check more than chance may take was lost.
func (s *session) failing() bool {
	if s.current == nil {
		return false
	}
	expired := s.current.expired(s.c.now)
	return s.doubt && expired > 0 || s.distress() && expired > 1
}

// alternative is the best pair besides the current one that has answered after a time; nil if there is none.
func (s *session) alternative(after time.Time) (best *pair) {
	for _, p := range s.pairs {
		if p != s.current && p.lastAnswer.After(after) && (best == nil || p.cost() < best.cost()) {
			best = p
		}
	}
	return best
}

// replace takes a pair that answers in place of the current one, which does not.
func (s *session) replace(p *pair) {
	s.promote(p, Replaced, fmt.Sprintf("%s does not answer and this does", s.current.Remote))
}

func (s *session) spreadConsent() {
	s.consent = consentEvery + time.Duration(s.c.cfg.Rand.Int64N(int64(consentSpread)))
}

// supervise checks the direct path in use, gives it up if it must be, and says when it wants to look again.
func (s *session) supervise() time.Time {
	p := s.current
	if p == nil {
		return time.Time{}
	}
	now := s.c.now
	expired := p.expired(now)
	urgent := s.doubt || s.distress()
	if urgent && s.gone && s.c.relayUp && !s.calling && s.used() {
		s.call(false) // it may be back at the relay
	}
	if urgent && expired > 0 {
		if o := s.alternative(p.missed[0]); o != nil && s.failing() {
			s.replace(o)
			return s.supervise()
		}
		if s.soughtAt.Before(p.missed[0]) { // others may do, before the relay has to
			s.soughtAt = now
			s.startRound(triesLight)
		}
	}
	if s.relayed() && (urgent && expired >= quickLost || s.doubt && expired >= doubtLost) {
		s.demote(Unanswered, fmt.Sprintf("nothing comes back and %d checks went unanswered", expired))
		return time.Time{}
	}
	if lost := p.lastAnswer.Add(trustFor); !lost.After(now) {
		s.demote(ConsentLost, "no check was answered for "+trustFor.String())
		return time.Time{}
	}
	long := s.superviseLong(p)
	interval := s.checkInterval(urgent, expired)
	due := p.lastSent.Add(interval)
	if !due.After(now) {
		s.send(p)
		s.spreadConsent()
		due = now.Add(s.checkInterval(urgent, expired))
	}
	due = earlier(earlier(due, long), p.lastAnswer.Add(trustFor))
	if !s.waiting.IsZero() && !urgent {
		due = earlier(due, s.waiting.Add(distressAfter))
	}
	for _, at := range p.missed { // when one more has gone unanswered, the state may change
		if e := at.Add(p.timeout()); e.After(now) {
			due = earlier(due, e)
			break
		}
	}
	return due
}

func (s *session) checkInterval(urgent bool, expired int) time.Duration {
	switch {
	case urgent && (s.relayed() || len(s.current.missed) < quickMax):
		return quickEvery
	case urgent:
		return slowEvery
	case expired > 0 && expired <= shortAfterLong, s.current.long.missed > 0, s.current.long.unsure && expired == 0:
		return quickEvery // is it the path, or only its long packets?
	case expired > 0:
		return suspectEvery
	}
	return s.consent
}
