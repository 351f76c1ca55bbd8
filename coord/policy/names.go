package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// named gives the name after prefix, where a member's name must have one.
func (r *reader) named(m member, prefix string) (string, bool) {
	name, ok := strings.CutPrefix(m.name, prefix)
	if !ok {
		r.fail(m.key, "write "+quote(prefix+m.name), "%s does not begin with %s", quote(m.name), quote(prefix))
		return "", false
	}
	if err := checkName(name); err != nil {
		r.fail(m.key, "", "%s: %v", quote(m.name), err)
		return "", false
	}
	return name, true
}

func (r *reader) readHosts(v value) {
	r.Hosts = map[string]Selector{}
	seen := map[netip.Prefix]string{}
	for _, m := range r.members(v, false) {
		name := strings.TrimPrefix(m.name, "host:")
		if err := checkName(name); err != nil || looksLikeAddress(name) || strings.Contains(name, "@") {
			r.fail(m.key, "choose a name such as \"printer\"", "%s cannot be the name of a host", quote(m.name))
			continue
		}
		s, ok := r.string(m.value)
		if !ok {
			continue
		}
		p, err := parsePrefix(s)
		if err != nil {
			r.fail(m.value, "", "%v", err)
			continue
		}
		if r.countPrefixes(m.value, 1) {
			return
		}
		if first, ok := seen[p]; ok {
			r.warn(m.value, "", "hosts %s and %s are both %s: a grant to one is a grant to the other", quote(first), quote(name), p)
		} else {
			seen[p] = name
		}
		r.Hosts[name] = Selector{Kind: ByAddress, Prefixes: []netip.Prefix{p}, At: m.key.at()}
	}
	r.warnOverlaps()
}

// warnOverlaps tells of hosts that lie inside others: a grant to the wider one is a grant to both.
func (r *reader) warnOverlaps() {
	type host struct {
		name string
		p    netip.Prefix
		at   Offset
	}
	var all []host
	for name, s := range r.Hosts {
		all = append(all, host{name, s.Prefixes[0], s.At})
	}
	slices.SortFunc(all, func(a, b host) int {
		return cmp.Or(a.p.Compare(b.p), strings.Compare(a.name, b.name))
	})
	var around []host
	for _, h := range all {
		for len(around) > 0 && !around[len(around)-1].p.Overlaps(h.p) {
			around = around[:len(around)-1]
		}
		if n := len(around); n > 0 && around[n-1].p != h.p {
			r.warnAt(h.at, "hosts."+h.name, "", "host %s (%s) lies in host %s (%s): a grant to the latter is a grant to both",
				quote(h.name), h.p, quote(around[n-1].name), around[n-1].p)
		}
		around = append(around, h)
	}
}

// countPrefixes reports that the bound on prefixes was passed.
func (r *reader) countPrefixes(v value, n int) bool {
	before := r.prefixes
	r.prefixes += n
	if before <= MaxPrefixes && r.prefixes > MaxPrefixes {
		r.fail(v, "", "more than %d prefixes in hosts and IP sets together", MaxPrefixes)
	}
	return r.prefixes > MaxPrefixes
}

// groupReader flattens nested groups.
type groupReader struct {
	*reader
	raw   map[string]rawGroup
	state map[string]int // 1: being flattened, 2: done
	path  []string
}

type rawGroup struct {
	users  []string
	groups []string
	at     []value // of groups
	key    value
}

func (r *reader) readGroups(v value) {
	g := &groupReader{reader: r, raw: map[string]rawGroup{}, state: map[string]int{}}
	r.Groups = map[string]Group{}
	var order []string
	for _, m := range r.members(v, false) {
		name, ok := r.named(m, "group:")
		if !ok {
			continue
		}
		raw := rawGroup{key: m.key}
		texts, at := r.strings(m.value)
		for i, s := range texts {
			sel, ok := r.groupMember(at[i], s)
			switch {
			case !ok:
			case sel.Kind == ByGroup:
				raw.groups, raw.at = append(raw.groups, sel.Name), append(raw.at, at[i])
			default:
				raw.users = append(raw.users, sel.Name)
			}
		}
		g.raw[name] = raw
		order = append(order, name)
	}
	for _, name := range order {
		g.flatten(name)
	}
}

// groupMember reads a user or a group.
func (r *reader) groupMember(v value, s string) (Selector, bool) {
	if !r.countSelector(v) {
		return Selector{}, false
	}
	sel, fix, err := r.resolve(s)
	switch {
	case err != nil:
		r.fail(v, fix, "%v", err)
	case sel.Kind != ByUser && sel.Kind != ByGroup:
		r.fail(v, "a group holds users, and groups of users", "%s cannot be in a group", quote(s))
	default:
		if sel.Kind == ByUser {
			r.uses = append(r.uses, use{ByUser, sel.Name, !strings.Contains(s, "@"), v.part, v.at()})
		}
		return sel, true
	}
	return sel, false
}

// maxGroupPath bounds how deep groups nest.
const maxGroupPath = 64

func (g *groupReader) flatten(name string) Group {
	if g.state[name] == 2 {
		return g.Groups[name]
	}
	raw := g.raw[name]
	g.state[name] = 1
	g.path = append(g.path, name)
	out := Group{Users: slices.Clone(raw.users), At: raw.key.at()}
	for i, n := range raw.groups {
		_, defined := g.raw[n]
		switch {
		case !defined:
			out.Foreign = append(out.Foreign, n)
			g.uses = append(g.uses, use{ByGroup, n, false, raw.at[i].part, raw.at[i].at()})
		case g.state[n] == 1:
			cycle := g.path[slices.Index(g.path, n):]
			g.fail(raw.at[i], "take one of them out", "groups contain themselves: group:%s", clip(strings.Join(append(slices.Clone(cycle), n), " > group:"), 400))
		case len(g.path) >= maxGroupPath:
			g.fail(raw.at[i], "", "groups nest more than %d deep", maxGroupPath)
		default:
			inner := g.flatten(n)
			out.Users, out.Foreign = append(out.Users, inner.Users...), append(out.Foreign, inner.Foreign...)
		}
	}
	slices.Sort(out.Users)
	slices.Sort(out.Foreign)
	out.Users, out.Foreign = slices.Compact(out.Users), slices.Compact(out.Foreign)
	g.selectors += len(out.Users) - len(raw.users) // nesting multiplies
	if len(raw.groups) > 0 && g.selectors > MaxSelectors {
		g.fail(raw.key, "", "nested groups name more than %d users in all", MaxSelectors)
		out = Group{At: out.At}
	}
	g.path = g.path[:len(g.path)-1]
	g.state[name] = 2
	g.Groups[name] = out
	return out
}

func (r *reader) readTagOwners(v value) {
	r.TagOwners = map[string][]Selector{}
	for _, m := range r.members(v, false) {
		if name, ok := r.named(m, "tag:"); ok {
			r.TagOwners[name] = r.selectorList(m.value, anyOf(ByUser, ByGroup, ByTag, Members, Admins), "tagOwners")
		}
	}
}
