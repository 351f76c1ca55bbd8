// Package backoff says how long a client waits before it connects again, so that many of them come back from one server's restart without falling on
// it together: Lost after a connection that stood, Failed after an attempt that did not come so far. It is pure: chance comes from outside.
package backoff

import "time"

// Backoff is what one client remembers. First and Longest are positive.
type Backoff struct {
	// First is the longest pause after the first failure. It doubles with each further one, up to Longest.
	First, Longest time.Duration
	// Steady is how long a connection has to stand until earlier failures are forgotten.
	Steady time.Duration
	// Rand draws evenly from [0, n), as rand.N does.
	Rand func(n time.Duration) time.Duration

	wait time.Duration // of the next failure; 0: First
}

// maxWithin bounds what a server can ask for.
const maxWithin = time.Minute

// Lost gives the pause after a connection that had stood for a while. within, of at most a minute, is the time over which the server wants its clients
// spread who all lose it at once; less than First asks for nothing more than that. A connection that was not steady counts as a failure too.
func (b *Backoff) Lost(stood, within time.Duration) time.Duration {
	within = min(max(within, b.First), maxWithin)
	if stood < b.Steady {
		return b.Rand(within) + b.Failed()
	}
	b.Reset()
	return b.Rand(within)
}

// Failed gives the pause after an attempt that failed: from a quarter of the time that doubles to five quarters.
func (b *Backoff) Failed() time.Duration {
	wait := max(b.wait, b.First)
	b.wait = min(wait*2, b.Longest)
	return b.Rand(wait) + wait/4
}

// Reset forgets the failures: something has changed.
func (b *Backoff) Reset() { b.wait = 0 }

// Spread is within, for a server with n clients of whom it can take perSecond back: at most longest.
func Spread(n, perSecond int, longest time.Duration) time.Duration {
	if n > int(longest/time.Second)*perSecond {
		return longest
	}
	return min(time.Duration(n)*time.Second/time.Duration(perSecond), longest)
}
