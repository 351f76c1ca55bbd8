package compile

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"warren/coord/policy"
)

// SetDevice adds a device, or replaces what was known of it.
func (c *Compiler) SetDevice(d Device) Update {
	next := c.newEntry(&d)
	after := c.sidesOf(next)
	concerned := &concern{Compiler: c}
	var peers bits
	var left []int
	joined, same := after, false
	if slot, known := c.slots[d.ID]; known {
		left, peers, same = c.sidesWith(slot), c.peers(slot), sameParts(c.entries[slot], next)
		if same { // in sides that it stays in it is what it was
			left, joined = without(left, after), without(after, left)
		} else {
			concerned.self(slot)
			concerned.addSiblings(&concerned.hit, slot)
		}
		concerned.leave(slot, left)
	}
	slot := c.put(next)
	for _, s := range left {
		c.unset(s, slot)
	}
	for _, s := range joined {
		c.set(s, slot)
	}
	concerned.leave(slot, joined)
	if !same {
		concerned.self(slot)
		concerned.addSiblings(&concerned.hit, slot)
	}
	return concerned.update(slot, peers)
}

// RemoveDevice forgets a device.
func (c *Compiler) RemoveDevice(id ID) Update {
	slot, ok := c.slots[id]
	if !ok {
		return Update{}
	}
	peers, sides := c.peers(slot), c.sidesWith(slot)
	for _, s := range sides {
		c.unset(s, slot)
	}
	lost := slices.Collect(c.ids(peers))
	c.remove(slot)
	return Update{Changed: append(slices.Clone(lost), id), Lost: lost}
}

// SetUser says what is known of a user.
func (c *Compiler) SetUser(name string, u User) Update {
	if c.users[name] == u {
		return Update{}
	}
	return c.reselect([]string{name}, []int{c.admins}, func() { c.users[name] = u }).update(-1, nil)
}

// SetGroup says who is in a group of sign-in; nobody removes it.
func (c *Compiler) SetGroup(name string, users []string) Update {
	old, members := c.groups[name], sortedUnique(slices.Clone(users))
	left, joined := without(old, members), without(members, old)
	var selectors []int
	for _, group := range append(slices.Clone(c.foreign[name]), name) {
		if i, ok := c.byGroup[group]; ok {
			selectors = append(selectors, i)
		}
	}
	moved := slices.Concat(left, joined)
	c.inGroups = nil
	concerned := c.reselect(moved, selectors, func() {
		if c.groups[name] = members; len(members) == 0 {
			delete(c.groups, name)
		}
		for _, u := range left {
			c.signIn[u] = slices.DeleteFunc(c.signIn[u], func(g string) bool { return g == name })
		}
		for _, u := range joined {
			c.signIn[u] = append(c.signIn[u], name)
		}
	})
	concerned.regrouped(moved)
	return concerned.update(-1, nil)
}

// reselect makes a change to users after which selectors may select other devices of theirs.
func (c *Compiler) reselect(users []string, selectors []int, change func()) *concern {
	var slots, sides []int
	for _, u := range users {
		slots = append(slots, c.owned[u]...)
	}
	for _, i := range selectors {
		if i >= 0 {
			sides = append(sides, c.program.selectors[i].sides...)
		}
	}
	sides = sortedUnique(sides)
	var before [][]netip.Prefix // a device may stay in a side with other prefixes
	for _, slot := range slots {
		for _, s := range sides {
			before = append(before, c.holds(s, slot))
		}
	}
	change()
	for _, u := range users {
		delete(c.ofUser, u)
	}
	concerned := &concern{Compiler: c}
	for _, slot := range slots {
		for _, s := range sides {
			concerned.reselected(slot, s, before[0])
			before = before[1:]
		}
	}
	return concerned
}

// holds gives the prefixes that a device now has in a side.
func (c *Compiler) holds(side, slot int) []netip.Prefix {
	if s, e := &c.sides[side], c.entries[slot]; s.meets(e) {
		return prefixes(apart(c.parts(s, e)))
	}
	return nil
}

// reselected puts a device into a side or out of it.
func (n *concern) reselected(slot, side int, before []netip.Prefix) {
	after := n.holds(side, slot)
	if slices.Equal(before, after) {
		return
	}
	n.leave(slot, []int{side})
	if len(after) > 0 {
		n.set(side, slot)
	} else {
		n.unset(side, slot)
	}
	if !n.peers(slot).empty() || !n.hit.empty() {
		n.hit.set(slot)
	}
}

// SetPolicy puts another policy into force.
func (c *Compiler) SetPolicy(p *policy.Policy, now time.Time) Update {
	oldProgram, oldMembers := c.program, c.members
	c.now = now
	c.load(newProgram(p, now))
	concerned := &concern{Compiler: c}
	concerned.compare(oldProgram, oldMembers)
	concerned.regrouped(c.regroupedSince(oldProgram))
	return concerned.update(-1, nil)
}

// Advance opens and closes time windows. next is when it should be called again; zero: not for the sake of time.
func (c *Compiler) Advance(now time.Time) (u Update, next time.Time) {
	c.now = now
	concerned := &concern{Compiler: c}
	for _, r := range c.program.rules {
		if r.grant.Schedule == nil {
			continue
		}
		if open := r.grant.Schedule.Open(now); open != r.active {
			r.active = true // for who is concerned by it
			concerned.rule(r)
			r.active = open
		}
		if n := r.grant.Schedule.Next(now); !n.IsZero() && (next.IsZero() || n.Before(next)) {
			next = n
		}
	}
	return concerned.update(-1, nil), next
}

// sidesWith gives the sides that a device is in.
func (c *Compiler) sidesWith(slot int) (out []int) {
	for i, m := range c.members {
		if m.has(slot) {
			out = append(out, i)
		}
	}
	return out
}

func (c *Compiler) set(side, slot int) {
	m := c.members[side]
	m.set(slot)
	m.list, m.exits = nil, nil
}

func (c *Compiler) unset(side, slot int) {
	m := c.members[side]
	m.clear(slot)
	m.list, m.exits = nil, nil
}

// sameParts reports whether a device has the same prefixes in whatever side it stays in.
func sameParts(a, b *entry) bool {
	prefixes := func(x, y part) bool { return x.Prefix == y.Prefix }
	return slices.EqualFunc(a.own, b.own, prefixes) && slices.EqualFunc(a.carried, b.carried, prefixes) &&
		slices.EqualFunc(a.out, b.out, prefixes) && slices.Equal(a.Tags, b.Tags) && a.user == b.user
}

// concern collects the devices whose view a change alters.
type concern struct {
	*Compiler
	hit bits
}

// leave is for sides which slot is in, and that it joins or leaves, or in which its prefixes change.
func (n *concern) leave(slot int, sides []int) {
	for _, i := range sides {
		s := &n.sides[i]
		for _, r := range s.asSource {
			if r.active {
				n.addOpposite(&n.hit, r, slot, true)
			}
		}
		for _, r := range s.asDestination {
			if r.active {
				n.addOpposite(&n.hit, r, slot, false)
			}
		}
	}
}

// self is for a device that joins or leaves those of its user.
func (n *concern) self(slot int) {
	u := n.entries[slot].user
	if u == "" || !slices.ContainsFunc(n.program.rules, func(r *rule) bool { return r.self && r.active }) {
		return
	}
	for _, s := range n.owned[u] {
		n.hit.set(s)
	}
}

// rule is for a rule that opens or closes.
func (n *concern) rule(r *rule) {
	n.between(r, n.members[r.src].bits, n.opposite(r, n.members))
}

func (n *concern) opposite(r *rule, members []*memberSet) bits {
	if r.self {
		return nil
	}
	return members[r.dst].bits
}

// between adds the devices of both sides of r, if there are any in both.
func (n *concern) between(r *rule, src, dst bits) {
	if !r.self {
		if !src.empty() && !dst.empty() {
			n.hit.add(src)
			n.hit.add(dst)
		}
		return
	}
	for slot := range src.all() {
		if e := n.entries[slot]; e.user != "" && len(n.owned[e.user]) > 1 {
			for _, s := range n.owned[e.user] {
				n.hit.set(s)
			}
		}
	}
}

// compare finds what a program and its members changed with respect to the former ones. Slots are the same.
func (n *concern) compare(old *program, oldMembers []*memberSet) {
	former := map[string]*rule{}
	for _, r := range old.rules {
		if r.active {
			former[r.key] = r
		}
	}
	for _, r := range n.program.rules {
		if !r.active {
			continue
		}
		src, dst := n.members[r.src].bits, n.opposite(r, n.members)
		was := former[r.key]
		delete(former, r.key)
		if was == nil {
			n.between(r, src, dst)
			continue
		}
		wasSrc, wasDst := oldMembers[was.src].bits, n.opposite(was, oldMembers)
		n.moved(r, wasSrc, src, wasDst, dst)
	}
	for _, key := range slices.Sorted(maps.Keys(former)) {
		r := former[key]
		n.between(r, oldMembers[r.src].bits, n.opposite(r, oldMembers))
	}
}

// moved is for a rule whose sides may have other members than before.
func (n *concern) moved(r *rule, wasSrc, src, wasDst, dst bits) {
	from := wasSrc.without(src)
	from.add(src.without(wasSrc))
	to := wasDst.without(dst)
	to.add(dst.without(wasDst))
	if r.self {
		n.between(r, from, nil)
		return
	}
	all := func(a, b bits) bits {
		var out bits
		out.add(a)
		out.add(b)
		return out
	}
	if !from.empty() {
		n.hit.add(from)
		n.hit.add(all(wasDst, dst))
	}
	if !to.empty() {
		n.hit.add(to)
		n.hit.add(all(wasSrc, src))
	}
}

// update tells who is concerned; slot is the one device that changed, or -1, and peers those that it had.
func (n *concern) update(slot int, peers bits) (u Update) {
	if slot >= 0 {
		now := n.peers(slot)
		gained, lost := now.without(peers), peers.without(now)
		u.Gained, u.Lost = slices.Collect(n.ids(gained)), slices.Collect(n.ids(lost))
		if now.empty() && peers.empty() {
			n.hit.clear(slot)
		}
		n.hit.add(gained)
		n.hit.add(lost)
		if !n.hit.empty() {
			n.hit.set(slot)
		}
	}
	u.Changed = slices.Collect(n.ids(n.hit))
	return u
}
