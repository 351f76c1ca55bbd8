// Package home decides which of the network's relays a device keeps a connection to. It is a pure core: Handle takes what happened with the
// time, and gives what to do and when to be called again.
//
// The nearest relay, by round trip, is the device's home, where peers reach it; the next nearest is kept as a standby, so that a home which
// dies costs no more than noticing it. Others are connected on demand, for peers whose home they are, and now and then all of them, a few at a
// time, to measure them again. A relay that is a little nearer does not become home, nor one that is nearer only for a moment.
package home

import (
	"bytes"
	"cmp"
	"slices"
	"time"
)

// ID is a relay's public key.
type ID = [32]byte

const (
	// MaxConnected bounds the relays that are connected at once.
	MaxConnected = 8
	// surveyEvery is how old a measure may get; surveyFor is how long a relay has to come up and be measured.
	surveyEvery = 10 * time.Minute
	surveyFor   = 5 * time.Second
	// idleAfter is how long a relay on demand is kept after its last use.
	idleAfter = time.Minute
	// nearerFor is how long another relay must have been nearer, by a quarter and nearerBy, to become home.
	nearerFor = 20 * time.Second
	nearerBy  = 5 * time.Millisecond
	// settle is how long relays without a measure are waited for before a first home is chosen, once one is up.
	settle = time.Second
)

// Event is what happened. A nil one is the time that was asked for.
type Event interface{ event() }

// The events.
type (
	// SetRelays gives all relays of the network.
	SetRelays struct{ IDs []ID }
	// Up and Down tell of a relay's connection.
	Up   struct{ Relay ID }
	Down struct{ Relay ID }
	// RTT is a measured round trip.
	RTT struct {
		Relay ID
		RTT   time.Duration
	}
	// Use says that a peer's packets go through a relay, or should.
	Use struct{ Relay ID }
	// Search says that a peer is on no connected relay: the others are to be asked.
	Search struct{}
)

func (SetRelays) event() {}
func (Up) event()        {}
func (Down) event()      {}
func (RTT) event()       {}
func (Use) event()       {}
func (Search) event()    {}

// Action is what to do.
type Action interface{ action() }

// The actions.
type (
	// Connect and Disconnect keep a connection to a relay, or no longer.
	Connect    struct{ Relay ID }
	Disconnect struct{ Relay ID }
	// Chosen lists where this device is reached from now on: its home, then its standby if there is one.
	Chosen struct{ Relays []ID }
)

func (Connect) action()    {}
func (Disconnect) action() {}
func (Chosen) action()     {}

// relay is what is known of one.
type relay struct {
	id        ID
	connected bool // or to be
	up        bool
	upSince   time.Time
	rtt       time.Duration // smoothed; 0 while unknown
	surveyed  time.Time     // when its last turn in a survey began
	used      time.Time
}

// Core is the state. Make one with New.
type Core struct {
	now     time.Time
	actions []Action

	relays        []*relay // in order of their IDs
	home, standby *relay
	nearerSince   time.Time // since when another is nearer than home; zero while none is
	chosen        []ID      // as last told
}

// New makes a core without relays.
func New() *Core { return new(Core) }

// Handle takes an event and tells what to do, and when to be called with nil; zero for never.
func (c *Core) Handle(now time.Time, e Event) ([]Action, time.Time) {
	c.now, c.actions = now, nil
	switch e := e.(type) {
	case SetRelays:
		c.setRelays(e.IDs)
	case Up:
		c.with(e.Relay, func(r *relay) { r.up, r.upSince = r.connected, now })
	case Down:
		c.with(e.Relay, func(r *relay) { r.up = false })
	case RTT:
		c.with(e.Relay, func(r *relay) { r.measured(e.RTT) })
	case Use:
		c.with(e.Relay, func(r *relay) { r.used = now })
	case Search:
		c.search()
	}
	c.choose()
	c.connections()
	c.tell()
	return c.actions, c.next()
}

func (c *Core) emit(a Action) { c.actions = append(c.actions, a) }

func (c *Core) with(id ID, f func(*relay)) {
	if i, ok := slices.BinarySearchFunc(c.relays, id, byID); ok {
		f(c.relays[i])
	}
}

func byID(r *relay, id ID) int { return bytes.Compare(r.id[:], id[:]) }

func (c *Core) setRelays(ids []ID) {
	ids = slices.Compact(slices.SortedFunc(slices.Values(ids), func(a, b ID) int { return bytes.Compare(a[:], b[:]) }))
	old := c.relays
	c.relays = nil
	for _, id := range ids {
		if i, ok := slices.BinarySearchFunc(old, id, byID); ok {
			c.relays = append(c.relays, old[i])
		} else {
			c.relays = append(c.relays, &relay{id: id})
		}
	}
	for _, r := range old {
		if slices.Contains(c.relays, r) {
			continue
		}
		if r.connected {
			c.emit(Disconnect{r.id})
		}
		if c.home == r {
			c.home = nil
		}
		if c.standby == r {
			c.standby = nil
		}
	}
}

// measured smooths as TCP does (RFC 6298), but believes a lower value sooner.
func (r *relay) measured(rtt time.Duration) {
	switch {
	case rtt <= 0:
	case r.rtt == 0:
		r.rtt = rtt
	case rtt < r.rtt:
		r.rtt += (rtt - r.rtt) / 2
	default:
		r.rtt += (rtt - r.rtt) / 8
	}
}

// search has relays that are not connected asked, those that were not for longest first.
func (c *Core) search() {
	var others []*relay
	for _, r := range c.relays {
		if !r.connected {
			others = append(others, r)
		}
	}
	slices.SortStableFunc(others, func(a, b *relay) int { return a.used.Compare(b.used) })
	for _, r := range others[:min(len(others), MaxConnected-2)] {
		r.used = c.now
	}
}

// choose finds home and standby among the relays that are up.
func (c *Core) choose() {
	near := c.nearest()
	if c.home != nil && !c.home.up {
		c.home, c.nearerSince = nil, time.Time{}
		if c.standby != nil && c.standby.up {
			c.home = c.standby
		}
	}
	switch {
	case len(near) == 0:
		return // whoever was home may come back
	case c.home == nil && c.settled():
		c.home = near[0]
	case c.home == nil:
		return
	}
	if !c.nearer(near[0], c.home) {
		c.nearerSince = time.Time{}
	} else if c.nearerSince.IsZero() {
		c.nearerSince = c.now
	} else if c.now.Sub(c.nearerSince) >= nearerFor {
		c.home, c.nearerSince = near[0], time.Time{}
		c.measureNearest()
	}
	c.chooseStandby(near)
}

// measureNearest has those measured again that were nearest when they last were: after the home went elsewhere, one of them is the better
// standby.
func (c *Core) measureNearest() {
	all := slices.SortedStableFunc(slices.Values(c.relays), func(a, b *relay) int { return cmp.Compare(rank(a), rank(b)) })
	for _, r := range all[:min(len(all), MaxConnected-2)] {
		if !r.connected {
			r.surveyed = time.Time{}
		}
	}
}

func (c *Core) chooseStandby(near []*relay) {
	i := slices.IndexFunc(near, func(r *relay) bool { return r != c.home })
	switch {
	case i < 0:
		c.standby = nil
	case c.standby == nil || c.standby == c.home || !c.standby.up || c.nearer(near[i], c.standby):
		c.standby = near[i]
	}
}

// nearest lists the relays that are up, those that are measured first.
func (c *Core) nearest() []*relay {
	var up []*relay
	for _, r := range c.relays {
		if r.up {
			up = append(up, r)
		}
	}
	slices.SortStableFunc(up, func(a, b *relay) int { return cmp.Compare(rank(a), rank(b)) })
	return up
}

func rank(r *relay) time.Duration {
	if r.rtt == 0 {
		return time.Hour
	}
	return r.rtt
}

// settled tells whether the first choice need not wait for more measures.
func (c *Core) settled() bool {
	waiting := false
	for _, r := range c.relays {
		if r.up && c.now.Sub(r.upSince) >= settle {
			return true
		}
		waiting = waiting || r.connected && r.rtt == 0
	}
	return !waiting
}

// nearer tells whether a is so much nearer than b that it matters.
func (c *Core) nearer(a, b *relay) bool {
	return a != b && a.rtt != 0 && rank(b)-rank(a) > nearerBy+rank(b)/4
}

// connections connects those that are needed, up to the bound, and no others.
func (c *Core) connections() {
	want := slices.Clone(c.relays)
	slices.SortStableFunc(want, func(a, b *relay) int { return cmp.Compare(c.need(a), c.need(b)) })
	for i, r := range want {
		wanted := i < MaxConnected && c.need(r) < notNeeded
		switch {
		case wanted && !r.connected:
			r.connected = true
			if c.now.Sub(r.surveyed) >= surveyEvery || r.surveyed.IsZero() {
				r.surveyed = c.now
			}
			c.emit(Connect{r.id})
		case !wanted && r.connected:
			r.connected, r.up = false, false
			c.emit(Disconnect{r.id})
		}
	}
}

// The needs, most urgent first; those on demand are ordered by their last use.
const (
	needHome = iota
	needStandby
	needOnDemand
	needMeasure = time.Hour
	notNeeded   = 2 * time.Hour
)

func (c *Core) need(r *relay) time.Duration {
	inSurvey := r.connected && c.now.Sub(r.surveyed) < surveyFor
	switch {
	case r == c.home:
		return needHome
	case r == c.standby:
		return needStandby
	case !r.used.IsZero() && c.now.Sub(r.used) < idleAfter:
		return needOnDemand + c.now.Sub(r.used)
	case inSurvey, c.home == nil && r.connected && !r.up && r.surveyed.IsZero():
		return needMeasure
	case r.surveyed.IsZero() || c.now.Sub(r.surveyed) >= surveyEvery:
		return needMeasure + 1
	case c.home == nil || c.standby == nil: // nobody else is there: all are tried for as long as it takes
		return needMeasure + 2 + c.now.Sub(r.surveyed)/time.Duration(time.Hour/time.Second)
	}
	return notNeeded
}

// tell says where the device is reached when that has changed.
func (c *Core) tell() {
	var now []ID
	for _, r := range []*relay{c.home, c.standby} {
		if r != nil {
			now = append(now, r.id)
		}
	}
	if !slices.Equal(now, c.chosen) {
		c.chosen = now
		c.emit(Chosen{slices.Clone(now)})
	}
}

// next is when something may change by itself.
func (c *Core) next() time.Time {
	var next time.Time
	at := func(t time.Time) {
		if t.After(c.now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if !c.nearerSince.IsZero() {
		at(c.nearerSince.Add(nearerFor))
	}
	for _, r := range c.relays {
		at(r.surveyed.Add(surveyFor))
		at(r.surveyed.Add(surveyEvery))
		at(r.used.Add(idleAfter))
		if r.up {
			at(r.upSince.Add(settle))
		}
	}
	return next
}
