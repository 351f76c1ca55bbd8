package compile

import (
	"net/netip"
	"slices"

	"warren/coord/policy"
	pb "warren/proto/warrenv1"
)

// ExitDNS is the id of the grant that goes with every one by which the internet is reached through an exit node: who sends all traffic there asks
// its resolver too, at its own addresses.
const ExitDNS = "dns of exit nodes"

// dnsFlows are those of ExitDNS.
func dnsFlows() []policy.Flow {
	return []policy.Flow{{Protocol: 6, First: 53, Last: 53}, {Protocol: 17, First: 53, Last: 53}}
}

// exitSet is the exit nodes of a destination.
type exitSet struct {
	bits
	list *prefixList // their own addresses
}

// exits gives the devices through which a side reaches something of the internet.
func (c *Compiler) exits(side int) *exitSet {
	m, s := c.members[side], &c.sides[side]
	if m.exits != nil {
		return m.exits
	}
	out := new(exitSet)
	var own []part
	for slot := range c.carriers.all() {
		if e := c.entries[slot]; e.Exit && m.has(slot) && c.exitIn(s, e) {
			out.set(slot)
			own = append(own, e.own...)
		}
	}
	out.list = newPrefixList(own)
	m.exits = out
	return out
}

// exitIn reports whether a side has something that is reached through e as an exit node.
func (c *Compiler) exitIn(s *side, e *entry) bool {
	return slices.ContainsFunc(e.behind, func(b behind) bool { return b.Exit && len(c.parts(s, b.entry)) > 0 })
}

// exitDNS adds the grants for the resolvers of exit nodes that go with a rule.
func (b *builder) exitDNS(r *rule) {
	src, exits := b.members[r.src], b.exits(r.dst)
	if exits.empty() {
		return
	}
	emit := func(src, dst *prefixList) {
		var flows []*pb.Flow
		for _, f := range dnsFlows() {
			flows = append(flows, &pb.Flow{Protocol: uint32(f.Protocol), FirstPort: uint32(f.First), LastPort: uint32(f.Last)})
		}
		b.emit(ExitDNS, digest(ExitDNS), flows, src, dst)
	}
	if src.has(b.slot) && !exits.onlyHas(b.slot) {
		emit(b.ownList(r.src), exits.list)
	}
	if exits.has(b.slot) && !src.onlyHas(b.slot) {
		emit(b.list(r.src), b.e.list)
	}
}

// allowsExitDNS reports whether a flow is one that ExitDNS allows because of r.
func (c *Compiler) allowsExitDNS(r *rule, q asked) bool {
	if r.self || !policy.FlowsContain(dnsFlows(), q.flow) || !contains(q.dst.own, q.to) {
		return false
	}
	source := &c.sides[r.src]
	return c.inSide(source, q.src, q.from, true) && source.meets(q.src) && r.grant.Schedule.Open(q.now) && c.exitIn(&c.sides[r.dst], q.dst)
}

// Used reports whether any other device may reach, or be reached from, a part of what a gateway carries as route; named, whether a grant speaks of a
// part of it at all, be it for nobody who is there yet. A grant of autogroup:self does not.
func (c *Compiler) Used(gateway ID, route netip.Prefix) (used, named bool) {
	slot, ok := c.slots[gateway]
	if !ok {
		return false, false
	}
	carried := c.entries[slot].behind
	i := slices.IndexFunc(carried, func(b behind) bool { return b.Prefix == route })
	if i < 0 {
		return false, false
	}
	for _, r := range c.program.rules {
		if r.self || !r.active {
			continue
		}
		for _, ends := range [][2]int{{r.src, r.dst}, {r.dst, r.src}} {
			if c.members[ends[0]].has(slot) && len(c.parts(&c.sides[ends[0]], carried[i].entry)) > 0 {
				named = true
				used = used || !c.members[ends[1]].onlyHas(slot)
			}
		}
	}
	return used, named
}
