package compile

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"warren/coord/policy"
	"warren/proto/key"
)

// ID is a device's key, raw.
type ID = [key.Size]byte

// Device is what a policy can ask about a device.
type Device struct {
	ID        ID
	Name      string // for people
	Addresses []netip.Addr
	Tags      []string // with or without "tag:"
	// Owner is the user's name. A device that has tags belongs to them instead.
	Owner string
	// Routes are the CIDRs that it may carry. One of all addresses makes it an exit node for that family; Exit does so for both.
	Routes []netip.Prefix
	Exit   bool
	// Facts are what is known of its posture; nil if it has reported nothing.
	Facts map[string]string
}

// User is what a policy can ask about a user besides the name.
type User struct{ Admin bool }

// Directory is who and what there is.
type Directory struct {
	// Prefixes are those from which the network's devices get addresses.
	Prefixes []netip.Prefix
	Devices  []Device
	Users    map[string]User
	// Groups are those that sign-in knows, by name without "group:". Where the policy defines a group of the same name, that one counts.
	Groups map[string][]string
}

// entry is a device with what is derived from it.
type entry struct {
	Device
	user    string // the owner, unless it has tags
	own     []part // its addresses
	carried []part // its routes
	out     []part // the internet, as far as it is an exit node
	regular bool   // all its parts lie within the network's prefixes
	behind  []behind
	list    *prefixList // of own
}

// behind is what lies behind a device in one of its routes: a device of its own that has nothing else.
type behind struct {
	netip.Prefix
	*entry
}

// directory keeps devices in slots, and finds them.
type directory struct {
	prefixes []part
	internet [2][]part // IPv4 and IPv6
	entries  []*entry  // by slot; nil: free
	free     []int
	slots    map[ID]int
	order    []int            // slots by key
	owned    map[string][]int // slots of untagged devices by owner, rising
	users    map[string]User
	groups   map[string][]string    // of sign-in
	signIn   map[string][]string    // groups of sign-in by user
	carrying map[netip.Prefix][]int // slots by what they carry, rising; exit nodes aside
	// irregular are the slots of entries that are not regular, carriers of those that have routes or are exit nodes.
	irregular, carriers bits
	passed              uint64 // counts devices that came, went or got another user
}

func newDirectory(dir Directory) *directory {
	d := &directory{
		prefixes: newParts(dir.Prefixes), slots: map[ID]int{}, owned: map[string][]int{}, users: maps.Clone(dir.Users),
		carrying: map[netip.Prefix][]int{},
	}
	for _, p := range newParts(policy.InternetPrefixes()) {
		d.internet[family(p.Prefix)] = append(d.internet[family(p.Prefix)], p)
	}
	if d.users == nil {
		d.users = map[string]User{}
	}
	d.signIn = map[string][]string{}
	d.groups = map[string][]string{}
	for name, users := range dir.Groups {
		d.groups[name] = sortedUnique(slices.Clone(users))
		for _, u := range d.groups[name] {
			d.signIn[u] = append(d.signIn[u], name)
		}
	}
	return d
}

func (d *directory) newEntry(dev *Device) *entry {
	e := &entry{Device: *dev, regular: true}
	e.Tags, e.Routes = nil, nil
	for _, t := range dev.Tags {
		e.Tags = append(e.Tags, strings.TrimPrefix(t, "tag:"))
	}
	e.Tags = sortedUnique(e.Tags)
	if len(e.Tags) == 0 {
		e.user = e.Owner
	}
	for _, a := range dev.Addresses {
		p := netip.PrefixFrom(a, a.BitLen())
		e.own = append(e.own, newPart(p))
		e.regular = e.regular && slices.ContainsFunc(d.prefixes, func(n part) bool { return n.Contains(a) })
	}
	exits := [2]bool{dev.Exit, dev.Exit}
	for _, r := range dev.Routes {
		if r.Bits() == 0 {
			exits[family(r)] = true
			continue
		}
		e.Routes = append(e.Routes, r.Masked())
		e.carried = append(e.carried, newPart(r.Masked()))
	}
	for i, exit := range exits {
		if exit {
			e.out = append(e.out, d.internet[i]...)
		}
	}
	e.Exit = len(e.out) > 0
	e.regular = e.regular && len(e.carried) == 0 && !e.Exit
	e.setBehind(exits)
	e.list = newPrefixList(slices.Clone(e.own))
	return e
}

// family is 0 for IPv4 and 1 for IPv6.
func family(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 0
	}
	return 1
}

func (e *entry) setBehind(exits [2]bool) {
	only := func(p netip.Prefix, out, carried []part) {
		of := *e
		of.own, of.carried, of.out, of.Exit = nil, carried, out, len(out) > 0
		e.behind = append(e.behind, behind{p, &of})
	}
	for i, p := range e.carried {
		only(p.Prefix, nil, e.carried[i:i+1])
	}
	v6 := slices.IndexFunc(e.out, func(p part) bool { return !p.Addr().Is4() })
	if v6 < 0 {
		v6 = len(e.out)
	}
	if exits[0] {
		only(netip.PrefixFrom(netip.IPv4Unspecified(), 0), e.out[:v6], nil)
	}
	if exits[1] {
		only(netip.PrefixFrom(netip.IPv6Unspecified(), 0), e.out[v6:], nil)
	}
}

// put adds or replaces a device and gives its slot.
func (d *directory) put(e *entry) int {
	slot, ok := d.slots[e.ID]
	if !ok || d.entries[slot].user != e.user {
		d.passed++
	}
	switch {
	case ok:
		d.disown(slot)
	case len(d.free) > 0:
		slot = d.free[len(d.free)-1]
		d.free = d.free[:len(d.free)-1]
	default:
		slot = len(d.entries)
		d.entries = append(d.entries, nil)
	}
	if !ok {
		i, _ := d.find(e.ID)
		d.order = slices.Insert(d.order, i, slot)
	}
	d.slots[e.ID], d.entries[slot] = slot, e
	if e.user != "" {
		list := d.owned[e.user]
		i, _ := slices.BinarySearch(list, slot)
		d.owned[e.user] = slices.Insert(list, i, slot)
	}
	if !e.regular {
		d.irregular.set(slot)
	}
	if len(e.carried) > 0 || e.Exit {
		d.carriers.set(slot)
	}
	for _, p := range e.Routes {
		if i, ok := slices.BinarySearch(d.carrying[p], slot); !ok {
			d.carrying[p] = slices.Insert(d.carrying[p], i, slot)
		}
	}
	return slot
}

// disown takes a device out of what finds it.
func (d *directory) disown(slot int) {
	e := d.entries[slot]
	d.irregular.clear(slot)
	d.carriers.clear(slot)
	for _, p := range e.Routes {
		list := d.carrying[p]
		if i, ok := slices.BinarySearch(list, slot); ok {
			list = slices.Delete(list, i, i+1)
		}
		if d.carrying[p] = list; len(list) == 0 {
			delete(d.carrying, p)
		}
	}
	if e.user == "" {
		return
	}
	list := d.owned[e.user]
	if i, ok := slices.BinarySearch(list, slot); ok {
		list = slices.Delete(list, i, i+1)
	}
	if len(list) == 0 {
		delete(d.owned, e.user)
		return
	}
	d.owned[e.user] = list
}

// addSiblings adds the other devices that carry the very same CIDR as slot does. Return packets of flows that came in by one may be given to
// another, which hands them over, so they have to know each other whatever the grants say. Exit nodes are no siblings: what comes back to one comes
// to its own address.
func (d *directory) addSiblings(out *bits, slot int) {
	for _, p := range d.entries[slot].Routes {
		for _, s := range d.carrying[p] {
			if s != slot {
				out.set(s)
			}
		}
	}
}

// siblings reports whether two devices carry the very same CIDR.
func (d *directory) siblings(x, y int) bool {
	return slices.ContainsFunc(d.entries[x].Routes, func(p netip.Prefix) bool {
		_, ok := slices.BinarySearch(d.carrying[p], y)
		return ok
	})
}

func (d *directory) remove(slot int) {
	d.disown(slot)
	if i, ok := d.find(d.entries[slot].ID); ok {
		d.order = slices.Delete(d.order, i, i+1)
	}
	d.passed++
	delete(d.slots, d.entries[slot].ID)
	d.entries[slot] = nil
	d.free = append(d.free, slot)
}
