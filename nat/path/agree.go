package path

import (
	"bytes"
	"time"
)

// Two devices try ports (see birthday.go) once both are free for it: the hard side wishes for it, and the easy side agrees when it is the peer's
// turn. So nobody opens sockets for a peer that is busy, and many devices behind hard NATs get through to one, one after the other.

// Step is what a signal says of that.
type Step uint8

// The steps, in their order. Wish and Ready are the hard side's.
const (
	StepNone   Step = iota
	StepWish        // the sender would open its sockets
	StepAgreed      // the sender waits for the peer's sockets
	StepReady       // the sender's sockets wait for checks of random ports
	StepTrying      // the sender sends such
)

// String is for logs.
func (s Step) String() string {
	return [...]string{"none", "wish", "agreed", "ready", "trying"}[min(s, StepTrying)]
}

const (
	wishFirst   = 500 * time.Millisecond // until a wish is repeated; doubles
	wishMax     = 30 * time.Second
	wishCounts  = 40 * time.Second
	agreedFor   = 3 * time.Second // until the sockets must be open
	readyEvery  = 400 * time.Millisecond
	readyTries  = 4
	readyAnswer = 2500 * time.Millisecond // from when the sockets are open until the peer must have told that it tries
	huntIdle    = 10 * time.Second        // after the other side did not follow; doubles, up to huntRetry
)

// Peers that are not reached directly hear of another kind of NAT at once: what they do rests on it.
func (e SetMapping) apply(c *Core) {
	old := c.nat
	c.nat = e.NAT
	if old.Mapping == e.Mapping && old.External.Addr() == e.External.Addr() {
		return
	}
	c.each(func(s *session) {
		if s.awake && s.current == nil {
			s.answerDue = true
		}
	})
}

// step is what signals say as things are.
func (s *session) step() Step {
	switch h := s.c.hunt; {
	case h == nil || h.s != s || h.hard:
		return StepNone
	case h.begun:
		return StepTrying
	}
	return StepAgreed
}

// stepped takes the peer's word. It reports whether that is what the signal was for.
func (s *session) stepped(step Step) bool {
	switch step {
	case StepWish:
		s.wished()
		return true
	case StepAgreed:
		s.agreed()
	case StepReady:
		s.ready()
		return true
	case StepTrying:
		s.begun()
	}
	return false
}

// huntDue says when this side, as the hard one, should begin; zero: not as things are.
func (s *session) huntDue() time.Time {
	c := s.c
	if c.hunt != nil || c.cfg.BirthdayRate <= 0 || !c.nat.Mapping.hard() || s.nat.Mapping != MappingIndependent || s.lackSince.IsZero() ||
		!s.relayed() || !s.within(later(s.sent, s.received), huntTraffic) || !s.reflexive4().IsValid() {
		return time.Time{}
	}
	return later(s.lackSince.Add(huntPatience), s.huntAfter)
}

// runWish tells the peer of the wish to begin, and says when it wants to be called again.
func (s *session) runWish() time.Time {
	if s.current != nil {
		s.wishes, s.nextWish = 0, time.Time{}
	}
	now := s.c.now
	due := s.huntDue()
	if due.IsZero() || due.After(now) {
		return due
	}
	if !s.nextWish.After(now) {
		s.wishes++
		s.nextWish = now.Add(min(wishFirst<<min(s.wishes-1, 16), wishMax))
		s.emitSignal(false, StepWish)
	}
	return s.nextWish
}

// agreed begins on the hard side.
func (s *session) agreed() {
	c := s.c
	s.poll() // or traffic may seem to have ceased
	if due := s.huntDue(); s.wishes == 0 || due.IsZero() || due.After(c.now) {
		return
	}
	s.wishes, s.nextWish = 0, time.Time{}
	c.hunt = &hunt{s: s, hard: true, target: s.reflexive4(), end: c.now.Add(agreedFor)}
	c.emit(OpenSockets{Peer: s.id, Count: huntSockets})
}

// mayTry reports whether this side, as the easy one, would try the peer's ports.
func (s *session) mayTry() bool {
	c := s.c
	return c.cfg.BirthdayRate > 0 && s.awake && s.current == nil && c.nat.Mapping == MappingIndependent && s.nat.Mapping.hard() &&
		!c.now.Before(s.huntAfter) && s.reflexive4().IsValid()
}

// wished takes the hard side's wish.
func (s *session) wished() {
	switch c := s.c; {
	case s.step() != StepNone:
		s.answerDue = true // it has not heard of it yet
	case !s.mayTry():
	case c.hunt != nil:
		s.wishedAt = c.now
	default:
		s.agree()
	}
}

func (s *session) agree() {
	c := s.c
	c.hunt = &hunt{s: s, target: s.reflexive4(), end: c.now.Add(agreedFor)}
	s.answerDue, s.wishedAt = true, time.Time{}
	c.touch(s)
}

// agreeNext agrees with the peer that has waited longest.
func (c *Core) agreeNext() {
	var next *session
	for _, s := range c.sessions {
		if !s.within(s.wishedAt, wishCounts) || !s.mayTry() {
			continue
		}
		if next == nil || s.wishedAt.Before(next.wishedAt) || s.wishedAt.Equal(next.wishedAt) && bytes.Compare(s.id[:], next.id[:]) < 0 {
			next = s
		}
	}
	if next != nil {
		next.agree()
	}
}

// ready takes the peer's word that its sockets are open. Whoever lies gets no more than huntProbes small datagrams sent to an address of its
// choice, once in huntRetry.
func (s *session) ready() {
	c := s.c
	if c.hunt == nil && s.mayTry() { // what was agreed took too long
		s.agree()
	}
	h := c.hunt
	if h == nil || h.s != s || h.hard {
		return
	}
	s.answerDue = true
	if !h.begun {
		h.begun, h.target, h.tried = true, s.reflexive4(), map[uint16]bool{}
		h.next, h.end = c.now, c.now.Add(c.huntLasts())
	}
}

// begun takes the easy side's word that it tries ports: only now the attempt is one.
func (s *session) begun() {
	if h := s.c.hunt; h != nil && h.s == s && h.hard && h.told > 0 && !h.begun {
		h.begun, h.end = true, s.c.now.Add(s.c.huntLasts())
	}
}
