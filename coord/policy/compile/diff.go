package compile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"warren/coord/policy"
)

// Change is who gains or loses what.
type Change struct {
	Gain bool
	// Who and What are names as a policy has them, such as group:eng, ann, tag:web or 10.0.0.0/8; where none fits, "device NAME",
	// "CIDR behind NAME", and at last "and 12 more". What is autogroup:self where each user gains or loses among the own devices.
	Who, What []string
	Flows     []policy.Flow
	// Except is what of Flows, which then is everything, does not change.
	Except []policy.Flow
	// OwnAside says that devices of one user do not change so with respect to each other: a grant to autogroup:self makes up for it.
	OwnAside bool
	// Sources and Destinations count devices.
	Sources, Destinations int
}

// String is the change in words.
func (c Change) String() string {
	verb := "loses"
	if c.Gain {
		verb = "gains"
	}
	flows := flowTexts(c.Flows)
	if len(c.Except) > 0 {
		flows += " except " + flowTexts(c.Except)
	}
	text := fmt.Sprintf("%s (%s) %s %s on %s (%s)", strings.Join(c.Who, ", "), count(c.Sources), verb, flows,
		strings.Join(c.What, ", "), count(c.Destinations))
	if c.OwnAside {
		text += ", own devices aside"
	}
	return text
}

func count(n int) string {
	if n == 1 {
		return "1 device"
	}
	return fmt.Sprintf("%d devices", n)
}

// Difference is what another policy would change.
type Difference struct {
	Changes []Change // gains first, and those of many devices before those of few
	// More counts changes that were left out.
	More int
	// Unseen says that there were too many kinds of devices to compare them all.
	Unseen bool
}

// String gives a line for each change.
func (d Difference) String() string {
	var b strings.Builder
	for _, c := range d.Changes {
		b.WriteString(c.String() + "\n")
	}
	if d.More > 0 {
		fmt.Fprintf(&b, "and %d more changes\n", d.More)
	}
	if d.Unseen {
		b.WriteString("and perhaps more, for there are too many kinds of devices to compare them all\n")
	}
	if len(d.Changes) == 0 && !d.Unseen {
		b.WriteString("no device gains or loses anything\n")
	}
	return b.String()
}

// Bounds on a difference: what is compared, and what is told.
const (
	maxPairs   = 300_000
	maxChanges = 100
)

// Diff tells who of dir would gain and who would lose which ports on what if next took the place of old, both as they hold at now. under is dir as it
// would be then: the same devices, which may carry other routes. It goes by what devices may do in the end: a grant that moves, or that others make
// up for, is no change. ExitDNS goes with the internet and is not told of.
func Diff(old, next *policy.Policy, dir, under Directory, now time.Time) Difference {
	d := &differ{
		atlas: newAtlas(New(old, dir, now), New(next, under.inOrderOf(dir), now)), byRules: map[string]flowSet{}, flows: map[string]flowSet{},
		found: map[found]map[int]bits{}, own: map[found]*ownFound{}, aside: map[found]bool{},
		seen: map[pair]bool{},
	}
	for w, c := range d.worlds {
		d.byKey[w] = map[string]*rule{}
		for _, r := range c.program.rules {
			if r.active {
				d.byKey[w][r.key] = r
			}
		}
	}
	d.protocols = mentioned(d.worlds[0].program, d.worlds[1].program)
	d.comparePairs()
	d.compareUsers()
	return d.difference()
}

// differ compares what classes of an atlas may send to each other.
type differ struct {
	*atlas
	byKey     [2]map[string]*rule // active rules
	protocols []uint8
	byRules   map[string]flowSet // what rules together allow
	flows     map[string]flowSet // by their texts
	// found are classes of sources by class of destinations.
	found map[found]map[int]bits
	own   map[found]*ownFound // the same among the own devices of users
	aside map[found]bool      // changes that are none among the own devices of somebody
	seen  map[pair]bool
	// unseen says that maxPairs was reached.
	unseen bool
}

// found is a kind of change.
type found struct {
	gain  bool
	flows string
}

// pair is a class of sources and one of destinations.
type pair struct{ src, dst int }

// comparePairs looks at all pairs to which a rule applies that both policies do not share.
func (d *differ) comparePairs() {
	for w, c := range d.worlds {
		for _, r := range c.program.rules {
			if r.active && !r.self && !d.shared(w, r) {
				d.compareSides(d.inSide[w][r.src], d.inSide[w][r.dst])
			}
		}
	}
}

func (d *differ) compareSides(srcs, dsts bits) {
	for src := range srcs.all() {
		for dst := range dsts.all() {
			p := pair{src, dst}
			if d.seen[p] {
				continue
			}
			if len(d.seen) == maxPairs {
				d.unseen = true
				return
			}
			d.seen[p] = true
			d.comparePair(p)
		}
	}
}

// shared reports whether the other world has a rule that does the same as r of world w.
func (d *differ) shared(w int, r *rule) bool {
	c, other := d.worlds[w], d.worlds[1-w]
	o := d.byKey[1-w][r.key]
	same := func(side, others int) bool {
		members := c.members[side].bits
		return slices.Equal(trim(members), trim(other.members[others].bits)) && !members.meets(d.rerouted)
	}
	return o != nil && same(r.src, o.src) && (r.self || same(r.dst, o.dst))
}

func trim(b bits) bits {
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return b
}

func (d *differ) comparePair(p pair) {
	src, dst := d.classes[p.src], d.classes[p.dst]
	if src.slots.count() == 1 && slices.Equal(trim(src.slots), trim(dst.slots)) {
		return // a device and itself
	}
	own := src.user != "" && src.user == dst.user
	was, is := d.allowed(0, src, dst, own), d.allowed(1, src, dst, own)
	d.note(true, is.without(was), p)
	d.note(false, was.without(is), p)
}

// allowed gives what a class may send to another in a world; own says that they are of one user.
func (d *differ) allowed(w int, src, dst *class, own bool) flowSet {
	rules := make(bits, len(src.asSource[w]))
	for i := range rules {
		if i < len(dst.asDestination[w]) {
			rules[i] = src.asSource[w][i] & dst.asDestination[w][i]
		}
	}
	if own {
		rules.add(src.asSelf[w])
	}
	rules = trim(rules)
	key := fmt.Sprint(w, rules)
	if out, ok := d.byRules[key]; ok {
		return out
	}
	var flows []policy.Flow
	for i := range rules.all() {
		flows = append(flows, d.worlds[w].program.rules[i].grant.Flows...)
	}
	d.byRules[key] = newFlowSet(flows, d.protocols)
	return d.byRules[key]
}

// kind gives the kind of change that flows are; ok is false if there are none.
func (d *differ) kind(gain bool, flows flowSet) (f found, ok bool) {
	if len(flows) == 0 {
		return f, false
	}
	f = found{gain, fmt.Sprint(flows)}
	d.flows[f.flows] = flows
	return f, true
}

func (d *differ) note(gain bool, flows flowSet, p pair) {
	f, ok := d.kind(gain, flows)
	if !ok {
		return
	}
	byDst := d.found[f]
	if byDst == nil {
		byDst = map[int]bits{}
		d.found[f] = byDst
	}
	sources := byDst[p.dst]
	sources.set(p.src)
	byDst[p.dst] = sources
}

// difference puts what was found into words.
func (d *differ) difference() Difference {
	out := Difference{Unseen: d.unseen}
	for f, byDst := range d.found {
		// Destinations with the same sources go together.
		bySources := map[string][]int{}
		for _, dst := range slices.Sorted(maps.Keys(byDst)) {
			key := fmt.Sprint(trim(byDst[dst]))
			bySources[key] = append(bySources[key], dst)
		}
		for _, dsts := range bySources {
			out.Changes = append(out.Changes, d.change(f, byDst[dsts[0]], dsts))
		}
	}
	for f, own := range d.own {
		out.Changes = append(out.Changes, d.ownChanges(f, own)...)
	}
	slices.SortFunc(out.Changes, func(a, b Change) int {
		if a.Gain != b.Gain {
			return map[bool]int{true: -1, false: 1}[a.Gain]
		}
		return cmp.Or(cmp.Compare(b.Sources*b.Destinations, a.Sources*a.Destinations), strings.Compare(a.String(), b.String()))
	})
	if n := len(out.Changes); n > maxChanges {
		out.Changes, out.More = out.Changes[:maxChanges], out.More+n-maxChanges
	}
	return out
}

func (d *differ) change(f found, srcs bits, dsts []int) Change {
	c := Change{Gain: f.gain, OwnAside: d.aside[f]}
	c.Flows, c.Except = d.flows[f.flows].words(d.protocols)
	var from, to, fromSlots, toSlots bits
	for i := range srcs.all() {
		from.add(d.classes[i].points)
		fromSlots.add(d.classes[i].slots)
	}
	for _, i := range dsts {
		to.add(d.classes[i].points)
		toSlots.add(d.classes[i].slots)
	}
	c.Who, c.What = d.names(f.gain, false).describe(from), d.names(f.gain, true).describe(to)
	c.Sources, c.Destinations = fromSlots.count(), toSlots.count()
	return c
}
