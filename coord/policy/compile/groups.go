package compile

import (
	"maps"
	"slices"

	pb "warren/proto/warrenv1"
)

// GroupSet says which groups users are in, sorted by user. Devices that see the same users share one.
type GroupSet struct{ Users []*pb.UserGroups }

// grouped are the users that are in groups, sorted, and what is told of each.
type grouped struct {
	users []string
	told  []*pb.UserGroups
	// sets are by users, seen by devices that are seen: that many look up what one has found.
	sets, seen interned[GroupSet]
	// place is where the user of a device is, by slot and counted from 1; 0: in no group. It and seen are good as long as nothing passed.
	place  []int32
	passed uint64
}

// Groups gives the groups of the users of id and of its peers, for services there that authorise by them. Like a View it changes for devices in
// Update.Changed only. A device that has tags belongs to them, so its owner does not count.
func (c *Compiler) Groups(id ID) *GroupSet {
	slot, ok := c.slots[id]
	g := c.grouped()
	if !ok || len(g.told) == 0 {
		return new(GroupSet)
	}
	seen := c.peers(slot)
	seen.set(slot)
	hash := seen.sum()
	if found := g.seen.find(hash); found != nil {
		return found
	}
	return g.seen.share(hash, g.setOf(g.usersOf(seen)))
}

// find notes whose users the devices are.
func (g *grouped) find(d *directory) {
	g.place, g.seen, g.passed = make([]int32, len(d.entries)), interned[GroupSet]{}, d.passed
	for i, u := range g.users {
		for _, slot := range d.owned[u] {
			g.place[slot] = int32(i + 1)
		}
	}
}

// usersOf gives the places of those whose devices are seen.
func (g *grouped) usersOf(seen bits) (which bits) {
	for slot := range seen.all() {
		if i := g.place[slot]; i > 0 {
			which.set(int(i - 1))
		}
	}
	return which
}

// setOf gives the set of these users.
func (g *grouped) setOf(which bits) *GroupSet {
	hash := which.sum()
	if found := g.sets.find(hash); found != nil {
		return found
	}
	set := new(GroupSet)
	for i := range which.all() {
		set.Users = append(set.Users, g.told[i])
	}
	return g.sets.share(hash, set)
}

// grouped gives what is known of users in groups, until groups change.
func (c *Compiler) grouped() *grouped {
	if c.inGroups == nil {
		g := new(grouped)
		for _, u := range c.usersInGroups() {
			told := &pb.UserGroups{User: u}
			for _, name := range sortedUnique(c.groupsOfUser(u)) {
				told.Groups = append(told.Groups, "group:"+name)
			}
			if len(told.Groups) > 0 {
				g.users, g.told = append(g.users, u), append(g.told, told)
			}
		}
		c.inGroups = g
	}
	if g := c.inGroups; g.place == nil || g.passed != c.passed {
		g.find(c.directory)
	}
	return c.inGroups
}

// usersInGroups gives users, sorted, among them all that are in groups.
func (c *Compiler) usersInGroups() []string {
	var out []string
	for u, groups := range c.signIn {
		if len(groups) > 0 {
			out = append(out, u)
		}
	}
	return sortedUnique(slices.AppendSeq(out, maps.Keys(c.groupsOf)))
}

// regrouped is for users that are in other groups than before.
func (n *concern) regrouped(users []string) {
	for _, u := range users {
		for _, slot := range n.owned[u] {
			n.hit.add(n.peers(slot))
			n.hit.set(slot)
		}
	}
}

// regroupedSince finds the users that a program puts into other groups than the former one did.
func (c *Compiler) regroupedSince(old *program) []string {
	was := &Compiler{directory: c.directory, program: old}
	users := slices.Concat(was.usersInGroups(), c.usersInGroups())
	return slices.DeleteFunc(sortedUnique(users), func(u string) bool {
		return slices.Equal(sortedUnique(was.groupsOfUser(u)), sortedUnique(c.groupsOfUser(u)))
	})
}
