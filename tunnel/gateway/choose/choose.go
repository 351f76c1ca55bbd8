// Package choose picks, for each CIDR that a device may use, the gateway that carries its packets, by what the data path says and not by what the
// coordinator believes. It is a pure core: make one with New and tell it everything by Core.Handle, which gives back what to do and when to call
// again. Core.Status tells what it knows.
//
// The rules:
//
//   - Of the gateways of a CIDR the one with the highest priority is used, as long as it answers pings and does not say that it cannot reach its LAN.
//   - A gateway in use is pinged every fastPing, one that could take over every warmPing, so that its session is up and its state known. If pings go
//     unanswered for deadAfter, or the gateway tells that its LAN is lost, the best one that is shown to work takes over at once. None does
//     unless it answers while the other is silent: if nobody answers, it is this device that has lost its network, and nothing changes.
//   - A better gateway is returned to when it was well for holdOff, which doubles with each failure up to maxHoldOff.
//   - Where no gateway of a CIDR works, the next wider CIDR serves if a gateway of it works: no gateway is chosen. An exit node is no wider CIDR: what is
//     meant for an office must not go to the internet. Where nothing works at all, the last choice stays.
//   - Without traffic, gateways of which there is a choice are pinged every idlePing, others not at all. Traffic has all of them pinged at once.
//   - Every gateway of a CIDR is told which one is used, again until it says that it has heard it, since it hands that one the packets that it gets for
//     this device from the CIDR.
//
// No loops: a device that carries a CIDR never chooses another gateway for that same CIDR, not even when it has lost the LAN itself, since
// its sibling may have lost it too and each would send to the other. It may use gateways of wider CIDRs, and must keep its own part of them out of
// the tunnel (see tunnel/routeplan), and of narrower ones. So each gateway that a packet comes to through the tunnel either hands it to its own
// LAN, or sends it on for a strictly narrower CIDR than the one that brought it here, and that ends.
//
// Exit nodes are the CIDRs of all addresses. They count only as SetExit says: one gateway, or of all those that work with the highest priority
// the one with the shortest round trip.
//
//	choose.go  events, actions, Handle
//	state.go   what is known of CIDRs and gateways
//	pick.go    which gateway a CIDR gets
//	ping.go    pings and reports
//	status.go  what there is to show
package choose

import (
	"net/netip"
	"time"

	"warren/tunnel/gateway"
)

// ID names a gateway.
type ID = gateway.ID

const (
	// fastPing is between pings of a gateway that is in use and has an alternative, dataPing while its packets arrive anyhow, warmPing that of an
	// alternative, idlePing of both without traffic. Gateways that are far down the list are pinged every surveyPing.
	fastPing   = 400 * time.Millisecond
	dataPing   = time.Second
	warmPing   = 2 * time.Second
	idlePing   = 25 * time.Second
	surveyPing = 5 * time.Minute
	// quickPing is between pings that something waits for: whether a silent gateway is there, whether another could take over, whether a choice was heard.
	quickPing  = 200 * time.Millisecond
	quickTries = 5
	// surveyPace is between first pings of gateways that nothing waits for.
	surveyPace = 100 * time.Millisecond

	// deadAfter is how long after the first unanswered ping a gateway counts as dead; oneWayAfter, if packets of it arrive all the same. Nat/path moves
	// a session from a broken path to a relay within a second, which must not look like the end of a gateway.
	deadAfter   = 1200 * time.Millisecond
	oneWayAfter = 2400 * time.Millisecond
	slowestDead = 4 * time.Second // with a very long round trip
	// freshFor is how old the last answer of one that takes over may be; steadyFor is how long it must have answered without a break, beside one
	// that does not.
	freshFor  = 3 * time.Second
	steadyFor = 500 * time.Millisecond
	// staleAfter is when what was heard says nothing any more.
	staleAfter = 70 * time.Second

	// activeFor is how long a CIDR is in use after a packet for it.
	activeFor = 10 * time.Second
	// alternatives is how many gateways besides the one in use are kept warm; searched, if there is none in use that works.
	alternatives, searched = 2, 8

	holdOff    = 10 * time.Second
	maxHoldOff = 5 * time.Minute
	// forgiveAfter is how long without a failure makes up for all before.
	forgiveAfter = 10 * time.Minute
	// nearerFor is how long another exit node must have been nearer, by a quarter and nearerBy, to be used instead.
	nearerFor = time.Minute
	nearerBy  = 5 * time.Millisecond

	// DefaultPriority is that of a gateway whose priority is not told.
	DefaultPriority = 100
)

// Route says that a gateway carries a CIDR.
type Route struct {
	Prefix  netip.Prefix // masked
	Gateway ID
	// Priority is 1 to 255, higher is preferred; 0: DefaultPriority.
	Priority uint8
}

// Event is what happened. A nil one is the time that was asked for.
type Event interface{ event() }

// The events.
type (
	// SetRoutes gives all routes that the device accepts, and what it carries itself as others see it: of a translated CIDR the overlay's side.
	SetRoutes struct {
		Routes  []Route
		Carried []netip.Prefix
	}
	// SetExit gives the exit node to use, or has one chosen. Neither: none.
	SetExit struct {
		Gateway ID
		Auto    bool
	}
	// Restore says which gateways a process before this one used. With the next routes each CIDR has the same again, if it is among its gateways,
	// until something is known that speaks against it.
	Restore struct{ Chosen map[netip.Prefix]ID }
	// Sent says that packets were read from the host for a CIDR: the one whose route led into the tunnel. Told for each CIDR at its first packet, and
	// then not more often than every second.
	Sent struct{ Prefix netip.Prefix }
	// Received says that packets of the host's, not only words, came from a gateway. Told not more often than every 200 ms.
	Received struct{ Gateway ID }
	// Heard is a report of a gateway.
	Heard struct {
		Gateway ID
		Report  gateway.Report
	}
	// Presence tells whether the relay or the coordinator believes that a gateway is there. It decides only between those of which nothing is known.
	Presence struct {
		Gateway ID
		Present bool
	}
	// NetworkChanged says that this device's own network is another.
	NetworkChanged struct{}
)

func (SetRoutes) event()      {}
func (SetExit) event()        {}
func (Restore) event()        {}
func (Sent) event()           {}
func (Received) event()       {}
func (Heard) event()          {}
func (Presence) event()       {}
func (NetworkChanged) event() {}

// Action is what to do.
type Action interface{ action() }

// The actions.
type (
	// Send sends a word to a gateway.
	Send struct {
		To   ID
		Ping gateway.Ping
	}
	// Choose says that the packets for a CIDR go to a gateway from now on. Zero: to none, so that a wider CIDR has them, if there is one.
	Choose struct {
		Prefix  netip.Prefix
		Gateway ID
		Why     Reason
	}
)

func (Send) action()   {}
func (Choose) action() {}

// Config is what a Core needs from outside.
type Config struct {
	// Self is this device.
	Self ID
	// Start is drawn at random for each Core, never 0.
	Start uint64
}

// Core is the state. Make one with New.
type Core struct {
	cfg      Config
	clock    gateway.Clock
	now      time.Time // of the clock
	sequence uint64
	actions  []Action
	next     time.Time

	cidrs    []*cidr // by prefix, the wider first
	peers    []*peer // by ID
	carried  []netip.Prefix
	routes   []Route // as last given
	exit     SetExit
	restored map[netip.Prefix]ID // nil once there were routes
	others   []*link             // room for needs to work in
	surveyAt time.Time           // when the next first ping of one that nothing waits for may go out
}

// New makes a core without routes.
func New(cfg Config) *Core { return &Core{cfg: cfg} }

// Handle takes an event and tells what to do, and when to be called with nil; zero for never.
func (c *Core) Handle(now time.Time, e Event) ([]Action, time.Time) {
	var jumped bool
	if c.now, jumped = c.clock.Set(now); jumped {
		c.forgive()
	}
	c.actions = nil
	if c.noted(e) && !jumped {
		return nil, c.clock.Next(c.next)
	}
	c.next = time.Time{}
	switch e := e.(type) {
	case SetRoutes:
		c.routes, c.carried = e.Routes, e.Carried
		c.setRoutes()
	case SetExit:
		c.exit = e
		c.setRoutes()
	case Restore:
		c.restored = e.Chosen
	case Heard:
		c.with(e.Gateway, func(p *peer) { c.heard(p, e.Report) })
	case Presence:
		c.with(e.Gateway, func(p *peer) { p.absent = !e.Present })
	case NetworkChanged:
		c.forgive()
	}
	c.age()
	c.pick()
	c.ping()
	return c.actions, c.clock.Next(c.next)
}

// noted takes the events of which there may be many, and reports whether nothing is to be done about it now.
func (c *Core) noted(e Event) bool {
	quiet := c.next.IsZero() || c.now.Before(c.next)
	switch e := e.(type) {
	case Sent:
		if x := c.cidr(e.Prefix); x != nil {
			quiet = quiet && c.active(x)
			x.sent = c.now
		}
	case Received:
		c.with(e.Gateway, func(p *peer) { p.received = c.now })
	default:
		return false
	}
	return quiet
}

func (c *Core) emit(a Action) { c.actions = append(c.actions, a) }

// at asks to be called at t, unless that has passed.
func (c *Core) at(t time.Time) {
	if t.After(c.now) && (c.next.IsZero() || t.Before(c.next)) {
		c.next = t
	}
}

func (c *Core) with(id ID, f func(*peer)) {
	if p := c.peer(id); p != nil {
		f(p)
	}
}
