package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
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
	a := Answer{Question: q}
	src, from := c.find(q.Src, q.Dst.Address)
	dst, to := c.find(q.Dst, from.Address)
	if q.Src.Address == (netip.Addr{}) && to.Address.IsValid() { // of the same family, if it has one
		src, from = c.find(q.Src, to.Address)
	}
	a.Src, a.Dst = from, to
	if src == nil || dst == nil || src == dst {
		return a
	}
	var misses []Miss
	for _, r := range c.program.rules {
		m := c.judge(r, asked{src, dst, from.Address, to.Address, q.Protocol, q.Port, now})
		if len(m.Reasons) == 0 {
			a.Allowed, a.Grant, a.At = true, r.grant.ID, m.At
			return a
		}
		misses = append(misses, m)
	}
	slices.SortStableFunc(misses, func(x, y Miss) int { return cmp.Compare(x.weight(), y.weight()) })
	for _, m := range misses {
		far := slices.Contains(m.Reasons, NotSource) && slices.Contains(m.Reasons, NotDestination)
		if !far && len(a.Nearest) < maxNearest {
			a.Nearest = append(a.Nearest, m)
		}
	}
	return a
}

// weight is larger the farther a grant is from allowing a flow.
func (m Miss) weight() (n int) {
	for _, r := range m.Reasons {
		switch r {
		case NotSource, NotDestination:
			n += 3
		case NotFlow:
			n += 2
		default:
			n++
		}
	}
	return n
}

// find gives the device of an end, with an address of the family of like if it can.
func (c *Compiler) find(end End, like netip.Addr) (*entry, Subject) {
	var e *entry
	if end.Device != (ID{}) {
		if slot, ok := c.slots[end.Device]; ok {
			e = c.entries[slot]
		}
	} else {
		e = c.owner(end.Address)
	}
	s := Subject{End: end}
	if e == nil {
		return nil, s
	}
	s.Known, s.Device, s.Name, s.User, s.Tags = true, e.ID, e.Name, e.user, e.Tags
	if !s.Address.IsValid() {
		for _, a := range e.Addresses {
			if !s.Address.IsValid() || like.IsValid() && a.Is4() == like.Is4() && s.Address.Is4() != like.Is4() {
				s.Address = a
			}
		}
	}
	return e, s
}

// owner gives the device that has an address, or that carries the longest prefix around it, or else an exit node.
func (c *Compiler) owner(a netip.Addr) *entry {
	var best *entry
	bits := -1
	for _, e := range c.entries {
		if e == nil || !a.IsValid() {
			continue
		}
		if slices.Contains(e.Addresses, a) {
			return e
		}
		for _, p := range e.carried {
			if p.Contains(a) && p.Bits() > bits {
				best, bits = e, p.Bits()
			}
		}
		if e.Exit && bits < 0 && contains(c.internetParts, a) {
			best, bits = e, 0
		}
	}
	return best
}

// asked is a question whose ends were found.
type asked struct {
	src, dst *entry
	from, to netip.Addr
	protocol uint8
	port     uint16
	now      time.Time
}

// judge tells what of a rule is missing.
func (c *Compiler) judge(r *rule, q asked) Miss {
	m := Miss{Grant: r.grant.ID, At: c.program.policy.Position(r.grant.At)}
	var words []string
	miss := func(why Reason, format string, args ...any) {
		m.Reasons = append(m.Reasons, why)
		words = append(words, fmt.Sprintf(format, args...))
	}
	source := &c.sides[r.src]
	if !c.inSide(source, q.src, q.from, true) {
		miss(NotSource, "src has %s, which %s is not", texts(r.grant.Src), q.src.who())
	} else if !source.meets(q.src) {
		miss(NotPosture, "%s", source.unmet(r.grant.Postures, q.src))
	}
	c.judgeDestination(r, q, miss)
	if !slices.ContainsFunc(r.grant.Flows, func(f policy.Flow) bool { return f.Contains(q.protocol, q.port) }) {
		miss(NotFlow, "it allows %s, not %s", flowTexts(r.grant.Flows), askedFlow(q.protocol, q.port))
	}
	if s := r.grant.Schedule; !s.Open(q.now) {
		miss(NotNow, "%s", closed(s, q.now))
	}
	m.Text = strings.Join(words, "; ")
	return m
}

func (c *Compiler) judgeDestination(r *rule, q asked, miss func(Reason, string, ...any)) {
	if r.self {
		switch {
		case !slices.Contains(q.dst.Addresses, q.to) || q.dst.user == "":
			miss(NotDestination, "dst has autogroup:self, and %s belongs to no user", q.dst.who())
		case q.src.user != q.dst.user:
			miss(NotSameUser, "dst has autogroup:self, and the devices are not of one user")
		}
		return
	}
	side := &c.sides[r.dst]
	switch {
	case c.inSide(side, q.dst, q.to, side.through(q.dst)):
	case c.inSide(side, q.dst, q.to, true):
		miss(NotVia, "it leads through devices with tag:%s, which %s has not", strings.Join(side.via, " or tag:"), q.dst.Name)
	default:
		what := q.dst.who()
		if !slices.Contains(q.dst.Addresses, q.to) {
			what = q.to.String()
		}
		miss(NotDestination, "dst has %s, which %s is not", texts(r.grant.Dst), what)
	}
}

// inSide reports whether an address of e is in a side, postures aside.
func (c *Compiler) inSide(s *side, e *entry, a netip.Addr, through bool) bool {
	return slices.ContainsFunc(s.selectors, func(i int) bool {
		return contains(c.partsIn(nil, &c.program.selectors[i], e, s.destination, through), a)
	})
}

// who describes a device for a sentence.
func (e *entry) who() string {
	switch {
	case len(e.Tags) > 0:
		return fmt.Sprintf("%s (tag:%s)", e.Name, strings.Join(e.Tags, ", tag:"))
	case e.user != "":
		return fmt.Sprintf("%s (of %s)", e.Name, e.user)
	}
	return e.Name
}

// unmet says why a device meets none of the postures.
func (s *side) unmet(names []string, e *entry) string {
	var out []string
	for i, p := range s.postures {
		for _, c := range p.Conditions {
			if c.Holds(e.Facts) {
				continue
			}
			why := "it is not known"
			if fact, ok := e.Facts[c.Fact]; ok {
				why = fmt.Sprintf("it is %q", fact)
			}
			out = append(out, fmt.Sprintf("posture:%s asks for %s, and of %s %s", names[i], c.Text, e.Name, why))
			break
		}
	}
	return strings.Join(out, "; ")
}

func closed(s *policy.Schedule, now time.Time) string {
	if !s.Until.IsZero() && !now.Before(s.Until) {
		return "it expired at " + s.Until.Format(time.RFC3339)
	}
	var windows []string
	for _, w := range s.Windows {
		windows = append(windows, w.Text)
	}
	return "it holds " + strings.Join(windows, " and ") + " only"
}

func texts(list []policy.Selector) string {
	const most = 4
	var out []string
	for i, s := range list {
		if i == most {
			out = append(out, fmt.Sprintf("and %d more", len(list)-most))
			break
		}
		out = append(out, s.Text)
	}
	return strings.Join(out, ", ")
}

func flowTexts(list []policy.Flow) string {
	var out []string
	for _, f := range list {
		out = append(out, f.String())
	}
	return strings.Join(out, ", ")
}

func askedFlow(protocol uint8, port uint16) string {
	if !policy.HasPorts(protocol) {
		return policy.ProtocolName(protocol)
	}
	return fmt.Sprintf("%s:%d", policy.ProtocolName(protocol), port)
}

// String is the answer in words.
func (a Answer) String() string {
	var b strings.Builder
	what := askedFlow(a.Question.Protocol, a.Question.Port)
	for _, s := range []Subject{a.Src, a.Dst} {
		if !s.Known {
			fmt.Fprintf(&b, "no device has or carries %s\n", s.Address)
			return b.String()
		}
	}
	if a.Allowed {
		fmt.Fprintf(&b, "%s to %s, %s: allowed by %s (line %d of the policy)\n", a.Src.Name, a.Dst.title(), what, a.Grant, a.At.Line)
		return b.String()
	}
	if a.Src.Device == a.Dst.Device {
		fmt.Fprintf(&b, "%s is one device: what it sends to itself does not pass the network\n", a.Src.Name)
		return b.String()
	}
	fmt.Fprintf(&b, "%s to %s, %s: denied, for no grant allows it\n", a.Src.Name, a.Dst.title(), what)
	for _, m := range a.Nearest {
		fmt.Fprintf(&b, "  %s (line %d): %s\n", m.Grant, m.At.Line, m.Text)
	}
	return b.String()
}

// title names the device, and the address if it lies behind it.
func (s Subject) title() string {
	if s.Address.IsValid() && s.Name != "" {
		return fmt.Sprintf("%s (%s)", s.Name, s.Address)
	}
	return s.Name
}
