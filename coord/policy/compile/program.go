package compile

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gaissmai/bart"

	"warren/coord/policy"
	pb "warren/proto/warrenv1"
)

// program is a policy made ready: its selectors, the sides of its grants, and rules that join two sides. It does not depend on devices.
type program struct {
	policy    *policy.Policy
	selectors []selector
	sides     []side
	rules     []*rule
	// Selectors by what they ask for.
	byUser, byGroup, byTag  map[string]int
	any, internet           int // -1: not used
	members, tagged, admins int
	byAddress               *bart.Table[[]int]
	public                  []int               // selectors of addresses that an exit node carries
	groupsOf                map[string][]string // of users, by the policy's groups
	internetParts           []part
	selectorKeys, sideKeys  map[string]int
	foreign                 map[string][]string // the policy's groups that hold a group of sign-in
}

// selector is one that some side has.
type selector struct {
	policy.Selector
	index int    // in the program; -1: in none
	parts []part // of one of addresses, sorted and apart
	sides []int
}

// side is a set of devices: those with a part in any of the selectors, for sources only those that meet one of the postures.
type side struct {
	key         string // equal for equal sides of different policies
	selectors   []int
	destination bool
	full        bool // every device, with all that it has
	partial     bool // a device may be in it with some of its addresses only
	via         []string
	postures    []policy.Posture
	// rules that have it as source and as destination.
	asSource, asDestination []*rule
}

// rule is a grant, or a part of one.
type rule struct {
	grant    *policy.Grant
	index    int // among the program's rules
	src, dst int // sides; dst is -1 for self
	self     bool
	flows    []*pb.Flow
	active   bool
	key      string // equal for rules of one ID that allow the same, if their sides have the same members
	allows   string // equal for rules of one ID and the same flows
}

func newProgram(p *policy.Policy, now time.Time) *program {
	g := &program{
		policy: p, byUser: map[string]int{}, byGroup: map[string]int{}, byTag: map[string]int{}, any: -1, internet: -1, members: -1, tagged: -1,
		admins: -1, byAddress: new(bart.Table[[]int]), groupsOf: map[string][]string{}, selectorKeys: map[string]int{}, sideKeys: map[string]int{},
		foreign: map[string][]string{},
	}
	g.internetParts = newParts(policy.InternetPrefixes())
	for i := range p.Grants {
		g.addGrant(&p.Grants[i], now)
	}
	for name, group := range p.Groups {
		for _, u := range group.Users {
			g.groupsOf[u] = append(g.groupsOf[u], name)
		}
		for _, f := range group.Foreign {
			g.foreign[f] = append(g.foreign[f], name)
		}
	}
	return g
}

func (g *program) addGrant(grant *policy.Grant, now time.Time) {
	var others []policy.Selector
	self := false
	for _, s := range grant.Dst {
		if s.Kind == policy.Self {
			self = true
			continue
		}
		others = append(others, s)
	}
	src := g.side(grant, grant.Src, false)
	if self {
		g.addRule(&rule{grant: grant, src: src, dst: -1, self: true}, now)
	}
	if len(others) > 0 {
		g.addRule(&rule{grant: grant, src: src, dst: g.side(grant, others, true)}, now)
	}
}

func (g *program) addRule(r *rule, now time.Time) {
	r.active = r.grant.Schedule.Open(now)
	dst := "self"
	if !r.self {
		dst = g.sides[r.dst].key
		g.sides[r.dst].asDestination = append(g.sides[r.dst].asDestination, r)
	}
	g.sides[r.src].asSource = append(g.sides[r.src].asSource, r)
	for _, f := range r.grant.Flows {
		r.flows = append(r.flows, &pb.Flow{Protocol: uint32(f.Protocol), FirstPort: uint32(f.First), LastPort: uint32(f.Last)})
	}
	r.allows = digest(r.grant.ID, fmt.Sprint(r.grant.Flows))
	r.key = digest(r.allows, g.sides[r.src].key, dst)
	r.index = len(g.rules)
	g.rules = append(g.rules, r)
}

// side gives the index of a side, which grants share.
func (g *program) side(grant *policy.Grant, list []policy.Selector, destination bool) int {
	s := side{destination: destination}
	keys := []string{"src"}
	if destination {
		keys, s.via = append(keys[:0], "dst", strings.Join(grant.Via, ",")), grant.Via
	} else {
		for _, name := range grant.Postures {
			p := g.policy.Postures[name]
			s.postures = append(s.postures, p)
			for _, c := range p.Conditions {
				keys = append(keys, c.Text)
			}
			keys = append(keys, "or")
		}
	}
	for _, sel := range list {
		i := g.selector(sel)
		if slices.Contains(s.selectors, i) {
			continue
		}
		s.selectors = append(s.selectors, i)
		s.partial = s.partial || sel.Kind == policy.ByAddress || sel.Kind == policy.Internet
		s.full = s.full || sel.Kind == policy.Any && len(s.via) == 0 && len(s.postures) == 0
	}
	s.key = digest(append(keys, g.namesOf(s.selectors, s.partial)...)...)
	if i, ok := g.sideKeys[s.key]; ok {
		return i
	}
	i := len(g.sides)
	g.sideKeys[s.key] = i
	g.sides = append(g.sides, s)
	for _, n := range s.selectors {
		g.selectors[n].sides = append(g.selectors[n].sides, i)
	}
	return i
}

// namesOf gives what sides with the same selectors have in common. A group's users are compared one by one as members of the side, except where
// addresses may keep a device in the side that leaves the group.
func (g *program) namesOf(selectors []int, partial bool) (names []string) {
	for _, i := range selectors {
		s := g.selectors[i].Selector
		name := selectorKey(s)
		if s.Kind == policy.ByGroup && partial {
			name += fmt.Sprint(g.policy.Groups[s.Name].Users, g.policy.Groups[s.Name].Foreign)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// selector gives the index of a selector.
func (g *program) selector(s policy.Selector) int {
	k := selectorKey(s)
	if i, ok := g.selectorKeys[k]; ok {
		return i
	}
	i := len(g.selectors)
	g.selectorKeys[k] = i
	g.selectors = append(g.selectors, selector{Selector: s, index: i, parts: newParts(s.Prefixes)})
	switch s.Kind {
	case policy.Any:
		g.any = i
	case policy.ByUser:
		g.byUser[s.Name] = i
	case policy.ByGroup:
		g.byGroup[s.Name] = i
	case policy.ByTag:
		g.byTag[s.Name] = i
	case policy.Members:
		g.members = i
	case policy.Tagged:
		g.tagged = i
	case policy.Admins:
		g.admins = i
	case policy.Internet:
		g.internet = i
	case policy.ByAddress:
		g.indexParts(i)
	case policy.Self:
	}
	return i
}

// indexParts makes a selector of addresses be found.
func (g *program) indexParts(i int) {
	public := false
	for _, p := range g.selectors[i].parts {
		g.byAddress.Modify(p.Prefix, func(list []int, _ bool) ([]int, bool) { return append(list, i), false })
		public = public || len(intersect(nil, p, g.internetParts)) > 0
	}
	if public {
		g.public = append(g.public, i)
	}
}

// selectorKey is equal for selectors of the same meaning.
func selectorKey(s policy.Selector) string {
	if s.Kind != policy.ByAddress {
		return fmt.Sprintf("%d %s", s.Kind, s.Name)
	}
	if len(s.Prefixes) == 1 {
		return s.Prefixes[0].String()
	}
	h := sha256.New()
	for _, p := range s.Prefixes {
		b, _ := p.MarshalBinary() // never fails
		h.Write(b)
	}
	return "set " + string(h.Sum(nil))
}

// digest makes a short key of strings.
func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return string(h.Sum(nil))
}
