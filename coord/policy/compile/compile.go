// Package compile joins a policy with the directory of users, groups and devices: who may reach whom on what, what each device's map holds,
// and why. It is pure: it has no clock, locks nothing and talks to nobody.
//
// A Compiler lives as long as the coordinator and is told each change. SetDevice, RemoveDevice, SetUser, SetGroup, SetPolicy and Advance tell
// whose view that changed; View gives a device's grants and routes, Groups what it is told of users, and Peers the devices that belong into its map. A Compiler is not safe
// for concurrent use; what View and Peers return stays valid and must not be changed.
//
//	c := compile.New(p, directory, now)
//	update := c.SetDevice(device)
//	for _, id := range update.Changed { // each gets a new statement
//		view := c.View(id)
//	}
//	// update.Gained and update.Lost: who now sees the device, and who no longer does
//	changed, next := c.Advance(now) // again at next, for windows that open and close
//
// Edges between devices are never written down one by one. Each side of a grant is a set of devices, one bit for each; a device's peers are
// the union of the sets opposite to those that it is in, and of those that carry the very same CIDR. So a network in which all reach all costs no
// more than any other.
//
// Explain says which grant allows something, or what is missing; Diff says in words what another policy would change, LockedOut whether it
// would cut everybody off from an address, and RunTests runs the tests of a policy.
//
//	directory.go  devices, users and groups
//	program.go    a policy, made ready to be matched
//	match.go      which devices, and which of their prefixes, a side of a grant has
//	change.go     changes, and whom they concern
//	view.go       what a device is told; bypeer.go: in fewer bytes; exit.go: what goes with exit nodes; groups.go: of users' groups
//	explain.go    why something is allowed or not
package compile

import (
	"iter"
	"time"

	"warren/coord/policy"
)

// Compiler holds a policy joined with a directory.
type Compiler struct {
	*directory
	*program
	now time.Time
	// members are the devices in each side of the program.
	members []*memberSet
	// ofUser are the selectors that select a user's devices as such, rising, for users that have devices.
	ofUser map[string][]int
	rules  interned[RuleSet]
	// inGroups is nil after groups changed.
	inGroups *grouped
	// minNamed is how many devices are named by bits, for ViewByPeer.
	minNamed int
}

// Update says what a change did.
type Update struct {
	// Changed are the devices whose View, Groups or Peers changed, in no particular order. Sometimes one is here that did not change after all.
	Changed []ID
	// Gained and Lost are filled for a change of one device: the devices that now see it and are seen by it, and those that no longer do.
	Gained, Lost []ID
}

// New compiles p for all of dir.
func New(p *policy.Policy, dir Directory, now time.Time) *Compiler {
	c := &Compiler{directory: newDirectory(dir), now: now, minNamed: defaultMinNamed}
	for i := range dir.Devices {
		c.put(c.newEntry(&dir.Devices[i]))
	}
	c.load(newProgram(p, now))
	return c
}

// load puts every device into the sides of a program.
func (c *Compiler) load(p *program) {
	c.program, c.ofUser, c.inGroups = p, map[string][]int{}, nil
	c.members = make([]*memberSet, len(p.sides))
	for i := range c.members {
		c.members[i] = new(memberSet)
	}
	for slot, e := range c.entries {
		if e == nil {
			continue
		}
		for _, s := range c.sidesOf(e) {
			c.members[s].set(slot)
		}
	}
}

// Policy is what is in force.
func (c *Compiler) Policy() *policy.Policy { return c.program.policy }

// Peers gives the devices that id may talk to or hear from, or that carry a CIDR that it carries, in no particular order.
func (c *Compiler) Peers(id ID) iter.Seq[ID] {
	slot, ok := c.slots[id]
	if !ok {
		return func(func(ID) bool) {}
	}
	return c.ids(c.peers(slot))
}

// Sees reports whether a and b are peers of each other.
func (c *Compiler) Sees(a, b ID) bool {
	x, okX := c.slots[a]
	y, okY := c.slots[b]
	if !okX || !okY || x == y {
		return false
	}
	for _, r := range c.program.rules {
		if r.active && (c.connects(r, x, y) || c.connects(r, y, x)) {
			return true
		}
	}
	return c.siblings(x, y)
}

// connects reports whether from is a source and to a destination of r.
func (c *Compiler) connects(r *rule, from, to int) bool {
	if !c.members[r.src].has(from) {
		return false
	}
	if r.self {
		u := c.entries[from].user
		return u != "" && u == c.entries[to].user
	}
	return c.members[r.dst].has(to)
}

// peers gives the slots of a device's peers.
func (c *Compiler) peers(slot int) bits {
	var out bits
	for _, r := range c.program.rules {
		if !r.active {
			continue
		}
		if c.members[r.src].has(slot) {
			c.addOpposite(&out, r, slot, true)
		}
		if r.self || c.members[r.dst].has(slot) {
			c.addOpposite(&out, r, slot, false)
		}
	}
	c.addSiblings(&out, slot)
	out.clear(slot)
	return out
}

// addOpposite adds the devices on the other side of r than slot, which is a source or not.
func (c *Compiler) addOpposite(out *bits, r *rule, slot int, source bool) {
	switch {
	case r.self:
		u := c.entries[slot].user
		if u == "" {
			return
		}
		for _, s := range c.owned[u] {
			if source || c.members[r.src].has(s) {
				out.set(s)
			}
		}
	case source:
		out.add(c.members[r.dst].bits)
	default:
		out.add(c.members[r.src].bits)
	}
}

func (c *Compiler) ids(b bits) iter.Seq[ID] {
	return func(yield func(ID) bool) {
		for slot := range b.all() {
			if !yield(c.entries[slot].ID) {
				return
			}
		}
	}
}
