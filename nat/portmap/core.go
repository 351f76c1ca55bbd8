package portmap

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"warren/nat/portmap/pcp"
)

// Config is what a Core is made with.
type Config struct {
	// Random fills b.
	Random func(b []byte)
	// Nonce, unless it is zero, is that of all mappings by PCP: a process that has the nonce of the one before goes on with the mapping of that one,
	// which a server would not let others change.
	Nonce pcp.Nonce
	// Use are the protocols to use; nil: all.
	Use []Protocol
}

// Core is the core. It is not for several goroutines.
type Core struct {
	cfg     Config
	net     Network
	clients [UPnP + 1]client // by protocol
	nonce   pcp.Nonce
	epochs  [UPnP + 1]epoch

	active    Protocol // whose mapping is published
	published Mapping
	decideAt  time.Time // until then better protocols are waited for; zero afterwards
	retryAt   time.Time // when all protocols are asked again; zero while there is no need
	started   time.Time // when they were asked last
	remapped  time.Time // when a restart last made us ask again
	giveUp    time.Time // set by Stop: when it ends at the latest
	stopped   bool
	failures  int    // rounds without a mapping
	wish      uint16 // the port outside that we would like
	lastOp    uint64
	out       []Action
}

// New makes a Core without a network.
func New(cfg Config) *Core {
	if cfg.Use == nil {
		cfg.Use = Protocols()
	}
	c := &Core{cfg: cfg}
	c.reset()
	return c
}

// Handle takes an event, or nil when time has passed. It returns what is to be done, in order, and when it wants to be called at the latest; zero:
// not before the next event.
func (c *Core) Handle(now time.Time, ev Event) (actions []Action, next time.Time) {
	c.out = nil
	if c.stopped {
		return nil, time.Time{}
	}
	switch ev := ev.(type) {
	case SetNetwork:
		c.setNetwork(now, ev.Network)
	case Datagram:
		c.datagram(now, ev)
	case Unreachable:
		c.unreachable(now)
	case Found:
		c.found(now, ev)
	case Added:
		c.added(now, ev)
	case Deleted:
		c.deleted(ev)
	case Stop:
		c.stop(now)
	}
	c.due(now)
	return c.out, c.next()
}

// reset forgets everything but the network.
func (c *Core) reset() {
	for _, p := range Protocols() {
		c.clients[p] = client{protocol: p}
	}
	c.epochs = [UPnP + 1]epoch{}
	if c.nonce = c.cfg.Nonce; c.nonce == (pcp.Nonce{}) {
		c.cfg.Random(c.nonce[:])
	}
	c.active, c.failures = None, 0
	c.decideAt, c.retryAt = time.Time{}, time.Time{}
	c.wish = c.net.Port
}

func (c *Core) setNetwork(now time.Time, n Network) {
	if c.stopping() {
		return
	}
	if n == c.net {
		c.confirm(now)
		return
	}
	if n.Gateway == c.net.Gateway && n.Local == c.net.Local { // only the port is another: the gateway is still there
		for _, p := range Protocols() {
			if k := &c.clients[p]; k.state == held {
				c.release(now, k)
			}
		}
	}
	c.net = n
	c.reset()
	c.publish()
	if n.complete() {
		c.start(now)
	}
}

// confirm is for a change after which the network looks the same: it may be another one with the same addresses, or the host has slept.
func (c *Core) confirm(now time.Time) {
	switch {
	case !c.net.complete():
	case c.active == None:
		c.failures = 0
		c.start(now)
	default:
		k := &c.clients[c.active]
		k.confirm = true
		c.renew(now, k)
	}
}

// start asks by all protocols at once. What they said before stays for people to see until they say something else.
func (c *Core) start(now time.Time) {
	c.started, c.retryAt, c.decideAt = now, time.Time{}, now.Add(patience)
	for _, p := range Protocols() {
		k := &c.clients[p]
		*k = client{protocol: p, answered: k.answered, reason: k.reason, external: k.external, notBefore: k.notBefore}
		if slices.Contains(c.cfg.Use, p) && !now.Before(k.notBefore) {
			c.out = append(c.out, Attempt{p})
			k.state = asking
			c.request(now, k)
		}
	}
}

// due does what the time has come for.
func (c *Core) due(now time.Time) {
	for _, p := range Protocols() {
		c.clientDue(now, &c.clients[p])
	}
	if c.stopping() {
		c.stopDue(now)
		return
	}
	if reached(now, c.retryAt) {
		c.start(now)
	}
	if reached(now, c.decideAt) {
		c.decideAt = time.Time{}
	}
	c.decide(now)
}

// decide chooses a protocol, if none is chosen: the best that has answered, as soon as no better one is worth waiting for.
func (c *Core) decide(now time.Time) {
	if c.chosen() != None || !c.retryAt.IsZero() || !c.net.complete() {
		return
	}
	waiting := false
	for _, p := range Protocols() {
		switch k := &c.clients[p]; k.state {
		case asking:
			if !c.decideAt.IsZero() {
				return
			}
			waiting = true
		case offering:
			k.state = mapping
			c.request(now, k)
			return
		}
	}
	if !waiting {
		c.retryAt = now.Add(min(firstRetry<<min(c.failures, 10), maxRetry))
		c.failures++
	}
}

// activate makes a held mapping the one that counts.
func (c *Core) activate(k *client) {
	c.active, c.failures, c.decideAt = k.protocol, 0, time.Time{}
	if p := &c.clients[PCP]; p.state == asking { // its request is for a mapping, and one is enough
		p.state, p.resendAt = idle, time.Time{}
	}
	c.publish()
}

// lose gives up the mapping that was used and starts over, but not more often than firstRetry.
func (c *Core) lose(now time.Time) {
	c.active = None
	c.publish()
	c.retryAt = later(now, c.started.Add(firstRetry))
}

// publish tells what holds, if that has changed.
func (c *Core) publish() {
	var m Mapping
	if c.active != None {
		m = Mapping{c.active, netip.AddrPortFrom(c.net.Local, c.net.Port), c.clients[c.active].lease}
		c.wish = m.External.Port()
	}
	if m != c.published {
		c.published = m
		c.out = append(c.out, Publish{m})
	}
}

// announced is called when the gateway told all hosts of itself. Anybody on the link can do that: it is a reason to ask, not an answer. It means
// that the table is new; if that does not show, it may be too new to differ. Without a mapping, perhaps the gateway can do better now.
func (c *Core) announced(now time.Time, shows bool) {
	gap := announceGap
	if shows {
		gap = remapGap
	}
	if now.Sub(c.remapped) < gap || c.stopping() {
		return
	}
	c.remapped = now
	switch {
	case c.active != None:
		c.renew(now, &c.clients[c.active])
	case !c.retryAt.IsZero():
		c.retryAt = later(now, c.started.Add(firstRetry))
	}
}

func (c *Core) stopping() bool { return !c.giveUp.IsZero() }

// stop begins the deletion of what the gateway holds for us, or may be about to grant.
func (c *Core) stop(now time.Time) {
	if c.stopping() {
		return
	}
	c.giveUp = now.Add(stopLimit)
	c.active, c.retryAt, c.decideAt = None, time.Time{}, time.Time{}
	c.publish()
	for _, p := range Protocols() {
		k := &c.clients[p]
		switch {
		case k.state == held, k.state == mapping && p == NATPMP:
			c.release(now, k)
		case k.state == asking && p == PCP: // it may have been granted, but perhaps nobody is there
			c.giveBack(now, k)
		case k.state == mapping: // in UPnP a mapping that we have not got cannot be told from another's, so the answer is waited for
		default:
			k.state, k.resendAt = idle, time.Time{}
		}
	}
}

func (c *Core) stopDue(now time.Time) {
	busy := slices.ContainsFunc(c.clients[:], func(k client) bool { return k.state != idle })
	if !busy || reached(now, c.giveUp) {
		c.stopped = true
		c.out = append(c.out, Stopped{})
	}
}

// next is the earliest deadline.
func (c *Core) next() time.Time {
	var t time.Time
	if c.stopped {
		return t
	}
	for _, at := range append(c.deadlines(), c.giveUp, c.retryAt, c.decideAt) {
		if !at.IsZero() && (t.IsZero() || at.Before(t)) {
			t = at
		}
	}
	return t
}

func (c *Core) deadlines() (out []time.Time) {
	for _, p := range Protocols() {
		k := &c.clients[p]
		out = append(out, k.resendAt, k.renewAt, k.until)
	}
	return out
}

// send puts a datagram to the gateway into the actions.
func (c *Core) send(b []byte) { c.out = append(c.out, Send{b}) }

// op numbers an operation of UPnP.
func (c *Core) op() uint64 {
	c.lastOp++
	return c.lastOp
}

// otherPort draws one that needs no privilege.
func (c *Core) otherPort() uint16 {
	var b [2]byte
	c.cfg.Random(b[:])
	return 1024 + binary.BigEndian.Uint16(b[:])%(65535-1024)
}

func reached(now, at time.Time) bool { return !at.IsZero() && !now.Before(at) }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
