package compile

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"warren/coord/policy"
)

// End is one end of a flow. A device without an address stands for its own ones; an address without a device for whoever has or carries it.
type End struct {
	Device  ID
	Address netip.Addr
}

// Question asks about a new flow.
type Question struct {
	Src, Dst End
	Protocol uint8
	Port     uint16 // of the destination; of protocols without ports it does not count
}

// Reason is a part of a grant that is not met.
type Reason string

// The reasons.
const (
	NotSource      Reason = "source"      // src does not name the source
	NotDestination Reason = "destination" // dst does not name the destination
	NotFlow        Reason = "flow"        // ip does not hold protocol and port
	NotSameUser    Reason = "user"        // autogroup:self, and the devices are not of one user
	NotNow         Reason = "time"        // outside of its windows, or expired
	NotPosture     Reason = "posture"     // the source meets none of the postures
	NotVia         Reason = "via"         // the destination lies behind a gateway that has none of the tags
)

// Miss is a grant that does not allow a flow.
type Miss struct {
	Grant   string // its ID
	At      policy.Position
	Reasons []Reason
	Text    string // in words, without the grant
}

// Subject is an end as it was found.
type Subject struct {
	End
	Name, User string
	Tags       []string
	Known      bool // there is such a device
}

// Answer says whether a flow is allowed, by which grant, or which grants come closest.
type Answer struct {
	Allowed  bool
	Grant    string
	At       policy.Position
	Src, Dst Subject
	Question Question
	// Nearest are grants of which the fewest parts are missing, best first.
	Nearest []Miss
}

// maxNearest bounds Answer.Nearest.
const maxNearest = 5

// Explain says why a new flow is allowed at now, or what is missing.
func (c *Compiler) Explain(q Question, now time.Time) Answer {
	a := Answer{Question: q, Src: Subject{End: q.Src}, Dst: Subject{End: q.Dst}}
	sources, destinations := c.find(q.Src), c.find(q.Dst)
	if len(sources) > 0 {
		a.Src = subject(sources[0], q.Src, q.Dst.Address)
	}
	if len(destinations) > 0 {
		a.Dst = subject(destinations[0], q.Dst, a.Src.Address)
	}
	var far []verdict
	for _, src := range sources {
		for _, dst := range destinations {
			if src == dst {
				continue
			}
			to := subject(dst, q.Dst, q.Src.Address)
			from := subject(src, q.Src, to.Address)
			ask := asked{src, dst, from.Address, to.Address, q.flow(), now}
			for _, r := range c.program.rules {
				v := verdict{r, ask, c.judge(r, ask)}
				if v.missing == 0 {
					a.allowed(r.grant.ID, c.program.policy.Position(r.grant.At), from, to)
					return a
				}
				far = append(far, v)
			}
			for _, r := range c.program.rules {
				if c.allowsExitDNS(r, ask) {
					a.allowed(ExitDNS, c.program.policy.Position(r.grant.At), from, to)
					return a
				}
			}
		}
	}
	a.Nearest = c.nearest(far)
	return a
}

func (a *Answer) allowed(by string, at policy.Position, src, dst Subject) {
	a.Allowed, a.Grant, a.At, a.Src, a.Dst = true, by, at, src, dst
}

// verdict is what of a rule is missing for what was asked.
type verdict struct {
	rule    *rule
	asked   asked
	missing missing
}

// nearest gives the grants that come closest, each once: those from the source to the destination if there are any, else those that at least
// have one of them.
func (c *Compiler) nearest(far []verdict) (out []Miss) {
	slices.SortStableFunc(far, func(x, y verdict) int { return cmp.Compare(x.missing.weight(), y.missing.weight()) })
	for _, v := range far {
		elsewhere := v.missing & (missSource | missDestination)
		if elsewhere == missSource|missDestination || elsewhere != 0 && far[0].missing.weight() < farOff || len(out) == maxNearest {
			break
		}
		m := c.explain(v)
		if !slices.ContainsFunc(out, func(o Miss) bool { return o.Grant == m.Grant && o.Text == m.Text }) {
			out = append(out, m)
		}
	}
	return out
}

// missing is reasons, one bit for each.
type missing uint8

// The order is that in which they are told.
const (
	missSource missing = 1 << iota
	missPosture
	missDestination
	missUser
	missVia
	missFlow
	missTime
)

// reasons are those of the bits of missing.
func reasons() []Reason {
	return []Reason{NotSource, NotPosture, NotDestination, NotSameUser, NotVia, NotFlow, NotNow}
}

// farOff is the weight of a grant that is about another source or destination.
const farOff = 10

// weight is larger the farther a grant is from allowing a flow.
func (m missing) weight() (n int) {
	for i := range reasons() {
		switch bit := m & (1 << i); bit {
		case 0:
		case missSource, missDestination:
			n += farOff
		case missFlow:
			n += 2
		default:
			n++
		}
	}
	return n
}

// find gives the devices that an end stands for: one, unless several carry its address.
func (c *Compiler) find(end End) []*entry {
	if end.Device != (ID{}) {
		if slot, ok := c.slots[end.Device]; ok {
			return []*entry{c.entries[slot]}
		}
		return nil
	}
	return c.owners(end.Address)
}

// subject tells of an end; without an address it gets one of the family of like, if the device has one.
func subject(e *entry, end End, like netip.Addr) Subject {
	s := Subject{End: End{e.ID, end.Address}, Known: true, Name: e.Name, User: e.user, Tags: e.Tags}
	if s.Address.IsValid() {
		return s
	}
	for _, a := range e.Addresses {
		if !s.Address.IsValid() || like.IsValid() && a.Is4() == like.Is4() && s.Address.Is4() != like.Is4() {
			s.Address = a
		}
	}
	return s
}

// owners gives the device that has an address, or else those that carry the longest prefix around it, or else exit nodes.
func (c *Compiler) owners(a netip.Addr) (out []*entry) {
	if !a.IsValid() {
		return nil
	}
	longest := -1
	add := func(e *entry, bits int) {
		if bits > longest {
			longest, out = bits, nil
		}
		if bits == longest {
			out = append(out, e)
		}
	}
	for _, e := range c.entries {
		if e == nil {
			continue
		}
		if slices.Contains(e.Addresses, a) {
			return []*entry{e}
		}
		bits := -1
		for _, p := range e.carried {
			if p.Contains(a) {
				bits = max(bits, p.Bits())
			}
		}
		if contains(e.out, a) {
			bits = max(bits, 0)
		}
		if bits >= 0 {
			add(e, bits)
		}
	}
	return out
}

// asked is a question whose ends were found.
type asked struct {
	src, dst *entry
	from, to netip.Addr
	flow     policy.Flow
	now      time.Time
}

// judge tells what of a rule is missing.
func (c *Compiler) judge(r *rule, q asked) (m missing) {
	if source := &c.sides[r.src]; !c.inSide(source, q.src, q.from, true) {
		m |= missSource
	} else if !source.meets(q.src) {
		m |= missPosture
	}
	if !policy.FlowsContain(r.grant.Flows, q.flow) {
		m |= missFlow
	}
	if !r.grant.Schedule.Open(q.now) {
		m |= missTime
	}
	return m | c.judgeDestination(r, q)
}

func (c *Compiler) judgeDestination(r *rule, q asked) missing {
	if r.self {
		switch {
		case q.dst.user == "" || !slices.Contains(q.dst.Addresses, q.to):
			return missDestination
		case q.src.user != q.dst.user:
			return missUser
		}
		return 0
	}
	side := &c.sides[r.dst]
	switch {
	case c.inSide(side, q.dst, q.to, side.through(q.dst)):
		return 0
	case len(side.via) > 0 && c.inSide(side, q.dst, q.to, true):
		return missVia
	}
	return missDestination
}

// inSide reports whether an address of e is in a side, postures aside.
func (c *Compiler) inSide(s *side, e *entry, a netip.Addr, through bool) bool {
	return slices.ContainsFunc(s.selectors, func(i int) bool {
		return contains(c.partsIn(nil, &c.program.selectors[i], e, s.destination, through), a)
	})
}
