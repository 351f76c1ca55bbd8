package choose

import (
	"net/netip"
	"time"

	"warren/tunnel/gateway"
)

// Status is what there is to show of a CIDR.
type Status struct {
	Prefix netip.Prefix
	// Gateway is the chosen one; zero: none. Own says that this device carries the CIDR itself.
	Gateway ID
	Own     bool
	// Gateways are all, in the order of their IDs.
	Gateways []Gateway
}

// Gateway is one that carries a CIDR.
type Gateway struct {
	ID       ID
	Priority uint8
	// State is "working", "unknown", "silent" or "no LAN", since Since.
	State string
	Since time.Time
	// LAN is what the gateway says of the network behind it.
	LAN gateway.Health
	// RTT is the last round trip, smoothed; 0: none was measured.
	RTT time.Duration
	// Answered is when it last did; zero: never.
	Answered time.Time
}

// Status gives all CIDRs, in order. Exit nodes that are not to be used are not among them.
func (c *Core) Status() []Status {
	var out []Status
	for _, x := range c.cidrs {
		s := Status{Prefix: x.prefix, Own: x.own}
		if x.chosen != nil {
			s.Gateway = x.chosen.id
		}
		for _, l := range x.links {
			s.Gateways = append(s.Gateways, Gateway{
				ID: l.id, Priority: l.priority, LAN: l.health, RTT: l.rtt,
				State: [...]string{isDead: "silent", isFailing: "no LAN", isUnknown: "unknown", isWell: "working"}[l.rank],
				Since: c.clock.Real(l.since), Answered: c.clock.Real(l.heardAt),
			})
		}
		out = append(out, s)
	}
	return out
}
