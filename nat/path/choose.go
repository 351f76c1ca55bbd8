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
		s.lostAt = s.c.now
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

// yield gives the direct path up because the peer has given up its own, unless a check was answered a moment ago.
func (s *session) yield() {
	if s.current == nil || !s.relayed() || s.within(s.current.lastAnswer, freshFor) || s.within(s.yieldedAt, yieldEvery) {
		return
	}
	s.yieldedAt = s.c.now
	s.demote(PeerLost, "")
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
