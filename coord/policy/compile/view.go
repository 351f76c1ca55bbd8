package compile

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"weak"

	pb "warren/proto/warrenv1"
)

// View is what a device is told besides the records of its peers.
type View struct {
	*RuleSet
	Routes []Route
}

// RuleSet is the grants of a device's map. Devices with the same grants share one.
type RuleSet struct {
	Grants []*pb.Grant
	// Hash is of the grants; what is equal has equal hashes.
	Hash [32]byte
}

// Route is a CIDR that a device may reach, or be reached from, through a gateway, or that it carries as that gateway does.
type Route struct {
	Prefix  netip.Prefix // as the gateway's record has it; all addresses of a family for an exit node
	Gateway ID
	Exit    bool
	// Allowed is what of Prefix the device has to do with, sorted: all of it, if the device carries it too. Where several gateways carry one prefix
	// it may differ.
	Allowed []netip.Prefix
}

// View gives what a device is told. For a device that is not known that is nothing.
func (c *Compiler) View(id ID) View {
	slot, ok := c.slots[id]
	if !ok {
		return View{RuleSet: (&builder{Compiler: c}).ruleSet()}
	}
	b := c.build(slot)
	return View{RuleSet: b.ruleSet(), Routes: b.routes()}
}

// build collects what a device is told.
func (c *Compiler) build(slot int) *builder {
	b := &builder{Compiler: c, slot: slot, e: c.entries[slot]}
	for _, r := range c.program.rules {
		if r.active {
			b.rule(r)
		}
	}
	return b
}

// builder makes the view of one device.
type builder struct {
	*Compiler
	slot int
	e    *entry
	told []told
	// opposite are the sides that it has to do with.
	opposite []int
}

// told is what one rule makes.
type told struct {
	id       string
	sum      []byte
	flows    []*pb.Flow
	src, dst *prefixList
}

// rule adds what a rule lets the device send and receive.
func (b *builder) rule(r *rule) {
	src := b.members[r.src]
	if r.self {
		b.selfRule(r)
		return
	}
	dst := b.members[r.dst]
	isSrc, isDst := src.has(b.slot), dst.has(b.slot)
	if b.sides[r.src].full && b.sides[r.dst].full {
		if !src.onlyHas(b.slot) {
			b.emitRule(r, b.list(r.src), b.list(r.dst))
		}
	} else {
		if isSrc && !dst.onlyHas(b.slot) && !dst.empty() {
			b.emitRule(r, b.ownList(r.src), b.list(r.dst))
		}
		if isDst && !src.onlyHas(b.slot) && !src.empty() {
			b.emitRule(r, b.list(r.src), b.ownList(r.dst))
		}
	}
	b.exitDNS(r)
	if isSrc {
		b.opposite = append(b.opposite, r.dst)
	}
	if isDst {
		b.opposite = append(b.opposite, r.src)
	}
}

// selfRule is for the devices of the device's user.
func (b *builder) selfRule(r *rule) {
	if b.e.user == "" {
		return
	}
	var all, sources bits
	for _, s := range b.owned[b.e.user] {
		if s == b.slot {
			continue
		}
		all.set(s)
		if b.members[r.src].has(s) {
			sources.set(s)
		}
	}
	if b.members[r.src].has(b.slot) {
		b.emitRule(r, b.e.list, b.listOf(all))
	}
	b.emitRule(r, b.listOf(sources), b.e.list)
}

// listOf gives the own addresses of devices.
func (b *builder) listOf(devices bits) *prefixList {
	var parts []part
	for slot := range devices.all() {
		parts = append(parts, b.entries[slot].own...)
	}
	l := newPrefixList(parts)
	l.name(devices, nil)
	return l
}

// emitRule adds the grants of a rule.
func (b *builder) emitRule(r *rule, src, dst *prefixList) {
	b.emit(r.grant.ID, r.allows, r.flows, src, dst)
}

// emit adds grants. allows is a digest of id and flows.
func (b *builder) emit(id, allows string, flows []*pb.Flow, src, dst *prefixList) {
	if len(src.prefixes) > 0 && len(dst.prefixes) > 0 {
		b.told = append(b.told, told{id, slices.Concat([]byte(allows), src.sum[:], dst.sum[:]), flows, src, dst})
	}
}

// ruleSet gives the grants, in pieces that a map statement can hold.
func (b *builder) ruleSet() *RuleSet {
	b.sortTold()
	h := sha256.New()
	var grants []*pb.Grant
	for _, t := range b.told {
		h.Write(t.sum) // each of one length
		grants = append(grants, t.grants(chunks(t.src.prefixes), chunks(t.dst.prefixes))...)
	}
	hash := [32]byte(h.Sum(nil))
	return b.rules.share(hash, &RuleSet{grants, hash})
}

// compareIDs puts grants[9] before grants[10].
func compareIDs(a, b string) int {
	x, i := splitID(a)
	y, j := splitID(b)
	return cmp.Or(strings.Compare(x, y), cmp.Compare(i, j), strings.Compare(a, b))
}

func splitID(id string) (string, int) {
	head, tail, _ := strings.Cut(id, "[")
	n, _ := strconv.Atoi(strings.TrimSuffix(tail, "]")) // 0 for a name
	return head, n
}

// ownList is what the device itself has in a side.
func (b *builder) ownList(side int) *prefixList {
	if s := &b.sides[side]; !b.e.plain() || !b.whole(s, b.e) {
		return newPrefixList(b.parts(s, b.e))
	}
	return b.e.list
}

// list gives the prefixes of all devices in a side.
func (c *Compiler) list(side int) *prefixList {
	m, s := c.members[side], &c.sides[side]
	if m.list != nil {
		return m.list
	}
	var all, rest []part
	var whole bits
	members := m.bits
	if s.full && !m.empty() {
		rest = append(rest, c.prefixes...)
		members = c.irregular
	}
	for slot := range members.all() {
		if e := c.entries[slot]; e.plain() && c.whole(s, e) {
			whole.set(slot)
			all = append(all, e.own...)
		} else {
			rest = append(rest, c.parts(s, e)...)
		}
	}
	m.list = newPrefixList(append(all, rest...))
	if !s.full {
		m.list.name(whole, rest)
	}
	return m.list
}

// routes gives what the device reaches through gateways, or is reached from, and what others carry as it does.
func (b *builder) routes() (out []Route) {
	if len(b.opposite) == 0 && len(b.e.Routes) == 0 {
		return nil
	}
	carries := map[netip.Prefix]bool{}
	for _, p := range b.e.Routes {
		carries[p] = true
	}
	b.opposite = sortedUnique(b.opposite)
	for slot := range b.carriers.all() {
		if slot == b.slot {
			continue
		}
		e := b.entries[slot]
		for _, behind := range e.behind {
			var parts []part
			if carries[behind.Prefix] {
				parts = append(parts, behind.carried...)
			}
			for _, side := range b.opposite {
				if b.members[side].has(slot) {
					parts = append(parts, b.parts(&b.sides[side], behind.entry)...)
				}
			}
			if len(parts) > 0 {
				out = append(out, Route{Prefix: behind.Prefix, Gateway: e.ID, Exit: behind.Exit, Allowed: prefixes(apart(parts))})
			}
		}
	}
	slices.SortFunc(out, func(x, y Route) int {
		return cmp.Or(x.Prefix.Compare(y.Prefix), bytes.Compare(x.Gateway[:], y.Gateway[:]))
	})
	return out
}

func prefixes(parts []part) (out []netip.Prefix) {
	for _, p := range parts {
		out = append(out, p.Prefix)
	}
	return out
}

// interned keeps one of each set that somebody still holds.
type interned[T any] struct {
	sets map[[32]byte]weak.Pointer[T]
	kept int // after the last look for those that nobody holds
}

// find gives the set with a hash, or nil.
func (n *interned[T]) find(hash [32]byte) *T { return n.sets[hash].Value() }

func (n *interned[T]) share(hash [32]byte, set *T) *T {
	if old := n.find(hash); old != nil {
		return old
	}
	if n.sets == nil {
		n.sets = map[[32]byte]weak.Pointer[T]{}
	}
	if len(n.sets) > 2*n.kept+64 {
		maps.DeleteFunc(n.sets, func(_ [32]byte, w weak.Pointer[T]) bool { return w.Value() == nil })
		n.kept = len(n.sets)
	}
	n.sets[hash] = weak.Make(set)
	return set
}
