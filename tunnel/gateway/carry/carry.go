// Package carry is what a gateway knows of the networks behind it and of the devices that use it. It is a pure core: make one with New and tell it
// everything by Core.Handle, which gives back what to do and when to call again. Core.Status tells what it knows.
//
// It probes the LAN of each CIDR through the host's own forwarding: an echo request goes into the TUN as if it came from a device, and the answer has to
// come back out of it. Whom it asks are the hosts that were configured, or else hosts that are known to answer, learnt from the packets that come from the
// LAN. While devices, or hosts that send, use the CIDR it asks every busyProbe. If nobody answers for failAfter, the CIDR is failing, and every device that has spoken of
// it is told at once, and again until it has heard. A CIDR of which no host is known to answer is neither working nor failing.
//
// It keeps which gateway each device uses for each CIDR, as the device says by its pings. WireGuard accepts a source from one peer only: a packet of
// the CIDR for a device that uses a sibling must be handed to that sibling. HandOver actions say so for the data plane. A sibling itself is a device that
// uses itself.
//
// What devices and hosts can make grow is bounded: devices and their uses, answers to their pings, hosts that are learnt, and probes in a second.
//
//	carry.go  events, actions, Handle
//	probe.go  the LAN
//	users.go  devices
package carry

import (
	"net/netip"
	"slices"
	"time"

	"warren/tunnel/gateway"
)

// ID names a device.
type ID = gateway.ID

const (
	// busyProbe is between probes of a CIDR that devices use, idleProbe of others, lostProbe of others that are failing, quickProbe once an
	// answer is missing.
	busyProbe  = 350 * time.Millisecond
	idleProbe  = 15 * time.Second
	lostProbe  = 2 * time.Second
	quickProbe = 150 * time.Millisecond
	// busyFor is how long a CIDR is in use after a device has said so or a host has sent.
	busyFor = 5 * time.Second
	// failAfter is how long after the first unanswered probe a host is silent; loneFailAfter if it is the only one that was learnt, which may have
	// been switched off: while others send it does not fail, and after loneForgotten it does not count any more. SlowestFail is with a long round trip.
	failAfter     = 550 * time.Millisecond
	loneFailAfter = 3 * time.Second
	loneForgotten = 10 * time.Second
	slowestFail   = 3 * time.Second
	// MaxTargets is how many hosts are asked at a time, configured or learnt; maxLearnt how many are remembered of a CIDR.
	MaxTargets = 3
	maxLearnt  = 8
	// tryEvery is between probes of hosts that have not answered yet, tryFirst where none has; each is tried triesEach times.
	tryEvery  = time.Second
	tryFirst  = 250 * time.Millisecond
	triesEach = 2
	// probesPerSecond and probesAtOnce bound all probes. What is due within probePace is done together.
	probesPerSecond, probesAtOnce = 1000, 200
	probePace                     = 10 * time.Millisecond

	// MaxDevices and maxUses bound what is kept of devices, together.
	MaxDevices = 16384
	maxUses    = 1 << 18
	// expireAfter is how long a device is kept without a ping, and a use without being said again.
	expireAfter = 15 * time.Minute
	sweepEvery  = time.Minute
	// answersPerSecond and answersAtOnce bound the answers to one device.
	answersPerSecond, answersAtOnce = 20, 40
	// newsEvery is between reports of the same news to a device that does not say that it has heard them; newsTries is how often.
	newsEvery = 100 * time.Millisecond
	newsTries = 5
)

// CIDR is one that this device carries.
type CIDR struct {
	// Prefix is as others see it.
	Prefix netip.Prefix
	// Siblings are the other gateways of the same prefix.
	Siblings []ID
	// Targets are configured hosts to probe, by the addresses that others see. None: hosts are learnt. At most MaxTargets count.
	Targets []netip.Addr
}

// Event is what happened. A nil one is the time that was asked for.
type Event interface{ event() }

// The events.
type (
	// SetCarried gives all CIDRs that this device carries: those that were approved.
	SetCarried struct{ CIDRs []CIDR }
	// Heard is a ping of a device.
	Heard struct {
		Device ID
		Ping   gateway.Ping
	}
	// Forget says that a device has left the network.
	Forget struct{ Device ID }
	// SeenHost says that a packet came from a host of the LAN, or that the kernel knows it as a neighbour. The address is as others see it. Told not
	// more often than every second of one host.
	SeenHost struct{ Host netip.Addr }
	// Echoed is the answer to a Probe.
	Echoed struct {
		Target   netip.Addr
		Sequence uint16
	}
	// NetworkChanged says that the host's networks are others: all is probed at once.
	NetworkChanged struct{}
	// Leave says that this device is about to stop. All devices are told that nothing behind it is reached any more, once.
	Leave struct{}
)

func (SetCarried) event()     {}
func (Heard) event()          {}
func (Forget) event()         {}
func (SeenHost) event()       {}
func (Echoed) event()         {}
func (NetworkChanged) event() {}
func (Leave) event()          {}

// Action is what to do.
type Action interface{ action() }

// The actions.
type (
	// Send sends a word to a device.
	Send struct {
		To     ID
		Report gateway.Report
	}
	// Probe writes an echo request into the TUN, from the probe address to the target.
	Probe struct {
		Target   netip.Addr
		Sequence uint16
	}
	// Health says how a CIDR is reached from now on.
	Health struct {
		Prefix netip.Prefix
		Health gateway.Health
	}
	// HandOver says that packets of a CIDR for a device go to this sibling from now on. Zero: straight to the device.
	HandOver struct {
		Device ID
		Prefix netip.Prefix
		To     ID
	}
)

func (Send) action()     {}
func (Probe) action()    {}
func (Health) action()   {}
func (HandOver) action() {}

// Config is what a Core needs from outside.
type Config struct {
	// Self is this device.
	Self ID
	// Start is drawn at random for each Core, never 0.
	Start uint64
}

// Core is the state. Make one with New.
type Core struct {
	cfg     Config
	clock   gateway.Clock
	now     time.Time // of the clock
	actions []Action
	leaving bool

	cidrs     []*cidr // by prefix
	byPrefix  map[netip.Prefix]*cidr
	probeNext time.Time // when probe has something to do; zero: never
	tokens    float64   // of probes
	tokensAt  time.Time

	devices  map[ID]*device
	uses     int // of all devices
	news     map[ID]*device
	newsNext time.Time
	sweepAt  time.Time
	sequence uint64 // of reports
}

// New makes a core that carries nothing.
func New(cfg Config) *Core {
	return &Core{cfg: cfg, byPrefix: map[netip.Prefix]*cidr{}, devices: map[ID]*device{}, news: map[ID]*device{}, tokens: probesAtOnce}
}

// Handle takes an event and tells what to do, and when to be called with nil; zero for never.
func (c *Core) Handle(now time.Time, e Event) ([]Action, time.Time) {
	var jumped bool
	if c.now, jumped = c.clock.Set(now); jumped {
		c.forgive()
	}
	c.actions = nil
	switch e := e.(type) {
	case SetCarried:
		c.setCarried(e.CIDRs)
	case Heard:
		c.heard(e.Device, e.Ping)
	case Forget:
		if d := c.devices[e.Device]; d != nil {
			c.drop(d)
		}
	case SeenHost:
		c.seen(e.Host)
	case Echoed:
		c.echoed(e.Target.Unmap(), e.Sequence)
	case NetworkChanged:
		c.forgive()
	case Leave:
		c.leave()
	}
	if due(c.now, c.probeNext) {
		c.probe()
	}
	if due(c.now, c.newsNext) {
		c.spread()
	}
	if due(c.now, c.sweepAt) {
		c.sweep()
	}
	return c.actions, c.clock.Next(earliest(c.probeNext, c.newsNext, c.sweepAt))
}

func (c *Core) emit(a Action) { c.actions = append(c.actions, a) }

// due tells whether t has come. Zero is never.
func due(now, t time.Time) bool { return !t.IsZero() && !now.Before(t) }

// earliest is the first of the times that are not zero.
func earliest(times ...time.Time) (first time.Time) {
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// setCarried brings the CIDRs into line, and keeps what is known of those that stay.
func (c *Core) setCarried(list []CIDR) {
	old := c.byPrefix
	c.cidrs, c.byPrefix = nil, map[netip.Prefix]*cidr{}
	for _, n := range list {
		if !n.Prefix.IsValid() || n.Prefix != n.Prefix.Masked() || c.byPrefix[n.Prefix] != nil {
			continue
		}
		x := old[n.Prefix]
		if x == nil {
			x = &cidr{prefix: n.Prefix}
		}
		x.siblings = slices.DeleteFunc(slices.Clone(n.Siblings), func(id ID) bool { return id == c.cfg.Self })
		x.setTargets(n.Targets)
		c.byPrefix[n.Prefix] = x
		c.cidrs = append(c.cidrs, x)
	}
	slices.SortFunc(c.cidrs, func(a, b *cidr) int { return a.prefix.Compare(b.prefix) })
	c.reviseUses()
	c.probeNext = c.now
}

// Status is what there is to show of a CIDR.
type Status struct {
	Prefix netip.Prefix
	Health gateway.Health
	Since  time.Time
	// Target is the host that answered last, or else the one that is asked; invalid: none is known. Answered is when it did; zero: never.
	Target   netip.Addr
	Answered time.Time
}

// Uses tells which gateway a device uses for a CIDR that this one carries, too; zero: it has not said.
func (c *Core) Uses(device ID, prefix netip.Prefix) ID {
	if d := c.devices[device]; d != nil {
		if u := d.uses[prefix]; u != nil {
			return u.gateway
		}
	}
	return ID{}
}

// Status gives all CIDRs, in order.
func (c *Core) Status() []Status {
	var out []Status
	for _, x := range c.cidrs {
		s := Status{Prefix: x.prefix, Health: x.health, Since: c.clock.Real(x.since)}
		for _, t := range x.targets {
			if !s.Target.IsValid() || t.answered.After(s.Answered) {
				s.Target, s.Answered = t.addr, t.answered
			}
		}
		s.Answered = c.clock.Real(s.Answered)
		out = append(out, s)
	}
	return out
}
