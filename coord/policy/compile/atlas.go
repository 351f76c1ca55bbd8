package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// atlas divides what devices have and carry into points, and points that no rule of two policies tells apart into classes.
type atlas struct {
	// worlds are of the same devices in the same slots; those in rerouted carry other routes in the one than in the other.
	worlds   [2]*Compiler
	rerouted bits

	points  []point
	classes []*class
	bySig   map[string]int
	inSide  [2][]bits // classes by side
	bySlot  map[int][]int
	atoms   map[int][]netip.Prefix // prefixes of a slot's points, if they were told apart
	tables  map[[2]bool]*nameTable
}

// point is addresses of a device, or behind it, that are in the same sides.
type point struct {
	slot     int
	prefixes []netip.Prefix
	class    int
	own      bool
}

// class is points in the same sides of both worlds.
type class struct {
	points, slots bits
	// user is the one whom all its devices belong to; empty if there are several, or none.
	user string
	// rules that have it as source and destination, and as source among the own devices.
	asSource, asDestination, asSelf [2]bits
}

func newAtlas(old, next *Compiler) *atlas {
	a := &atlas{
		worlds: [2]*Compiler{old, next}, bySig: map[string]int{}, bySlot: map[int][]int{}, atoms: map[int][]netip.Prefix{},
		tables: map[[2]bool]*nameTable{},
	}
	for w, c := range a.worlds {
		a.inSide[w] = make([]bits, len(c.sides))
	}
	for slot, e := range old.entries {
		if e != nil {
			a.addDevice(slot, [2]*entry{e, next.entries[slot]})
		}
	}
	return a
}

// inOrderOf is dir with its devices in the order in which other has them.
func (dir Directory) inOrderOf(other Directory) Directory {
	at := make(map[ID]int, len(dir.Devices))
	for i := range dir.Devices {
		at[dir.Devices[i].ID] = i
	}
	devices := make([]Device, len(other.Devices))
	for i := range other.Devices {
		devices[i] = dir.Devices[at[other.Devices[i].ID]]
	}
	dir.Devices = devices
	return dir
}

// sideRef is a side of one of the worlds.
type sideRef struct{ world, side int }

// addDevice divides a device, as it is in each world, into points.
func (a *atlas) addDevice(slot int, es [2]*entry) {
	var refs []sideRef
	partial := false
	for w, c := range a.worlds {
		partial = partial || !es[w].plain()
		for _, s := range c.sidesWith(slot) {
			refs = append(refs, sideRef{w, s})
			partial = partial || !c.whole(&c.sides[s], es[w])
		}
	}
	if !sameParts(es[0], es[1]) {
		a.rerouted.set(slot)
	}
	if !partial {
		a.addPoint(slot, prefixes(slices.Clone(es[0].own)), refs, true)
		return
	}
	has := make([][]netip.Prefix, len(refs))
	all := map[netip.Prefix]bool{}
	for _, e := range es { // what is in no side is told apart too, so that names do not promise it anything
		for _, p := range slices.Concat(e.own, e.carried, e.out) {
			all[p.Prefix] = true
		}
	}
	for i, r := range refs {
		c := a.worlds[r.world]
		has[i] = prefixes(apart(c.parts(&c.sides[r.side], es[r.world])))
		for _, p := range has[i] {
			all[p] = true
		}
	}
	a.atoms[slot] = slices.Collect(maps.Keys(all))
	a.addParts(slot, es[0], refs, has, all)
}

// addParts makes points of the prefixes that are in the same sides. A prefix stands for its addresses that are in no narrower one.
func (a *atlas) addParts(slot int, e *entry, refs []sideRef, has [][]netip.Prefix, all map[netip.Prefix]bool) {
	type group struct {
		refs     []sideRef
		prefixes []netip.Prefix
		own      bool
	}
	groups := map[string]*group{}
	for p := range all {
		var in []sideRef
		for i, r := range refs {
			if slices.ContainsFunc(has[i], func(h netip.Prefix) bool { return within(h, p) }) {
				in = append(in, r)
			}
		}
		own := p.IsSingleIP() && slices.Contains(e.Addresses, p.Addr())
		key := fmt.Sprint(own, in)
		if groups[key] == nil {
			groups[key] = &group{refs: in, own: own}
		}
		groups[key].prefixes = append(groups[key].prefixes, p)
	}
	for _, g := range groups {
		slices.SortFunc(g.prefixes, netip.Prefix.Compare)
		a.addPoint(slot, g.prefixes, g.refs, g.own)
	}
}

func (a *atlas) addPoint(slot int, list []netip.Prefix, refs []sideRef, own bool) {
	user := a.worlds[0].entries[slot].user
	key := fmt.Sprint(refs)
	i, ok := a.bySig[key]
	if !ok {
		i = len(a.classes)
		a.bySig[key] = i
		a.classes = append(a.classes, a.newClass(i, refs, user))
	}
	c := a.classes[i]
	if !own || c.user != user {
		c.user = ""
	}
	c.slots.set(slot)
	c.points.set(len(a.points))
	a.bySlot[slot] = append(a.bySlot[slot], len(a.points))
	a.points = append(a.points, point{slot, list, i, own})
}

func (a *atlas) newClass(i int, refs []sideRef, user string) *class {
	c := &class{user: user}
	for _, r := range refs {
		a.inSide[r.world][r.side].set(i)
		s := &a.worlds[r.world].sides[r.side]
		for _, rule := range s.asSource {
			switch {
			case !rule.active:
			case rule.self:
				c.asSelf[r.world].set(rule.index)
			default:
				c.asSource[r.world].set(rule.index)
			}
		}
		for _, rule := range s.asDestination {
			if rule.active {
				c.asDestination[r.world].set(rule.index)
			}
		}
	}
	return c
}

// title names a point for people.
func (a *atlas) title(p point) string {
	const most = 3
	e := a.worlds[0].entries[p.slot]
	texts, left := a.internetOf(p.prefixes)
	for i, n := range left {
		if i == most-1 && len(left) > most {
			texts = append(texts, fmt.Sprintf("%d more", len(left)-i))
			break
		}
		texts = append(texts, prefixText(n)+a.holes(p.slot, n))
	}
	joint := " behind "
	if p.own {
		joint = " of "
	}
	return strings.Join(texts, " and ") + joint + e.Name
}

// internetOf takes the public addresses of a family, if prefixes have all of them, out of prefixes, and gives a name for them.
func (a *atlas) internetOf(list []netip.Prefix) (names []string, left []netip.Prefix) {
	left = list
	for f, parts := range a.worlds[0].directory.internet {
		public := prefixes(parts)
		if slices.ContainsFunc(public, func(p netip.Prefix) bool { return !slices.Contains(left, p) }) {
			continue
		}
		left = slices.DeleteFunc(slices.Clone(left), func(p netip.Prefix) bool { return slices.Contains(public, p) })
		names = append(names, []string{"internet (IPv4)", "internet (IPv6)"}[f])
	}
	if len(names) == 2 {
		names = []string{"internet"}
	}
	return names, left
}

// holes names the narrower prefixes of a device that do not belong to n.
func (a *atlas) holes(slot int, n netip.Prefix) string {
	var inner []netip.Prefix
	for _, atom := range a.atoms[slot] {
		if atom != n && within(n, atom) {
			inner = append(inner, atom)
		}
	}
	inner = outermost(inner)
	switch {
	case len(inner) == 0:
		return ""
	case len(inner) > 2:
		return fmt.Sprintf(" without %d parts", len(inner))
	}
	var texts []string
	for _, h := range inner {
		texts = append(texts, prefixText(h))
	}
	return " without " + strings.Join(texts, ", ")
}

// outermost drops prefixes that lie in others.
func outermost(list []netip.Prefix) (out []netip.Prefix) {
	slices.SortFunc(list, netip.Prefix.Compare)
	for _, p := range list {
		if n := len(out); n == 0 || !out[n-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}

func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
