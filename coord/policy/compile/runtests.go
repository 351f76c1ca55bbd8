package compile

import (
	"fmt"
	"net/netip"
	"slices"
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
		if near := t.near(src, dst, target.Flows[0]); len(near) > 0 {
			why = fmt.Sprintf("; nearest is %s (line %d): %s", near[0].Grant, near[0].At.Line, near[0].Text)
		}
		t.fail(target.At, "%s must reach %s, and no grant lets it%s", src.Name, target.Text, why)
	}
}

func (t *trial) deny(src actor, target policy.TestTarget) {
	for _, dst := range t.destinations(target.Dst, src) {
		for _, r := range t.program.rules {
			if t.judge(r, t.asked(src, dst, target.Flows[0]))&^missFlow != 0 {
				continue
			}
			if slices.ContainsFunc(target.Flows, func(f policy.Flow) bool { return policy.FlowsOverlap(r.grant.Flows, f) }) {
				t.fail(target.At, "%s must not reach %s, and %s (line %d) lets it", src.Name, target.Text, r.grant.ID,
					t.program.policy.Position(r.grant.At).Line)
				break
			}
		}
	}
}

func (t *trial) asked(src, dst actor, f policy.Flow) asked {
	return asked{src.entry, dst.entry, src.address, dst.address, f, t.now}
}

// allowed gives all that src may send to dst.
func (t *trial) allowed(src, dst actor) (out []policy.Flow) {
	for _, r := range t.program.rules {
		if t.judge(r, t.asked(src, dst, policy.Flow{}))&^missFlow == 0 {
			out = append(out, r.grant.Flows...)
		}
	}
	return policy.NormalFlows(out)
}

// near gives the grants that come closest to letting src reach dst.
func (t *trial) near(src, dst actor, f policy.Flow) []Miss {
	var far []verdict
	for _, r := range t.program.rules {
		q := t.asked(src, dst, f)
		far = append(far, verdict{r, q, t.judge(r, q)})
	}
	return t.Compiler.nearest(far)
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
	return sortedUnique(out)
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
		if es := t.owners(p.Addr()); len(es) > 0 && slices.Contains(es[0].Addresses, p.Addr()) {
			out = append(out, actor{es[0], p.Addr()})
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
