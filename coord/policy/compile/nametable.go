package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"warren/coord/policy"
)

// nameTable knows which points the names of a policy stand for.
type nameTable struct {
	atlas *atlas
	names []named
	index map[string]int  // of names, by text
	of    [][]int         // names by point
	used  map[string]bool // texts that the policies have
}

// named is a name with all points that it stands for.
type named struct {
	text   string
	rank   int // among those that say as much, lower ones come first
	points []int
	strays bool // it stands for a part of some point, too
}

// names gives the table of the policy in which a change is there: that of the next one for a gain.
func (a *atlas) names(gain, destination bool) *nameTable {
	key := [2]bool{gain, destination}
	if t := a.tables[key]; t != nil {
		return t
	}
	c := a.worlds[0]
	if gain {
		c = a.worlds[1]
	}
	t := &nameTable{atlas: a, of: make([][]int, len(a.points)), index: map[string]int{}, used: map[string]bool{}}
	for _, w := range a.worlds {
		for i := range w.program.selectors {
			t.used[w.program.selectors[i].Text] = true
		}
	}
	for i, p := range a.points {
		for _, s := range c.namesFor(c.entries[p.slot], destination) {
			t.add(i, c.partsIn(nil, s, c.entries[p.slot], destination, true), s)
		}
	}
	a.tables[key] = t
	return t
}

// add notes that a selector has parts of the device of a point.
func (t *nameTable) add(i int, parts []part, s *selector) {
	n, ok := t.index[s.Text]
	if !ok {
		n = len(t.names)
		t.index[s.Text] = n
		t.names = append(t.names, named{text: s.Text, rank: rank(s.Kind, t.used[s.Text])})
	}
	switch p := t.atlas.points[i]; {
	case hasAll(parts, p.prefixes):
		t.names[n].points = append(t.names[n].points, i)
		t.of[i] = append(t.of[i], n)
	case t.atlas.hasSome(parts, p):
		t.names[n].strays = true
	}
}

// namesFor gives the names that a person may know for a device and what it carries: those that grants have, and all groups, tags and users.
func (c *Compiler) namesFor(e *entry, destination bool) (out []*selector) {
	add := func(k policy.Kind, name, text string) {
		out = append(out, &selector{Selector: policy.Selector{Kind: k, Name: name, Text: text}, index: -1})
	}
	add(policy.Any, "", "*")
	if e.Exit && destination {
		add(policy.Internet, "", "autogroup:internet")
	}
	for _, t := range e.Tags {
		add(policy.ByTag, t, "tag:"+t)
	}
	if len(e.Tags) > 0 {
		add(policy.Tagged, "", "autogroup:tagged")
	}
	if e.user != "" {
		add(policy.ByUser, e.user, e.user)
		add(policy.Members, "", "autogroup:member")
		if c.users[e.user].Admin {
			add(policy.Admins, "", "autogroup:admin")
		}
		for _, g := range sortedUnique(c.groupsOfUser(e.user)) {
			add(policy.ByGroup, g, "group:"+g)
		}
	}
	for _, i := range sortedUnique(c.addressSelectors(e)) {
		if sel := &c.program.selectors[i]; sel.Kind == policy.ByAddress {
			out = append(out, sel)
		}
	}
	return out
}

// hasAll reports whether parts have all of prefixes.
func hasAll(parts []part, list []netip.Prefix) bool {
	return len(list) > 0 && !slices.ContainsFunc(list, func(n netip.Prefix) bool {
		return !slices.ContainsFunc(parts, func(h part) bool { return within(h.Prefix, n) })
	})
}

// hasSome reports whether parts have some of a point: what lies in a narrower prefix of the device belongs to another one.
func (a *atlas) hasSome(parts []part, p point) bool {
	return slices.ContainsFunc(p.prefixes, func(n netip.Prefix) bool {
		return slices.ContainsFunc(parts, func(h part) bool {
			return h.Overlaps(n) && !slices.ContainsFunc(a.atoms[p.slot], func(atom netip.Prefix) bool {
				return atom != n && within(n, atom) && within(atom, h.Prefix)
			})
		})
	})
}

// rank puts names that say most first, and those that the policies have before all others, for they mean most to those who read them.
func rank(k policy.Kind, used bool) int {
	order := []policy.Kind{
		policy.Any, policy.Internet, policy.ByGroup, policy.ByTag, policy.Members, policy.Tagged, policy.ByUser, policy.Admins, policy.ByAddress,
	}
	n := slices.Index(order, k)
	if !used {
		n += len(order)
	}
	return n
}

// maxNames bounds how many names describe a set.
const maxNames = 8

// describe names a set of points: by names that stand for nothing else, the largest first, and what is left one by one.
func (t *nameTable) describe(set bits) (out []string) {
	var fits []int
	tried := map[int]bool{}
	for p := range set.all() {
		for _, i := range t.of[p] {
			if !tried[i] {
				tried[i] = true
				if !t.names[i].strays && !slices.ContainsFunc(t.names[i].points, func(q int) bool { return !set.has(q) }) {
					fits = append(fits, i)
				}
			}
		}
	}
	slices.SortFunc(fits, func(x, y int) int {
		a, b := t.names[x], t.names[y]
		return cmp.Or(cmp.Compare(len(b.points), len(a.points)), cmp.Compare(a.rank, b.rank), strings.Compare(a.text, b.text))
	})
	left := slices.Clone(set)
	for _, i := range fits {
		if !slices.ContainsFunc(t.names[i].points, left.has) {
			continue
		}
		if len(out) == maxNames {
			break
		}
		out = append(out, t.names[i].text)
		for _, p := range t.names[i].points {
			left.clear(p)
		}
	}
	slices.Sort(out)
	return t.atlas.describeEach(out, left)
}

// describeEach appends points one by one, those of all addresses of a device together.
func (a *atlas) describeEach(out []string, left bits) []string {
	for i := range left.all() {
		if !left.has(i) {
			continue // one of a device
		}
		if len(out) >= maxNames {
			return append(out, fmt.Sprintf("and %d more", left.count()))
		}
		p := a.points[i]
		own := slices.DeleteFunc(slices.Clone(a.bySlot[p.slot]), func(q int) bool { return !a.points[q].own })
		if p.own && !slices.ContainsFunc(own, func(q int) bool { return !left.has(q) }) {
			out = append(out, "device "+a.worlds[0].entries[p.slot].Name)
			for _, q := range own {
				left.clear(q)
			}
			continue
		}
		left.clear(i)
		out = append(out, a.title(p))
	}
	return out
}
