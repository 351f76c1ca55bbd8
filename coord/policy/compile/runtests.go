package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"warren/coord/policy"
)

// Failure is a test of a policy that does not hold.
type Failure struct {
	Test string // tests[2]
	At   policy.Position
	Text string
}

// String is the failure in one line.
func (f Failure) String() string {
	return fmt.Sprintf("%d:%d: %s: %s", f.At.Line, f.At.Column, f.Test, f.Text)
}

// RunTests runs the tests that p has, at now where a test does not say when. A test is about what the policy says, not about devices that there
// happen to be: its user is a device of that user whose posture is what the test says, its tag a device with that tag alone, and a CIDR lies behind
// a gateway that has all tags which grants ask for. Only an address of a device stands for that device.
func RunTests(p *policy.Policy, dir Directory, now time.Time) []Failure {
	c := New(p, dir, now)
	var out []Failure
	for i := range p.Tests {
		t := &trial{Compiler: c, test: &p.Tests[i], now: now}
		if !t.test.Time.IsZero() {
			t.now = t.test.Time
		}
		t.run()
		out = append(out, t.failures...)
	}
	return out
}

// trial is a test under way.
type trial struct {
	*Compiler
	test     *policy.Test
	now      time.Time
	failures []Failure
}

// maxFailures bounds the failures of one test.
const maxFailures = 20

func (t *trial) run() {
	sources := t.sources(t.test.Src)
	if len(sources) == 0 {
		t.fail(t.test.At, "%s has no users, so the test says nothing", t.test.Src.Text)
	}
	for _, src := range sources {
		for _, target := range t.test.Accept {
			t.accept(src, target)
		}
		for _, target := range t.test.Deny {
			t.deny(src, target)
		}
	}
}

func (t *trial) fail(at policy.Offset, format string, args ...any) {
	if len(t.failures) < maxFailures {
		t.failures = append(t.failures, Failure{t.test.ID, t.program.policy.Position(at), fmt.Sprintf(format, args...)})
	}
}

// actor is a device that a test supposes, with the address that counts.
type actor struct {
	*entry
	address netip.Addr
}

func (t *trial) accept(src actor, target policy.TestTarget) {
	for _, dst := range t.destinations(target.Dst, src) {
		allowed := t.allowed(src, dst)
		if slices.ContainsFunc(target.Flows, func(f policy.Flow) bool { return policy.FlowsContain(allowed, f) }) {
			continue
		}
		why := ""
		if m := t.nearest(src, dst, target.Flows[0]); m.Text != "" {
			why = fmt.Sprintf("; nearest is %s (line %d): %s", m.Grant, m.At.Line, m.Text)
		}
		t.fail(target.At, "%s must reach %s, and no grant lets it%s", src.Name, target.Text, why)
	}
}

func (t *trial) deny(src actor, target policy.TestTarget) {
	for _, dst := range t.destinations(target.Dst, src) {
		for _, r := range t.program.rules {
			m := t.judge(r, t.asked(src, dst, target.Flows[0]))
			if !onlyFlow(m) {
				continue
			}
			if slices.ContainsFunc(target.Flows, func(f policy.Flow) bool { return policy.FlowsOverlap(r.grant.Flows, f) }) {
				t.fail(target.At, "%s must not reach %s, and %s (line %d) lets it", src.Name, target.Text, m.Grant, m.At.Line)
				break
			}
		}
	}
}

// onlyFlow reports whether a grant lacks nothing but, perhaps, the port.
func onlyFlow(m Miss) bool {
	return len(m.Reasons) == 0 || len(m.Reasons) == 1 && m.Reasons[0] == NotFlow
}

func (t *trial) asked(src, dst actor, f policy.Flow) asked {
	return asked{src.entry, dst.entry, src.address, dst.address, f.Protocol, f.First, t.now}
}

// allowed gives all that src may send to dst.
func (t *trial) allowed(src, dst actor) (out []policy.Flow) {
	for _, r := range t.program.rules {
		if onlyFlow(t.judge(r, t.asked(src, dst, policy.Flow{}))) {
			out = append(out, r.grant.Flows...)
		}
	}
	return policy.NormalFlows(out)
}

func (t *trial) nearest(src, dst actor, f policy.Flow) (best Miss) {
	for _, r := range t.program.rules {
		m := t.judge(r, t.asked(src, dst, f))
		if best.Text == "" || m.weight() < best.weight() {
			best = m
		}
	}
	if slices.Contains(best.Reasons, NotSource) && slices.Contains(best.Reasons, NotDestination) {
		return Miss{}
	}
	return best
}

// nobody is the name of a user or tag that no policy can name.
const nobody = "*"

// suppose makes a device, with an address that nobody has.
func (t *trial) suppose(d Device, last byte) actor {
	a := netip.AddrFrom4([4]byte{192, 0, 2, last})
	d.Addresses = []netip.Addr{a}
	return actor{t.newEntry(&d), a}
}

// sources gives the devices that a test's source stands for, one of each kind.
func (t *trial) sources(s policy.Selector) (out []actor) {
	switch s.Kind {
	case policy.ByGroup:
		return t.groupSources(s)
	case policy.ByAddress:
		return t.addressActors(s, nil)
	default:
		a := t.supposed(s, 1)
		a.Facts = t.test.Facts
		return []actor{a}
	}
}

// groupSources gives one device for each kind of user in a group: those that the same selectors select are alike.
func (t *trial) groupSources(s policy.Selector) (out []actor) {
	seen := map[string]bool{}
	for _, u := range t.usersOf(s.Name) {
		a := t.suppose(Device{Name: u, Owner: u, Facts: t.test.Facts}, 1)
		key := fmt.Sprint(t.userSelectors(u))
		if !seen[key] {
			seen[key] = true
			out = append(out, a)
		}
	}
	return out
}

func (t *trial) usersOf(group string) []string {
	defined, ok := t.program.policy.Groups[group]
	if !ok {
		return t.groups[group]
	}
	out := slices.Clone(defined.Users)
	for _, f := range defined.Foreign {
		out = append(out, t.groups[f]...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// supposed gives a device for a selector that is not of a group or of addresses.
func (t *trial) supposed(s policy.Selector, last byte) actor {
	d := Device{Name: s.Text}
	switch s.Kind {
	case policy.ByUser:
		d.Owner = s.Name
	case policy.ByTag:
		d.Tags = []string{s.Name}
	case policy.Members:
		d.Owner = nobody
	case policy.Admins:
		d.Owner = nobody + "admin"
		t.users[d.Owner] = User{Admin: true}
	case policy.Tagged:
		d.Tags = []string{nobody}
	default:
	}
	return t.suppose(d, last)
}

// addressActors gives who has or carries the addresses of a selector.
func (t *trial) addressActors(s policy.Selector, tags []string) (out []actor) {
	for i, p := range s.Prefixes {
		if i == maxFailures { // sets may be large, and any part of them tells
			break
		}
		if e := t.owner(p.Addr()); e != nil && slices.Contains(e.Addresses, p.Addr()) {
			out = append(out, actor{e, p.Addr()})
			continue
		}
		a := t.suppose(Device{Name: s.Text, Routes: []netip.Prefix{p}, Tags: tags, Facts: t.test.Facts}, 3)
		a.address = p.Addr()
		out = append(out, a)
	}
	return out
}

func (t *trial) destinations(s policy.Selector, src actor) []actor {
	switch s.Kind {
	case policy.ByGroup:
		return t.groupSources(s)
	case policy.ByAddress:
		return t.addressActors(s, t.viaTags())
	case policy.Self:
		return []actor{t.suppose(Device{Name: s.Text, Owner: src.user}, 2)}
	case policy.Internet:
		a := t.suppose(Device{Name: s.Text, Exit: true, Tags: t.viaTags()}, 2)
		a.address = netip.AddrFrom4([4]byte{1, 1, 1, 1})
		return []actor{a}
	default:
		return []actor{t.supposed(s, 2)}
	}
}

// viaTags are all tags that grants ask for in via.
func (t *trial) viaTags() (out []string) {
	for i := range t.program.policy.Grants {
		out = append(out, t.program.policy.Grants[i].Via...)
	}
	return out
}

// LockedOut reports whether p would leave no device able to reach host, such as the coordinator's, where one can under old. host are its
// addresses, in the network or behind a gateway.
func LockedOut(old, p *policy.Policy, dir Directory, host []netip.Addr, now time.Time) bool {
	return New(old, dir, now).reachable(host) && !New(p, dir, now).reachable(host)
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
	slices.Sort(out)
	return slices.Compact(out)
}

// ApprovesRoute reports whether autoApprovers let a device, known or not, carry a CIDR without a person's approval.
func (c *Compiler) ApprovesRoute(d Device, route netip.Prefix) bool {
	e := c.newEntry(&d)
	return slices.ContainsFunc(c.program.policy.Approvers, func(a policy.RouteApprover) bool {
		return a.Route.Bits() <= route.Bits() && a.Route.Contains(route.Addr()) && c.selects(a.By, e)
	})
}

// ApprovesExit reports whether autoApprovers let a device be an exit node without a person's approval.
func (c *Compiler) ApprovesExit(d Device) bool {
	return c.selects(c.program.policy.ExitApprover, c.newEntry(&d))
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
