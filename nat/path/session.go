package path

import (
	"cmp"
	"slices"
	"time"

	"warren/nat/candidate"
)

// session is everything about one peer.
type session struct {
	c         *Core
	id        ID
	due       time.Time
	heapIndex int

	configured bool      // the tunnel has the peer
	awake      bool      // checks and signals are sent
	usedAt     time.Time // data last flowed, or the tunnel configured the peer
	calledAt   time.Time // the peer last called
	heardAt    time.Time // its last signal came
	gone       bool      // not at the relay
	lostAt     time.Time // this side gave its direct path up
	lostTold   bool      // ... and has told the peer, though it has another meanwhile
	yieldedAt  time.Time // ... because the peer had given up its own

	// Traffic as it was when last looked at. waiting is since when data that was sent has had nothing back; zero if it has.
	polledAt, sent, received, waiting time.Time

	remote    []candidate.Candidate
	pairs     []*pair // in order of rank
	current   *pair   // the direct path in use
	since     time.Time
	lastGood  Pair
	published Path
	cause     Cause // of published
	reason    string
	doubt     bool // the peer or the network gave reason to doubt current: it must answer soon
	consent   time.Duration

	roundAt, nextRound time.Time
	soughtAt           time.Time // others were tried since the current one ceased to answer
	retryIn            time.Duration
	paceUntil          time.Time
	budget, reflex     bucket
	mute               mute
	probes             []*probe // oldest first

	nat                  NAT // the peer's
	lackSince, huntAfter time.Time
	huntFailed, huntIdle int       // attempts in a row that were in vain, and that the other side did not follow
	wishes               int       // how often the peer was told of ours
	nextWish, wishedAt   time.Time // wishedAt: the peer's, which waits
	socket               uint16    // an extra one, of the path in use

	answerDue, calling             bool
	callTries                      int
	nextCall, lastSignal, onlyCall time.Time // onlyCall: when the call whose answer measures the relay was sent
	relayRTT                       time.Duration
}

// run does what is due now and says when it wants to be called again.
func (s *session) run() {
	c := s.c
	s.poll()
	if s.awake != s.wantsAwake() {
		if s.awake {
			s.sleep()
		} else {
			s.wake()
		}
	}
	s.settleSocket()
	if !s.awake {
		if s.configured {
			c.schedule(s, c.grid(pollAsleep))
		} else {
			c.end(s)
		}
		return
	}
	// In this order: supervision may start a round, which may call, and sends checks.
	due := s.supervise()
	due = earlier(due, s.runRound())
	due = earlier(due, s.runSignals())
	due = earlier(due, s.runProbes())
	due = earlier(due, s.runHunt())
	due = earlier(due, s.nextPoll())
	if soonest := c.now.Add(time.Millisecond); due.Before(soonest) {
		due = soonest
	}
	c.schedule(s, due)
}

// earlier is the earlier of two times; zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// within reports whether t was less than d ago; never, if it is zero.
func (s *session) within(t time.Time, d time.Duration) bool {
	return !t.IsZero() && s.c.now.Sub(t) < d
}

// used reports whether this side has a reason of its own to reach the peer. What only the peer's calls keep awake answers them but does
// not call: else two sides without data would keep each other awake.
func (s *session) used() bool { return s.configured && s.within(s.usedAt, idleAfter) }

// wantsAwake: a direct path that no relay could replace is kept even without traffic, while the tunnel has the peer.
func (s *session) wantsAwake() bool {
	return s.used() || s.within(s.calledAt, calledFor) || (s.configured && s.current != nil && !s.relayed())
}

// relayed reports whether the relay can carry the peer's traffic.
func (s *session) relayed() bool { return s.c.relayUp && !s.gone }

func (s *session) wake() {
	s.awake = true
	s.retryIn = retryFirst
	s.polledAt = s.c.now
	s.rebuild()
	s.startRound(triesFull)
	if s.used() {
		s.call(true)
	}
	s.announce(InUse, "")
}

func (s *session) sleep() {
	s.awake, s.calling, s.answerDue, s.doubt = false, false, false, false
	s.waiting, s.nextRound = time.Time{}, time.Time{}
	s.current = nil
	s.wishes, s.nextWish, s.wishedAt = 0, time.Time{}, time.Time{}
	if s.c.hunt != nil && s.c.hunt.s == s {
		s.c.endHunt(false)
	}
	s.relayRTT = 0
	s.forgetProbes(s.c.now.Add(lateAfter))
	for _, p := range s.pairs {
		p.reset()
	}
	s.announce(Idle, "")
}

// poll looks at the traffic.
func (s *session) poll() {
	t := s.c.cfg.Traffic(s.id)
	sent, received := t.Sent, t.Received
	if received.After(s.received) && s.gone {
		s.heard()
		s.announce(PeerHeard, "")
	}
	if s.gone && s.awake && sent.After(s.sent) {
		s.callGone()
	}
	if s.configured && !s.polledAt.IsZero() && (sent.After(s.sent) || received.After(s.received)) {
		s.usedAt = later(s.usedAt, later(sent, received))
	}
	s.sent, s.received = sent, received
	if s.current == nil {
		s.waiting = time.Time{}
	} else {
		// What a relay brought says nothing of the direct path.
		proof := later(t.Direct, later(s.current.lastAnswer, s.since))
		switch {
		case !sent.After(proof):
			s.waiting = time.Time{}
		case s.waiting.IsZero():
			s.waiting = later(proof, s.polledAt)
		case proof.After(s.waiting):
			s.waiting = proof
		}
	}
	s.polledAt = s.c.now
}

func (s *session) nextPoll() time.Time {
	if s.current == nil {
		return s.c.grid(pollRelayed)
	}
	return s.c.grid(pollDirect)
}

// distress: data went out and nothing came back.
func (s *session) distress() bool {
	return !s.waiting.IsZero() && s.c.now.Sub(s.waiting) >= distressAfter
}

// announce publishes the path if it is another than before. Without a reason its cause's name will do.
func (s *session) announce(cause Cause, reason string) {
	p := s.path()
	if p.Kind != s.published.Kind || p.Pair != s.published.Pair {
		p.Since = s.c.now
		s.published, s.cause, s.reason = p, cause, cmp.Or(reason, cause.String())
		s.c.emit(SetPath{s.id, p, cause, s.reason})
		return
	}
	if p.RTT != s.published.RTT {
		s.published.RTT = p.RTT
		s.c.emit(SetRTT{s.id, p.RTT})
	}
}

// announceAgain publishes the path even if it has not changed: the tunnel may have forgotten it.
func (s *session) announceAgain(cause Cause) {
	before := len(s.c.out)
	s.announce(cause, "")
	if len(s.c.out) == before && s.published.Kind != None {
		s.c.emit(SetPath{s.id, s.published, cause, cause.String()})
	}
}

func (s *session) path() Path {
	switch {
	case s.current != nil:
		return Path{Kind: Direct, Pair: s.current.Pair, RTT: s.current.rtt, MTU: s.mtu()}
	case s.relayed():
		return Path{Kind: Relay, RTT: s.relayRTT}
	}
	return Path{}
}

func (s *session) localChanged(oldHosts []hostAddr) {
	if p := s.current; p != nil && p.Local.IsValid() && slices.Contains(oldHosts, p.Local) && !slices.Contains(s.c.hosts, p.Local) {
		s.demote(LocalGone, "")
	}
	s.rebuild()
	if !s.awake {
		return
	}
	s.retrySoon()
	if s.used() {
		s.call(true)
	} else {
		s.answerDue = true
	}
}

func (s *session) relayChanged() {
	s.gone, s.relayRTT = false, 0
	if s.awake {
		s.nextCall = s.c.now
		if s.c.relayUp && s.used() && s.current == nil {
			s.call(true)
			s.retrySoon()
		}
	}
	if s.c.relayUp {
		s.announce(RelayUp, "")
	} else {
		s.announce(RelayDown, "")
	}
}

// networkChanged distrusts what was known. The path in use carries on for the third of a second in which it must answer: a change that did
// not concern it then costs nothing, and the relay has to reconnect as well.
func (s *session) networkChanged() {
	if !s.awake {
		s.lastGood = Pair{}
		return
	}
	for _, p := range s.pairs {
		if p != s.current {
			p.reset()
		}
	}
	s.rebuild()
	clear(s.mute)
	s.doubt = s.current != nil
	s.relayRTT = 0
	s.huntAfter, s.huntFailed, s.huntIdle, s.nextWish = time.Time{}, 0, 0, time.Time{} // another NAT, another try
	s.startRound(triesFull)
	s.retrySoon()
	if s.used() {
		s.call(true)
	}
}

// peerGone takes the relay's word, which comes for data as well as for calls.
func (s *session) peerGone() {
	s.gone = true
	s.callTries = max(s.callTries, goneTries)
	if s.calling && !s.lastSignal.IsZero() {
		s.nextCall = later(s.nextCall, s.lastSignal.Add(callBackoff(goneTries)))
	}
	s.onlyCall = time.Time{}
	s.announce(PeerLeft, "")
}
