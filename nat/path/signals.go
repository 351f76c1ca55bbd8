package path

import (
	"slices"
	"time"

	"warren/nat/candidate"
)

// call has the peer called until it answers. A fresh call begins with quick repetitions.
func (s *session) call(fresh bool) {
	if fresh || !s.calling {
		s.callTries = 0
		if s.gone {
			s.callTries = goneTries
		}
	}
	s.calling = true
	s.nextCall = s.c.now
}

// heard is for any sign of a peer at the relay. If it was not there, it is called at once.
func (s *session) heard() {
	if s.gone && s.calling {
		s.callTries, s.nextCall = 0, s.c.now
	}
	s.gone = false
}

// again repeats what the peer was last told.
func (s *session) again() {
	if s.calling {
		s.nextCall = s.c.now
	} else {
		s.answerDue = true
	}
}

// callGone has a peer that was not at the relay called again soon: there is data for it, or it sends checks.
func (s *session) callGone() {
	at := later(s.c.now, s.lastSignal.Add(goneRetry))
	if s.current != nil || s.calling && !s.nextCall.After(at) || s.c.goneBudget.wait(s.c.now) > 0 {
		return
	}
	s.c.goneBudget.take()
	if !s.calling {
		s.call(false)
	}
	s.nextCall = at
}

func callBackoff(tries int) time.Duration {
	if tries > 16 {
		return callMax
	}
	return min(callFirst<<max(tries-1, 0), callMax)
}

// runSignals sends a call or an answer if one is due, and says when the next is.
func (s *session) runSignals() time.Time {
	if !s.c.relayUp {
		return time.Time{}
	}
	now := s.c.now
	if s.calling && !s.used() {
		s.calling = false
	}
	isCall := s.calling && !s.nextCall.After(now)
	if s.answerDue || isCall {
		if at := s.lastSignal.Add(signalSpacing); !s.lastSignal.IsZero() && at.After(now) {
			return at
		}
		s.answerDue, s.lastSignal = false, now
		if isCall {
			s.callTries++
			s.nextCall = now.Add(callBackoff(s.callTries))
			s.onlyCall = now
			if s.callTries > 1 { // the answer may be to an earlier one (Karn's rule)
				s.onlyCall = time.Time{}
			}
		}
		s.emitSignal(isCall, s.step())
	}
	if s.calling {
		return s.nextCall
	}
	return time.Time{}
}

// emitSignal tells the peer what is known here. Who takes no part in trying ports tells nothing of its NAT.
func (s *session) emitSignal(call bool, step Step) {
	out := SendSignal{Peer: s.id, Candidates: s.c.local, Call: call, Step: step}
	// Once will do if there is another path by now: what the peer yields for it is the one that was lost.
	out.Lost = s.within(s.lostAt, lostFor) && !(s.current != nil && s.lostTold)
	s.lostTold = s.lostTold || out.Lost
	if s.c.cfg.BirthdayRate > 0 {
		out.NAT = s.c.nat
	}
	s.c.emit(out)
}

// signalled takes a signal of the peer.
func (s *session) signalled(e Signal) {
	now := s.c.now
	s.gone, s.heardAt = false, now
	remote := candidate.Sort(e.Candidates)
	remote = remote[:min(len(remote), candidate.Max)]
	changed := !slices.Equal(remote, s.remote)
	s.remote, s.nat = remote, e.NAT
	if s.calling && s.callTries > 0 {
		if !e.Call && !s.onlyCall.IsZero() {
			s.relayRTT = max(now.Sub(s.onlyCall), time.Microsecond)
		}
		s.calling, s.onlyCall = false, time.Time{}
	}
	if e.Lost {
		s.yield()
	}
	if e.Call {
		s.calledAt = now
		s.answerDue = true
		s.doubt = s.current != nil // it would not call if all were well
		if !s.configured {
			s.c.emit(Wanted{s.id})
		}
	}
	s.announce(PeerHeard, "")
	if !s.awake {
		return // a call wakes, and waking rebuilds
	}
	s.rebuild()
	if s.stepped(e.Step) {
		return
	}
	if changed {
		s.retrySoon()
	}
	if s.c.now.Sub(s.roundAt) >= refreshAfter {
		s.startRound(triesFull)
	}
}
