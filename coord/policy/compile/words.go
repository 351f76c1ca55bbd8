package compile

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"warren/coord/policy"
)

// explain puts into words what is missing.
func (c *Compiler) explain(v verdict) Miss {
	m := Miss{Grant: v.rule.grant.ID, At: c.program.policy.Position(v.rule.grant.At)}
	var words []string
	for i, why := range reasons() {
		if v.missing&(1<<i) != 0 {
			m.Reasons, words = append(m.Reasons, why), append(words, c.words(v, why))
		}
	}
	m.Text = strings.Join(words, "; ")
	return m
}

func (c *Compiler) words(v verdict, why Reason) string {
	r, q := v.rule, v.asked
	switch why {
	case NotSource:
		return fmt.Sprintf("src has %s, which %s is not", texts(r.grant.Src), q.src.who())
	case NotPosture:
		return c.sides[r.src].unmet(r.grant.Postures, q.src)
	case NotDestination:
		switch what := q.dst.who(); {
		case r.self:
			return fmt.Sprintf("dst has autogroup:self, and %s belongs to no user", what)
		case !slices.Contains(q.dst.Addresses, q.to):
			return fmt.Sprintf("dst has %s, which %s is not", texts(r.grant.Dst), q.to)
		default:
			return fmt.Sprintf("dst has %s, which %s is not", texts(r.grant.Dst), what)
		}
	case NotSameUser:
		return "dst has autogroup:self, and the devices are not of one user"
	case NotVia:
		return fmt.Sprintf("it leads through devices with tag:%s, which %s has not", strings.Join(c.sides[r.dst].via, " or tag:"), q.dst.Name)
	case NotFlow:
		return fmt.Sprintf("it allows %s, not %s", flowTexts(r.grant.Flows), flowText(q.flow))
	case NotNow:
		return closed(r.grant.Schedule, q.now)
	}
	return string(why)
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

// flowText is a flow as people ask about it: protocols without ports stand alone.
func flowText(f policy.Flow) string {
	if f.Protocol != 0 && !policy.HasPorts(f.Protocol) {
		return policy.ProtocolName(f.Protocol)
	}
	return f.String()
}

// flow is what a question asks about.
func (q Question) flow() policy.Flow {
	if !policy.HasPorts(q.Protocol) {
		return policy.Flow{Protocol: q.Protocol, Last: maxPort}
	}
	return policy.Flow{Protocol: q.Protocol, First: q.Port, Last: q.Port}
}

// String is the answer in words, of one or more lines.
func (a Answer) String() string {
	for _, s := range []Subject{a.Src, a.Dst} {
		switch {
		case s.Known:
		case s.Address.IsValid():
			return fmt.Sprintf("no device has or carries %s\n", s.Address)
		default:
			return "there is no such device\n"
		}
	}
	if a.Src.Device == a.Dst.Device {
		return fmt.Sprintf("%s is one device: what it sends to itself does not pass the network\n", a.Src.Name)
	}
	question := fmt.Sprintf("%s to %s, %s", a.Src.title(), a.Dst.title(), flowText(a.Question.flow()))
	if a.Allowed {
		return fmt.Sprintf("%s: allowed by %s (line %d of the policy)\n", question, a.Grant, a.At.Line)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: denied\n", question)
	for _, m := range a.Nearest {
		fmt.Fprintf(&b, "  %s (line %d): %s\n", m.Grant, m.At.Line, m.Text)
	}
	if len(a.Nearest) == 0 {
		b.WriteString("  no grant has such a source or such a destination\n")
	}
	return b.String()
}

// title names the device, and the address if it lies behind it.
func (s Subject) title() string {
	if s.Address.IsValid() {
		return fmt.Sprintf("%s (%s)", s.Name, s.Address)
	}
	return s.Name
}
