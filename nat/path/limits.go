package path

import "time"

// Times of a session.
const (
	idleAfter    = 45 * time.Second // without data a session sleeps
	calledFor    = 10 * time.Second // what a peer's call keeps a session awake without data
	wantEvery    = 2 * time.Second  // a peer's checks ask for it to be configured
	restFor      = time.Minute      // but not so soon after the tunnel gave it up: they were on their way
	retryFirst   = 2 * time.Second  // until the next attempt at a direct path; doubles
	retryMax     = time.Minute
	betterEvery  = time.Minute            // looking for a better path than a direct one
	pollAsleep   = 500 * time.Millisecond // looking whether data flows again
	pollRelayed  = time.Second
	pollDirect   = 100 * time.Millisecond
	refreshAfter = 100 * time.Millisecond // a call sooner than this after the last attempt's start does not start another
)

// Supervision of the direct path in use.
const (
	consentEvery   = 2000 * time.Millisecond // RFC 7675 section 5.1 asks for randomisation: up to consentSpread more
	consentSpread  = 500 * time.Millisecond  // together they bound how long a black hole for long packets stays unseen
	suspectEvery   = 500 * time.Millisecond  // after an unanswered check
	shortAfterLong = 2                       // ... but the first of these follow at once
	trustFor       = 6500 * time.Millisecond // without an answer
	distressAfter  = 300 * time.Millisecond  // data sent, nothing back
	quickEvery     = 60 * time.Millisecond   // checks in distress
	quickLost      = 4                       // so many of them unanswered demote
	doubtLost      = 3                       // ... if the peer calls, which it would not if all were well, or the network changed
	quickMax       = 10                      // more in a row, while there is no relay, come at slowEvery
	slowEvery      = 250 * time.Millisecond
	timeoutMin     = 150 * time.Millisecond // after which a check counts as unanswered
	timeoutMax     = 600 * time.Millisecond
	timeoutSpare   = 50 * time.Millisecond
	missedMax      = 16
	freshFor       = 300 * time.Millisecond // an answer that young makes a triggered check superfluous
)

// Probing of pairs. An easy NAT lets a packet in only after one has gone out to where it comes from: the first check of the side
// that is ahead is lost, so the next must follow quickly.
const (
	pace          = 10 * time.Millisecond // between two checks of one peer
	triggeredPace = 20 * time.Millisecond // between two triggered checks of one pair
	confirmAfter  = 20 * time.Millisecond // a second look at a pair that seems better
	triesFull     = 7
	triesLight    = 3 // while a direct path is there already
	lateAfter     = 5 * time.Second
)

// retransmit is the time to the next try after the first, second, ... one.
var retransmit = [triesFull]time.Duration{
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond,
}

// Bounds.
const (
	pairsMax      = 64
	reflexiveMax  = 8
	probesMax     = 512 // transactions of one peer that may still be answered
	peerBurst     = 64  // checks of one peer, the path in use excepted
	peerRate      = 40  // ... in a second
	totalBurst    = 256 // checks of all peers
	totalRate     = 1000
	reflexRate    = 10 // checks in a second to addresses that only a request told of
	reflexBurst   = 10
	signalSpacing = 50 * time.Millisecond
	callFirst     = 250 * time.Millisecond // until a call is repeated; doubles
	callMax       = time.Minute
	goneTries     = 3               // a call to a peer that is not at the relay counts as so many
	goneRetry     = 2 * time.Second // between two such calls while there is data for it
	goneRate      = 20              // ... calls in a second to all such peers
	goneBurst     = 40
	lostFor       = 2 * time.Second // a signal says so long that the direct path was lost
	yieldEvery    = time.Second     // between two paths that are given up because the peer says that
)

// Choice between pairs that work.
const (
	bonusPrivate = 6 * time.Millisecond // kinds lie further apart than gainMin, or which of two that are as fast is taken would be chance
	bonusIPv6    = 3 * time.Millisecond
	gainMin      = 2 * time.Millisecond // hysteresis: what a better path must gain, or gainPart of the round trip
	gainAlike    = 5 * time.Millisecond // ... if it is of the same kind: it wins little, and a busy host makes that much of nothing
	gainPart     = 7                    // one seventh
	answersFresh = 10 * time.Second     // answers further apart do not count together
	recentMax    = 4                    // so many of the last round trips are compared; a path in use that has fewer is measured again first
)

// bucket is a token bucket.
type bucket struct {
	rate, burst float64 // tokens in a second, tokens
	tokens      float64
	at          time.Time
}

func newBucket(rate, burst float64, now time.Time) bucket {
	return bucket{rate: rate, burst: burst, tokens: burst, at: now}
}

func (b *bucket) fill(now time.Time) {
	b.tokens = min(b.burst, b.tokens+b.rate*now.Sub(b.at).Seconds())
	b.at = now
}

// wait is how long until there is a token; 0 if there is one.
func (b *bucket) wait(now time.Time) time.Duration {
	b.fill(now)
	if b.tokens >= 1 {
		return 0
	}
	return time.Duration((1-b.tokens)/b.rate*float64(time.Second)) + time.Millisecond
}

func (b *bucket) take() { b.tokens-- }
