// Package join decides when a device that has found a join token enrols by itself: at once, again while nobody answers, rarely after a refusal, and never
// twice by the same token. It is a pure core: Core.Next takes the time and what is seen and gives what to do and when to look again; Core.Done takes what
// came of an attempt.
package join

import (
	"crypto/sha256"
	"time"
)

// LookEvery is how often a token is looked for at least.
const LookEvery = 10 * time.Second

// Bounds of the pause after an attempt that nobody answered, and the pause after a refusal.
const (
	firstPause   = time.Second
	longestPause = 30 * time.Second
	refusedPause = 15 * time.Minute
)

// Token identifies a token without telling it; the zero Token is none.
type Token [sha256.Size]byte

// TokenOf is that of a token's text.
func TokenOf(text string) Token { return sha256.Sum256([]byte(text)) }

// Seen is how things are.
type Seen struct {
	// Token is the one that was found. Malformed says that it is none; Removable that it is in a file which is there for this alone.
	Token                Token
	Malformed, Removable bool
	// Member says that the device belongs to a network, Rejected that this wants it no longer, SameNetwork that the token is for it.
	Member, Rejected, SameNetwork bool
}

// Action is what to do.
type Action int

// Each but Wait, Enrol and Remove is given once for a token: a person ought to know.
const (
	Wait             Action = iota
	Enrol                   // by the token that was found
	Remove                  // the token's file: it has served
	TellMalformed           // the token is damaged
	TellOtherNetwork        // the device belongs to another network than the token is for
	TellUsed                // the device has left the network that it had joined by this very token
	TellRejected            // the network wants the device no longer, and a token that is always there does not overrule that
)

func (a Action) String() string {
	return [...]string{"wait", "enrol", "remove", "tell malformed", "tell other network", "tell used", "tell rejected"}[a]
}

// Outcome is what came of an attempt.
type Outcome int

// Of Away another attempt may come to something else, of Refused hardly.
const (
	Joined Outcome = iota
	Away
	Refused
)

// Core is the state. Its zero value has seen nothing; Jitter must be set.
type Core struct {
	// Jitter gives a number from 0 to less than n.
	Jitter func(n int64) int64

	token    Token
	failures int
	next     time.Time
	used     bool // the device was a member of the token's network
	told     Action
	removed  bool
}

// Next gives what to do now, and the time at which to ask again unless something happens before. After anything but Wait ask at once.
func (c *Core) Next(now time.Time, s Seen) (Action, time.Time) {
	if s.Token != c.token {
		*c = Core{Jitter: c.Jitter, token: s.Token}
	}
	later := now.Add(LookEvery)
	switch {
	case s.Token == Token{}:
		return Wait, later
	case s.Malformed:
		return c.tell(TellMalformed), later
	case s.Member && !s.SameNetwork:
		return c.tell(TellOtherNetwork), later
	case s.Member && !s.Rejected:
		c.used = true
		if s.Removable && !c.removed {
			c.removed = true // or it cannot be
			return Remove, later
		}
		return Wait, later
	case s.Member && !s.Removable:
		return c.tell(TellRejected), later
	case !s.Member && c.used:
		return c.tell(TellUsed), later
	case now.Before(c.next):
		if c.next.Before(later) {
			later = c.next
		}
		return Wait, later
	}
	return Enrol, later
}

func (c *Core) tell(what Action) Action {
	if c.told == what {
		return Wait
	}
	c.told = what
	return what
}

// Done takes what came of the attempt that Next has asked for.
func (c *Core) Done(now time.Time, o Outcome) {
	switch o {
	case Joined:
		c.used, c.failures, c.next = true, 0, time.Time{}
	case Refused:
		c.failures, c.next = 0, now.Add(refusedPause)
	case Away:
		pause := min(firstPause<<min(c.failures, 10), longestPause)
		c.failures++
		c.next = now.Add(pause/2 + time.Duration(c.Jitter(int64(pause/2))))
	}
}
