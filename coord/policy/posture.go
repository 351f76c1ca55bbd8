package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Posture is what a device must be like: every condition holds.
type Posture struct {
	Conditions []Condition
	At         Offset
}

// Condition compares one fact of a device.
type Condition struct {
	Fact   string // such as node:os
	Op     string // ==, !=, <, <=, >, >=, IN, NOT IN, IS SET, NOT SET
	Values []Literal
	Text   string
}

// Literal is a value in a condition.
type Literal struct {
	Kind byte // 's'tring, 'n'umber or 'b'oolean
	Text string
}

// Holds reports whether the condition is known to hold. What is not known does not: a fact that the device has not reported satisfies
// neither != nor NOT IN; NOT SET needs a fact that agents do report, and facts, which are nil for a device that has reported none.
func (c Condition) Holds(facts map[string]string) bool {
	fact, ok := facts[c.Fact]
	switch c.Op {
	case "IS SET":
		return ok
	case "NOT SET":
		return facts != nil && !ok && slices.Contains(NodeFacts(), c.Fact)
	}
	if !ok {
		return false
	}
	in := slices.ContainsFunc(c.Values, func(v Literal) bool {
		order, ok := v.compare(fact, false)
		return ok && order == 0
	})
	switch c.Op {
	case "==", "IN":
		return in
	case "!=", "NOT IN":
		return !in && !slices.ContainsFunc(c.Values, func(v Literal) bool {
			_, ok := v.compare(fact, false)
			return !ok
		})
	}
	order, ok := c.Values[0].compare(fact, true)
	if !ok {
		return false
	}
	return c.Op == "<" && order < 0 || c.Op == "<=" && order <= 0 || c.Op == ">" && order > 0 || c.Op == ">=" && order >= 0
}

// compare puts fact before, at or after the literal, if both can be compared. Strings have an order as versions only.
func (l Literal) compare(fact string, order bool) (int, bool) {
	switch l.Kind {
	case 'n':
		a, errA := strconv.ParseFloat(fact, 64)
		b, errB := strconv.ParseFloat(l.Text, 64)
		return cmp.Compare(a, b), errA == nil && errB == nil && a == a
	case 'b':
		if fact != "true" && fact != "false" {
			return 0, false
		}
		return cmp.Compare(fact, l.Text), true
	}
	if !order {
		return strings.Compare(fact, l.Text), true
	}
	return compareVersions(fact, l.Text)
}

// compareVersions compares numbers between dots; what follows the last number, such as -generic, does not count.
func compareVersions(a, b string) (int, bool) {
	x, okX := version(a)
	y, okY := version(b)
	if !okX || !okY {
		return 0, false
	}
	for len(x) < len(y) {
		x = append(x, 0)
	}
	for len(y) < len(x) {
		y = append(y, 0)
	}
	return slices.Compare(x, y), true
}

func version(s string) (out []uint64, ok bool) {
	s = strings.TrimPrefix(s, "v")
	for part := range strings.SplitSeq(s, ".") {
		digits := part
		if i := strings.IndexFunc(part, func(c rune) bool { return c < '0' || c > '9' }); i >= 0 {
			digits = part[:i]
		}
		n, err := strconv.ParseUint(digits, 10, 64)
		if err != nil {
			break
		}
		if out = append(out, n); digits != part {
			break
		}
	}
	return out, len(out) > 0
}

func (r *reader) readPostures(v value) {
	r.Postures = map[string]Posture{}
	for _, m := range r.members(v, false) {
		name, ok := r.named(m, "posture:")
		if !ok {
			continue
		}
		p := Posture{At: m.key.at()}
		texts, at := r.strings(m.value)
		for i, s := range texts {
			c, fix, err := parseCondition(s)
			if err != nil {
				r.fail(at[i], fix, "%v", err)
				continue
			}
			if !slices.Contains(NodeFacts(), c.Fact) {
				r.warn(at[i], didYouMean(c.Fact, "", slices.Values(NodeFacts())), "agents do not report %s, so no device meets this posture", quote(c.Fact))
			}
			p.Conditions = append(p.Conditions, c)
		}
		if len(texts) == 0 {
			r.fail(m.value, "write a condition such as \"node:os == 'linux'\"", "the posture asks for nothing")
		}
		r.Postures[name] = p
	}
}

// NodeFacts are the facts that agents report.
func NodeFacts() []string {
	return []string{"node:agentVersion", "node:hostname", "node:os", "node:osVersion"}
}

// postureNames reads a list of postures. nil stands for one that is empty: the default applies.
func (r *reader) postureNames(v value) (out []string) {
	texts, at := r.strings(v)
	for i, s := range texts {
		name, ok := strings.CutPrefix(s, "posture:")
		if !ok {
			r.fail(at[i], "write "+quote("posture:"+s), "%s does not begin with \"posture:\"", quote(s))
			continue
		}
		if _, ok := r.Postures[name]; !ok {
			r.fail(at[i], didYouMean(name, "posture:", maps.Keys(r.Postures)), "posture %s is not defined in postures", quote(s))
			continue
		}
		out = append(out, name)
	}
	return out
}

// operators are tried in this order.
func operators() []string {
	return []string{"==", "!=", "<=", ">=", "<", ">", "NOT IN", "NOT SET", "IS SET", "IN"}
}

func parseCondition(s string) (Condition, string, error) {
	const fix = "write a fact, an operator and a value, such as \"node:osVersion >= '13.4'\" or \"node:os IN ['linux', 'macos']\""
	text := strings.TrimSpace(s)
	i := strings.IndexAny(text, " \t=!<>")
	if i < 0 {
		return Condition{}, fix, fmt.Errorf("%s is no condition", quote(s))
	}
	c := Condition{Fact: text[:i], Text: text}
	space, name, ok := strings.Cut(c.Fact, ":")
	if !ok || space == "" || name == "" || len(c.Fact) > maxName || strings.ContainsAny(c.Fact, "'\"[](),") {
		return Condition{}, fix, fmt.Errorf("%s is no fact of a device, such as node:os", quote(c.Fact))
	}
	rest := strings.TrimSpace(text[i:])
	for _, op := range operators() {
		if after, ok := strings.CutPrefix(rest, op); ok {
			c.Op, rest = op, strings.TrimSpace(after)
			break
		}
	}
	if c.Op == "" {
		return Condition{}, "there are " + strings.Join(operators(), ", "), fmt.Errorf("%s has no operator that is known", quote(s))
	}
	values, ok := parseLiterals(rest)
	list := c.Op == "IN" || c.Op == "NOT IN"
	bare := c.Op == "IS SET" || c.Op == "NOT SET"
	switch {
	case !ok, bare && len(values) > 0, !bare && len(values) == 0, !bare && !list && len(values) != 1:
		return Condition{}, fix, fmt.Errorf("%s: the values after %s are not understood", quote(s), c.Op)
	case strings.ContainsAny(c.Op, "<>") && values[0].Kind == 'b':
		return Condition{}, fix, fmt.Errorf("%s: true and false have no order", quote(s))
	case strings.ContainsAny(c.Op, "<>") && values[0].Kind == 's':
		if _, ok := version(values[0].Text); !ok {
			return Condition{}, fix, fmt.Errorf("%s: strings are ordered as versions, and %s is none", quote(s), quote(values[0].Text))
		}
	}
	c.Values = values
	return c, "", nil
}

// parseLiterals reads one literal, or several in brackets.
func parseLiterals(s string) (out []Literal, ok bool) {
	if s == "" {
		return nil, true
	}
	end := byte(0)
	switch s[0] {
	case '[':
		end = ']'
	case '(':
		end = ')'
	}
	if end != 0 {
		if s[len(s)-1] != end || len(s) < 2 {
			return nil, false
		}
		s = strings.TrimSpace(s[1 : len(s)-1])
	}
	for s != "" {
		l, rest, ok := parseLiteral(s)
		if !ok {
			return nil, false
		}
		out = append(out, l)
		rest = strings.TrimSpace(rest)
		if rest == "" {
			break
		}
		if rest[0] != ',' || end == 0 {
			return nil, false
		}
		s = strings.TrimSpace(rest[1:])
	}
	return out, len(out) > 0
}

func parseLiteral(s string) (l Literal, rest string, ok bool) {
	if q := s[0]; q == '\'' || q == '"' {
		text, rest, ok := strings.Cut(s[1:], string(q))
		return Literal{'s', text}, rest, ok
	}
	i := strings.IndexAny(s, ", \t")
	if i < 0 {
		i = len(s)
	}
	word, rest := s[:i], s[i:]
	if word == "true" || word == "false" {
		return Literal{'b', word}, rest, true
	}
	n, err := strconv.ParseFloat(word, 64)
	return Literal{'n', word}, rest, err == nil && n == n
}
