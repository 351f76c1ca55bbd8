package compile

import (
	"net/netip"
	"slices"
	"strings"

	"warren/coord/policy"
)

// GroupsOf gives the groups that a user is in, those of the policy and those of sign-in, sorted.
func (c *Compiler) GroupsOf(user string) []string { return sortedUnique(c.groupsOfUser(user)) }

// Attrs gives the attributes that nodeAttrs give a device, sorted.
func (c *Compiler) Attrs(id ID) (out []string) {
	slot, ok := c.slots[id]
	if !ok {
		return nil
	}
	for _, a := range c.program.policy.NodeAttrs {
		if c.selects(a.Target, c.entries[slot]) {
			out = append(out, a.Attrs...)
		}
	}
	return sortedUnique(out)
}

// Approves gives what tells whether autoApprovers let a device, known or not, carry a CIDR without a person's approval. All addresses of a family are
// for those who may be exit nodes. It is good until c changes.
func (c *Compiler) Approves(d Device) func(route netip.Prefix) bool {
	e, p := c.newEntry(&d), c.program.policy
	return func(route netip.Prefix) bool {
		if route.Bits() == 0 {
			return c.selects(p.ExitApprover, e)
		}
		return slices.ContainsFunc(p.Approvers, func(a policy.RouteApprover) bool {
			return within(a.Route, route) && c.selects(a.By, e)
		})
	}
}

// Under gives a Compiler that answers Approves and MayTag as if p were in force, and nothing else. It is good until c changes.
func (c *Compiler) Under(p *policy.Policy) *Compiler {
	return &Compiler{directory: c.directory, program: newProgram(p, c.now), now: c.now}
}

// MayTag reports whether tagOwners let a user give a device a tag. Administrators may always.
func (c *Compiler) MayTag(user, tag string) bool {
	if c.users[user].Admin {
		return true
	}
	return c.selects(c.program.policy.TagOwners[strings.TrimPrefix(tag, "tag:")], c.newEntry(&Device{Owner: user}))
}

// selects reports whether one of selectors has a part of a device.
func (c *Compiler) selects(list []policy.Selector, e *entry) bool {
	return slices.ContainsFunc(list, func(s policy.Selector) bool {
		sel := selector{Selector: s, index: -1, parts: newParts(s.Prefixes)}
		return len(c.partsIn(nil, &sel, e, false, true)) > 0 || s.Kind == policy.Any || c.isA(&sel, e)
	})
}
