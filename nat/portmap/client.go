package portmap

import (
	"net/netip"
	"time"

	"warren/nat/portmap/natpmp"
	"warren/nat/portmap/pcp"
)

// state is how far a protocol has come.
type state uint8

const (
	idle      state = iota // not asked, or not any more
	asking                 // asked whether the gateway speaks it; in PCP the request is for the mapping itself
	offering               // the gateway speaks it and has a public address
	mapping                // asked for the mapping
	held                   // the mapping is there
	releasing              // asked to delete it
)

// client is one protocol's side of a Core.
type client struct {
	protocol Protocol
	state    state
	// answered, reason and external are what people see: whether it speaks the protocol, why it gave no mapping, its address outside.
	answered  bool
	reason    Reason
	external  netip.Addr
	notBefore time.Time // the gateway asked to be left alone until then

	// The mapping: where packets are taken, until when, and when it is to be renewed.
	lease          netip.AddrPort
	until, renewAt time.Time

	// The request under way: it is repeated at resendAt, or given up there in UPnP. wantMap and wantAddress tell what is still missing.
	renewing, confirm    bool
	wantMap, wantAddress bool
	sends                int
	resendAt             time.Time
	op                   uint64        // UPnP's
	conflicts            int           // ports that belonged to others
	life                 time.Duration // granted by NAT-PMP, which tells the address apart
	port                 uint16
}

// request begins the request that the client's state calls for.
func (c *Core) request(now time.Time, k *client) {
	k.sends = 0
	k.wantMap = k.protocol == PCP || k.state != asking
	k.wantAddress = k.protocol == NATPMP && (k.state == asking || k.renewing)
	if k.protocol != UPnP {
		c.transmit(now, k)
		return
	}
	k.op, k.resendAt = c.op(), now.Add(upnpLimit)
	switch k.state {
	case asking:
		c.out = append(c.out, Discover{k.op})
	case releasing:
		c.out = append(c.out, DeleteMapping{k.op, k.lease.Port()})
	default:
		c.out = append(c.out, AddMapping{k.op, c.wish, netip.AddrPortFrom(c.net.Local, c.net.Port), askLife})
	}
}

// transmit sends the datagrams of PCP and NAT-PMP that have no answer yet.
func (c *Core) transmit(now time.Time, k *client) {
	life, wish := askLife, netip.AddrPortFrom(k.lease.Addr(), c.wish)
	if k.state == releasing {
		life, wish = 0, netip.AddrPort{}
	}
	if k.protocol == PCP {
		c.send(pcp.Map{Nonce: c.nonce, Internal: c.net.Port, External: wish}.Request(c.net.Local, life))
	}
	if k.wantAddress {
		c.send(natpmp.AddressRequest())
	}
	if k.protocol == NATPMP && k.wantMap {
		c.send(natpmp.MapRequest(c.net.Port, wish.Port(), life))
	}
	k.resendAt = now.Add(firstResend << k.sends)
	k.sends++
}

func (c *Core) clientDue(now time.Time, k *client) {
	if reached(now, k.until) {
		c.fail(now, k, Unanswered)
		return
	}
	if reached(now, k.renewAt) {
		c.renew(now, k)
	}
	switch {
	case !reached(now, k.resendAt):
	case k.protocol == UPnP || k.sends >= tries:
		c.unanswered(now, k)
	default:
		c.transmit(now, k)
	}
}

// renew asks for a held mapping again.
func (c *Core) renew(now time.Time, k *client) {
	if k.state != held || k.renewing && !k.confirm {
		return
	}
	k.renewing, k.renewAt = true, time.Time{}
	c.request(now, k)
}

// unanswered ends a request that was repeated often enough.
func (c *Core) unanswered(now time.Time, k *client) {
	switch left := k.until.Sub(now); {
	case k.renewing && !k.wantMap: // only the address was not told again
		c.granted(now, k, netip.AddrPortFrom(k.lease.Addr(), k.port), k.life)
	case k.renewing && !k.confirm:
		c.out = append(c.out, Failure{k.protocol, Unanswered})
		k.renewing, k.resendAt = false, time.Time{}
		k.renewAt = now.Add(max(left/2, minRenew)) // RFC 6887 section 11.2.1; the end comes by until
	default:
		c.fail(now, k, Unanswered)
	}
}

// fail ends a request for good. If it was for the mapping in use, that is lost.
func (c *Core) fail(now time.Time, k *client, why Reason) {
	c.out = append(c.out, Failure{k.protocol, why})
	k.answered, k.reason = why != Unanswered && why != NotSupported, why
	k.state, k.renewing, k.confirm, k.op = idle, false, false, 0
	k.until, k.renewAt, k.resendAt = time.Time{}, time.Time{}, time.Time{}
	if c.active == k.protocol {
		c.lose(now)
	}
}

// granted takes a mapping. One that is of no use is given back, and one that comes too late to be chosen too.
func (c *Core) granted(now time.Time, k *client, at netip.AddrPort, life time.Duration) {
	k.answered, k.external, k.lease = true, at.Addr(), at
	why := Useful(at.Addr())
	switch {
	case why != NoReason:
	case at.Port() == 0:
		why = Malformed
	case life < minLife:
		why = BadLife
	}
	if why != NoReason {
		c.release(now, k)
		c.fail(now, k, why)
		return
	}
	life = min(life, askLife) // whatever it promises
	k.state, k.reason, k.renewing, k.confirm, k.conflicts, k.op = held, NoReason, false, false, 0, 0
	k.until, k.renewAt, k.resendAt = now.Add(life), now.Add(life/2), time.Time{}
	switch {
	case c.active == k.protocol:
		c.publish()
	case c.chosen() != None: // it comes too late
		c.giveBack(now, k)
	default:
		c.activate(k)
	}
}

// chosen is the protocol whose mapping is used or has been asked for; None while there is still a choice.
func (c *Core) chosen() Protocol {
	if c.active != None {
		return c.active
	}
	for _, p := range Protocols() {
		if c.clients[p].state == mapping {
			return p
		}
	}
	return None
}

// release has the gateway delete the mapping, and repeats the request until it is answered.
func (c *Core) release(now time.Time, k *client) {
	k.state, k.renewing = releasing, false
	k.until, k.renewAt = time.Time{}, time.Time{}
	c.request(now, k)
}

// giveBack has the gateway delete a mapping that is not needed; if the word is lost, the mapping's life ends it. A gateway that answers two
// protocols with the same port has one table for both, and the mapping is the one in use.
func (c *Core) giveBack(now time.Time, k *client) {
	if c.active == None || k.lease != c.published.External {
		c.release(now, k)
	}
	k.state, k.until, k.renewAt = idle, time.Time{}, time.Time{}
	k.released()
}
