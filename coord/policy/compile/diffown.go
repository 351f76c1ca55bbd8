package compile

import (
	"maps"
	"slices"
)

// ownPoints are the points of a user's own addresses that are in one class.
type ownPoints struct {
	class         int
	points, slots bits
}

// ownFound is where a kind of change is found among the own devices of users.
type ownFound struct {
	// from gain or lose with respect to all other devices of their users, which to are.
	from, to ownPoints
	// some gain or lose with respect to some devices of their user only.
	some []ownPair
}

type ownPair struct{ from, to ownPoints }

// ownFlows is what the points of one class gain or lose on another of the same user.
type ownFlows struct {
	dst   *ownPoints
	flows flowSet // all of it
	extra flowSet // what is not noted for the classes as a whole
}

// compareUsers looks at what users gain and lose among their own devices only.
func (d *differ) compareUsers() {
	if !slices.ContainsFunc(d.worlds[:], func(c *Compiler) bool {
		return slices.ContainsFunc(c.program.rules, func(r *rule) bool { return r.self && r.active })
	}) {
		return
	}
	owned := d.worlds[0].owned
	pairs := 0
	for _, user := range slices.Sorted(maps.Keys(owned)) {
		if len(owned[user]) < 2 {
			continue
		}
		classes := d.ownClasses(owned[user])
		if pairs += len(classes) * len(classes); pairs > maxPairs {
			d.unseen = true
			return
		}
		for _, src := range classes {
			d.compareOwn(src, classes)
		}
	}
}

// ownClasses divides a user's own addresses by class.
func (d *differ) ownClasses(slots []int) (out []*ownPoints) {
	byClass := map[int]*ownPoints{}
	for _, slot := range slots {
		for _, i := range d.bySlot[slot] {
			p := d.points[i]
			if !p.own {
				continue
			}
			if byClass[p.class] == nil {
				byClass[p.class] = &ownPoints{class: p.class}
				out = append(out, byClass[p.class])
			}
			byClass[p.class].points.set(i)
			byClass[p.class].slots.set(slot)
		}
	}
	return out
}

func (o *ownPoints) clone() ownPoints {
	return ownPoints{o.class, slices.Clone(o.points), slices.Clone(o.slots)}
}

func (o *ownPoints) add(more *ownPoints) {
	o.points.add(more.points)
	o.slots.add(more.slots)
}

// compareOwn looks at what one of the classes of a user gains and loses on the others.
func (d *differ) compareOwn(src *ownPoints, classes []*ownPoints) {
	var gains, losses []ownFlows
	for _, dst := range classes {
		to := &ownPoints{dst.class, dst.points, dst.slots}
		if src.slots.count() == 1 { // a device and itself
			if to.slots = dst.slots.without(src.slots); to.slots.empty() {
				continue
			}
		}
		p := pair{src.class, dst.class}
		a, b := d.classes[p.src], d.classes[p.dst]
		was, is := d.allowed(0, a, b, true), d.allowed(1, a, b, true)
		gain, loss := ownFlows{dst: to, flows: is.without(was)}, ownFlows{dst: to, flows: was.without(is)}
		if a.user == "" || a.user != b.user {
			others, othersNow := d.allowed(0, a, b, false), d.allowed(1, a, b, false)
			gain.extra = d.besides(true, gain.flows, othersNow.without(others))
			loss.extra = d.besides(false, loss.flows, others.without(othersNow))
		} else if !d.seen[p] { // no rule but one for own devices changes, so that nobody looked at the classes
			gain.extra, loss.extra = gain.flows, loss.flows
		}
		gains, losses = append(gains, gain), append(losses, loss)
	}
	d.noteOwn(true, src, gains)
	d.noteOwn(false, src, losses)
}

// besides gives what is to be said of own devices that gain or lose flows where those of different users gain or lose others.
func (d *differ) besides(gain bool, flows, others flowSet) flowSet {
	if len(others.without(flows)) == 0 {
		return flows.without(others)
	}
	f, _ := d.kind(gain, others)
	d.aside[f] = true
	return flows
}

// noteOwn notes what the points of src gain or lose.
func (d *differ) noteOwn(gain bool, src *ownPoints, changes []ownFlows) {
	some := map[found]*ownPair{}
	for _, c := range changes {
		f, ok := d.kind(gain, c.extra)
		if !ok {
			continue
		}
		if d.own[f] == nil {
			d.own[f] = &ownFound{}
		}
		if pair := some[f]; pair != nil {
			pair.to.add(c.dst)
			continue
		}
		if slices.ContainsFunc(changes, func(o ownFlows) bool { return len(c.extra.without(o.flows)) > 0 }) {
			some[f] = &ownPair{src.clone(), c.dst.clone()}
			continue
		}
		d.own[f].from.add(src)
		d.own[f].to.add(c.dst)
	}
	for f, pair := range some {
		d.own[f].addSome(*pair)
	}
}

// addSome adds a pair, to one with the same destinations if there is one.
func (o *ownFound) addSome(p ownPair) {
	for i := range o.some {
		if slices.Equal(trim(o.some[i].to.points), trim(p.to.points)) {
			o.some[i].from.add(&p.from)
			o.some[i].to.slots.add(p.to.slots)
			return
		}
	}
	o.some = append(o.some, p)
}

// ownChanges puts what was found into words.
func (d *differ) ownChanges(f found, own *ownFound) (out []Change) {
	add := func(from, to ownPoints, what []string) {
		c := Change{Gain: f.gain, Who: d.names(f.gain, false).describe(from.points), What: what, Sources: from.slots.count(), Destinations: to.slots.count()}
		c.Flows, c.Except = d.flows[f.flows].words(d.protocols)
		out = append(out, c)
	}
	if !own.from.points.empty() {
		add(own.from, own.to, []string{"autogroup:self"})
	}
	for _, p := range own.some {
		add(p.from, p.to, d.names(f.gain, true).describe(p.to.points))
	}
	return out
}
