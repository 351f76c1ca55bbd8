package compile

import (
	"slices"

	"warren/coord/policy"
)

// memberSet is the devices in a side, with their prefixes, and those that are exit nodes, once somebody asked for them.
type memberSet struct {
	bits
	list  *prefixList
	exits *exitSet
}

// userSelectors gives the selectors that select the devices of a user as such, rising.
func (c *Compiler) userSelectors(user string) []int {
	if out, ok := c.ofUser[user]; ok || user == "" {
		return out
	}
	g := c.program
	out := []int{}
	if g.members >= 0 {
		out = append(out, g.members)
	}
	if c.users[user].Admin && g.admins >= 0 {
		out = append(out, g.admins)
	}
	if i, ok := g.byUser[user]; ok {
		out = append(out, i)
	}
	for _, name := range c.groupsOfUser(user) {
		if i, ok := g.byGroup[name]; ok {
			out = append(out, i)
		}
	}
	out = sortedUnique(out)
	if len(c.owned[user]) > 0 {
		c.ofUser[user] = out
	}
	return out
}

// certainSelectors are those that select e for what it is, with all its addresses.
func (c *Compiler) certainSelectors(e *entry) []int {
	g := c.program
	out := slices.Clone(c.userSelectors(e.user))
	for _, t := range e.Tags {
		if i, ok := g.byTag[t]; ok {
			out = append(out, i)
		}
	}
	if len(e.Tags) > 0 && g.tagged >= 0 {
		out = append(out, g.tagged)
	}
	if g.any >= 0 {
		out = append(out, g.any)
	}
	return out
}

// addressSelectors are those that select some of the addresses that e has or carries; some come twice.
func (c *Compiler) addressSelectors(e *entry) (out []int) {
	g := c.program
	if e.Exit {
		out = append(out, g.public...)
		if g.internet >= 0 {
			out = append(out, g.internet)
		}
	}
	if g.byAddress.Size() == 0 {
		return out
	}
	for _, p := range e.own {
		for _, list := range g.byAddress.Supernets(p.Prefix) {
			out = append(out, list...)
		}
	}
	for _, p := range e.carried {
		for _, list := range g.byAddress.Supernets(p.Prefix) {
			out = append(out, list...)
		}
		for _, list := range g.byAddress.Subnets(p.Prefix) {
			out = append(out, list...)
		}
	}
	return out
}

// groupsOfUser gives the groups that a user is in, some of them twice.
func (c *Compiler) groupsOfUser(user string) []string {
	out := slices.Clone(c.groupsOf[user])
	for _, name := range c.signIn[user] {
		if _, defined := c.program.policy.Groups[name]; !defined {
			out = append(out, name)
		}
		out = append(out, c.foreign[name]...)
	}
	return out
}

// sidesOf gives the sides that e is in, rising.
func (c *Compiler) sidesOf(e *entry) []int {
	certain := c.sidesWithAny(c.certainSelectors(e))
	maybe := c.sidesWithAny(c.addressSelectors(e))
	if len(e.own) == 0 {
		certain, maybe = nil, append(maybe, certain...)
	}
	for _, i := range maybe {
		if _, ok := slices.BinarySearch(certain, i); !ok && len(c.parts(&c.sides[i], e)) > 0 {
			certain = append(certain, i)
			slices.Sort(certain) // rare
		}
	}
	return slices.DeleteFunc(certain, func(i int) bool { return !c.sides[i].meets(e) })
}

// sidesWithAny gives the sides that have one of selectors, rising.
func (c *Compiler) sidesWithAny(selectors []int) (out []int) {
	for _, i := range selectors {
		out = append(out, c.program.selectors[i].sides...)
	}
	return sortedUnique(out)
}

// plain reports whether e has nothing but its own addresses.
func (e *entry) plain() bool { return len(e.behind) == 0 }

// whole reports whether e, which is in a side, is so with all its addresses.
func (c *Compiler) whole(s *side, e *entry) bool {
	return !s.partial || slices.ContainsFunc(s.selectors, func(i int) bool {
		sel := &c.program.selectors[i]
		return sel.Kind == policy.Any || c.isA(sel, e)
	})
}

// meets reports whether a device meets one of the postures that a side asks for.
func (s *side) meets(e *entry) bool {
	return len(s.postures) == 0 || slices.ContainsFunc(s.postures, func(p policy.Posture) bool {
		return !slices.ContainsFunc(p.Conditions, func(c policy.Condition) bool { return !c.Holds(e.Facts) })
	})
}

// parts gives the prefixes with which e is in a side, unsorted.
func (c *Compiler) parts(s *side, e *entry) (out []part) {
	through := !s.destination || s.through(e)
	for _, i := range s.selectors {
		out = c.partsIn(out, &c.program.selectors[i], e, s.destination, through)
	}
	return out
}

// partsIn appends the prefixes with which e is in a selector; those that it carries only if through.
func (c *Compiler) partsIn(out []part, sel *selector, e *entry, destination, through bool) []part {
	switch sel.Kind {
	case policy.ByAddress:
		for _, p := range e.own {
			out = intersect(out, p, sel.parts)
		}
		if through {
			out = c.carriedIn(out, e, sel.parts, destination)
		}
	case policy.Internet:
		if through {
			out = append(out, e.out...)
		}
	case policy.Any:
		out = append(out, e.own...)
		if through {
			out = append(out, e.carried...)
			if destination {
				out = append(out, e.out...)
			}
		}
	default:
		if c.isA(sel, e) {
			out = append(out, e.own...)
		}
	}
	return out
}

// carriedIn appends what e carries of prefixes.
func (c *Compiler) carriedIn(out []part, e *entry, prefixes []part, destination bool) []part {
	for _, p := range e.carried {
		out = intersect(out, p, prefixes)
	}
	if e.Exit && destination {
		for _, p := range prefixes {
			out = intersect(out, p, e.out)
		}
	}
	return out
}

// through reports whether a destination behind e may be reached through it.
func (s *side) through(e *entry) bool {
	return len(s.via) == 0 || slices.ContainsFunc(s.via, func(t string) bool { return slices.Contains(e.Tags, t) })
}

// isA reports whether e is what a selector of users or tags asks for.
func (c *Compiler) isA(sel *selector, e *entry) bool {
	switch sel.Kind {
	case policy.ByTag:
		return slices.Contains(e.Tags, sel.Name)
	case policy.Tagged:
		return len(e.Tags) > 0
	case policy.ByUser, policy.ByGroup, policy.Members, policy.Admins:
		if e.user == "" {
			return false
		}
	default:
		return false
	}
	if sel.index >= 0 {
		_, ok := slices.BinarySearch(c.userSelectors(e.user), sel.index)
		return ok
	}
	switch sel.Kind {
	case policy.ByUser:
		return e.user == sel.Name
	case policy.ByGroup:
		return slices.Contains(c.groupsOfUser(e.user), sel.Name)
	case policy.Admins:
		return c.users[e.user].Admin
	default:
		return true
	}
}
