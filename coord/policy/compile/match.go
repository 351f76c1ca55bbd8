package compile

import (
	"net/netip"
	"slices"

	"warren/coord/policy"
)

// memberSet is the devices in a side, with their prefixes once somebody asked for them.
type memberSet struct {
	bits
	list *prefixList
}

// selectorsOf gives the selectors that may have a part of e, by what they ask for.
func (c *Compiler) selectorsOf(e *entry) (out []int) {
	g := c.program
	use := func(i int) {
		if i >= 0 {
			out = append(out, i)
		}
	}
	find := func(m map[string]int, name string) {
		if i, ok := m[name]; ok {
			out = append(out, i)
		}
	}
	use(g.any)
	for _, t := range e.Tags {
		find(g.byTag, t)
	}
	if len(e.Tags) > 0 {
		use(g.tagged)
	}
	if e.user != "" {
		use(g.members)
		find(g.byUser, e.user)
		for _, name := range c.groupsOfUser(e.user) {
			find(g.byGroup, name)
		}
		if c.users[e.user].Admin {
			use(g.admins)
		}
	}
	if e.Exit {
		use(g.internet)
		out = append(out, g.public...)
	}
	return append(out, c.addressSelectors(e)...)
}

func (c *Compiler) addressSelectors(e *entry) (out []int) {
	if c.byAddress.Size() == 0 {
		return nil
	}
	for _, p := range e.own {
		for _, list := range c.byAddress.Supernets(p.Prefix) {
			out = append(out, list...)
		}
	}
	for _, p := range e.carried {
		for _, list := range c.byAddress.Supernets(p.Prefix) {
			out = append(out, list...)
		}
		for _, list := range c.byAddress.Subnets(p.Prefix) {
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
func (c *Compiler) sidesOf(e *entry) (out []int) {
	for _, i := range c.selectorsOf(e) {
		out = append(out, c.program.selectors[i].sides...)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return slices.DeleteFunc(out, func(i int) bool {
		s := &c.sides[i]
		return !s.meets(e) || len(c.parts(s, e)) == 0
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
			out = intersect(out, p.Prefix, sel.parts)
		}
		if through {
			out = c.carriedIn(out, e, sel.parts, destination)
		}
	case policy.Internet:
		if e.Exit && through {
			out = append(out, c.internetParts...)
		}
	case policy.Any:
		out = append(out, e.own...)
		if through {
			out = append(out, e.carried...)
			if e.Exit && destination {
				out = append(out, c.internetParts...)
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
		out = intersect(out, p.Prefix, prefixes)
	}
	if e.Exit && destination {
		for _, p := range prefixes {
			out = intersect(out, p.Prefix, c.internetParts)
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
	case policy.ByUser:
		return e.user != "" && e.user == sel.Name
	case policy.ByGroup:
		return e.user != "" && slices.Contains(c.groupsOfUser(e.user), sel.Name)
	case policy.ByTag:
		return slices.Contains(e.Tags, sel.Name)
	case policy.Members:
		return e.user != ""
	case policy.Tagged:
		return len(e.Tags) > 0
	case policy.Admins:
		return e.user != "" && c.users[e.user].Admin
	default:
		return false
	}
}

// contains reports whether one of parts contains a.
func contains(parts []part, a netip.Addr) bool {
	return slices.ContainsFunc(parts, func(p part) bool { return p.Contains(a) })
}
