package compile

import (
	"net/netip"
	"slices"
	"time"

	"warren/coord/policy"
)

// LockedOut reports whether p would leave no device able to reach host, such as the coordinator's, where one can under old. host are its
// addresses, in the network or behind a gateway. dir is as things are, next as they would be under p, which may approve other routes.
func LockedOut(old, p *policy.Policy, dir, next Directory, host []netip.Addr, now time.Time) bool {
	return New(old, dir, now).reachable(host) && !New(p, next, now).reachable(host)
}

// reachable reports whether a device may reach any of host on anything.
func (c *Compiler) reachable(host []netip.Addr) bool {
	for slot, e := range c.entries {
		if e == nil {
			continue
		}
		for _, r := range c.program.rules {
			if r.active && c.reaches(r, slot, host) {
				return true
			}
		}
	}
	return false
}

// reaches reports whether another device may reach one of host at slot by r.
func (c *Compiler) reaches(r *rule, slot int, host []netip.Addr) bool {
	e := c.entries[slot]
	if r.self {
		has := slices.ContainsFunc(host, func(a netip.Addr) bool { return contains(e.own, a) })
		return has && e.user != "" && slices.ContainsFunc(c.owned[e.user], func(s int) bool { return s != slot && c.members[r.src].has(s) })
	}
	if !c.members[r.dst].has(slot) || c.members[r.src].onlyHas(slot) {
		return false
	}
	parts := c.parts(&c.sides[r.dst], e)
	return slices.ContainsFunc(host, func(a netip.Addr) bool { return contains(parts, a) })
}
