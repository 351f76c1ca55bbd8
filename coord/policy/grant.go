package policy

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// rule is what grants and acls have in common while they are read.
type rule struct {
	value
	id       string
	src      []Selector
	dst      []Selector
	via      []string
	postures []string
	schedule *Schedule
	has      map[string]bool
}

func (r *reader) newRule(e value) *rule {
	return &rule{value: e, id: e.part, has: map[string]bool{}}
}

// shared are the fields that both kinds have.
func (r *reader) shared(u *rule) []field {
	sources := func(v value) {
		u.has["src"] = true
		u.src = r.selectorList(v, sourceKinds(), "src")
	}
	return []field{
		{"src", sources}, {"users", sources}, // the latter is the name of former days
		{"name", func(v value) { r.readName(u, v) }},
		{"comment", func(v value) { r.string(v) }},
		{"srcPosture", func(v value) { u.postures = r.postureNames(v) }},
		{"when", func(v value) { r.readWhen(u, v) }},
		{"until", func(v value) { r.readUntil(u, v) }},
	}
}

func (r *reader) readName(u *rule, v value) {
	s, ok := r.string(v)
	if !ok {
		return
	}
	bad := func(c rune) bool {
		return !unicode.IsLetter(c) && !unicode.IsDigit(c) && !strings.ContainsRune("-_. ", c)
	}
	if s == "" || len(s) > 64 || strings.ContainsFunc(s, bad) || strings.TrimSpace(s) != s {
		r.fail(v, "choose a short one such as \"web for engineers\"", "%s cannot be the name of a grant: letters, digits, spaces, - _ and .", quote(s))
		return
	}
	if first, ok := r.names[s]; ok {
		r.fail(v, "choose another", "name %s is taken in line %d", quote(s), r.Position(first).Line)
		return
	}
	r.names[s] = v.at()
	u.id = s
}

func (r *reader) readGrants(v value) {
	for _, e := range r.list(v) {
		u := r.newRule(e)
		var flows []Flow
		ok := r.object(e, append(r.shared(u),
			field{"dst", func(v value) {
				u.has["dst"] = true
				u.dst = r.selectorList(v, destinationKinds(), "dst")
			}},
			field{"ip", func(v value) {
				u.has["ip"] = true
				flows = r.readIP(v)
			}},
			field{"via", func(v value) { u.via = r.readVia(v) }},
			field{"app", func(v value) {
				u.has["app"] = true
				r.warn(v, "", "app is ignored: Warren knows no application capabilities")
			}},
		)...)
		if !ok {
			continue
		}
		if !u.has["ip"] && !u.has["app"] {
			r.fail(e, "write \"ip\": [\"tcp:443\"], for example", "no ip: the grant does not say what it allows")
		}
		r.require(u, "dst")
		r.add(u, u.dst, flows)
	}
}

// require notes parts that are missing.
func (r *reader) require(u *rule, dst string) {
	if !u.has["src"] {
		r.fail(u.value, "write \"src\": [\"group:…\"], for example", "no src")
	}
	if !u.has[dst] {
		r.fail(u.value, fmt.Sprintf("write %q: [\"tag:…\"], for example", dst), "no %s", dst)
	}
}

// add makes a grant of a rule, unless it allows nothing.
func (r *reader) add(u *rule, dst []Selector, flows []Flow) {
	if len(flows) == 0 || len(u.src) == 0 || len(dst) == 0 {
		return
	}
	for _, d := range dst {
		if d.Kind != Self {
			continue
		}
		for _, s := range u.src {
			if s.Kind != ByUser && s.Kind != ByGroup && s.Kind != Members && s.Kind != Admins {
				r.problem(s.At, u.part+".src", "name users, groups or autogroup:member, or write a grant of its own",
					"%s has no user, so it cannot go with autogroup:self", quote(s.Text))
			}
		}
	}
	if len(r.Grants) == MaxGrants {
		r.fail(u.value, "join grants that allow the same", "more than %d grants", MaxGrants)
	}
	if len(r.Grants) >= MaxGrants {
		return
	}
	if u.postures == nil {
		u.postures = r.posture
	}
	r.Grants = append(r.Grants, Grant{
		ID: u.id, Src: u.src, Dst: dst, Flows: NormalFlows(flows), Via: u.via, Postures: u.postures, Schedule: u.schedule, At: u.at(),
	})
}

func (r *reader) readIP(v value) (out []Flow) {
	texts, at := r.strings(v)
	for i, s := range texts {
		flows, fix, err := parseIP(s)
		if err != nil {
			r.fail(at[i], fix, "%v", err)
		}
		out = append(out, flows...)
	}
	if len(texts) == 0 {
		r.warn(v, "", "the grant allows nothing, for ip is empty")
	}
	return out
}

func (r *reader) readVia(v value) (out []string) {
	for _, s := range r.selectorList(v, anyOf(ByTag), "via, which holds tags of gateways and exit nodes,") {
		out = append(out, s.Name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// aclTarget is one destination of an acl.
type aclTarget struct {
	Selector
	ports string
	at    value
}

func (r *reader) readACLs(v value) {
	for _, e := range r.list(v) {
		u := r.newRule(e)
		var targets []aclTarget
		proto := ""
		destinations := func(v value) {
			u.has["dst"] = true
			targets = r.readTargets(v)
		}
		ok := r.object(e, append(r.shared(u),
			field{"action", func(v value) {
				u.has["action"] = true
				if s, ok := r.string(v); ok && s != "accept" {
					r.fail(v, "the only action is \"accept\": what no rule accepts is denied", "unknown action %s", quote(s))
				}
			}},
			field{"proto", func(v value) {
				if s, ok := r.string(v); ok {
					if _, fix, err := parseProtocol(s); err != nil {
						r.fail(v, fix, "%v", err)
						return
					}
					proto = s
				}
			}},
			field{"dst", destinations}, field{"ports", destinations},
		)...)
		if !ok {
			continue
		}
		if !u.has["action"] {
			r.fail(e, "write \"action\": \"accept\"", "no action")
		}
		r.require(u, "dst")
		r.addTargets(u, proto, targets)
	}
}

// readTargets reads "host:ports".
func (r *reader) readTargets(v value) (out []aclTarget) {
	texts, at := r.strings(v)
	for i, s := range texts {
		if t, ok := r.target(at[i], s); ok {
			out = append(out, t)
		}
	}
	return out
}

func (r *reader) target(v value, s string) (aclTarget, bool) {
	i := strings.LastIndexByte(s, ':')
	host, ports := "", ""
	if i >= 0 {
		host, ports = strings.TrimSuffix(strings.TrimPrefix(s[:i], "["), "]"), s[i+1:]
	}
	if i < 0 || slices.Contains([]string{"tag", "group", "autogroup", "ipset", "host"}, host) {
		r.fail(v, "write "+quote(s+":443")+" or "+quote(s+":*"), "%s has no ports", quote(s))
		return aclTarget{}, false
	}
	if _, fix, err := parsePorts(ports); err != nil {
		r.fail(v, fix, "%s: %v", quote(s), err)
		return aclTarget{}, false
	}
	sel, ok := r.selector(v, host, destinationKinds(), "dst")
	return aclTarget{sel, ports, v}, ok
}

// addTargets makes a grant for each kind of ports, so that each is a grant like any other.
func (r *reader) addTargets(u *rule, proto string, targets []aclTarget) {
	for len(targets) > 0 {
		ports := targets[0].ports
		var dst []Selector
		var rest []aclTarget
		for _, t := range targets {
			if t.ports == ports {
				dst = append(dst, t.Selector)
			} else {
				rest = append(rest, t)
			}
		}
		flows, fix, err := parseFlows(proto, ports)
		if err != nil {
			r.fail(targets[0].at, fix, "%v", err)
		}
		r.add(u, dst, flows)
		targets = rest
	}
}
