package compile

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

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
	// Routes are the CIDRs that it may carry. One of all addresses makes it an exit node, as Exit does.
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
	entries  []*entry // by slot; nil: free
	free     []int
	slots    map[ID]int
	owned    map[string][]int // slots of untagged devices by owner, rising
	users    map[string]User
	groups   map[string][]string // of sign-in
	signIn   map[string][]string // groups of sign-in by user
	// irregular are the slots of entries that are not regular, carriers of those that have routes or are exit nodes.
	irregular, carriers bits
}

func newDirectory(dir Directory) *directory {
	d := &directory{prefixes: newParts(dir.Prefixes), slots: map[ID]int{}, owned: map[string][]int{}, users: maps.Clone(dir.Users)}
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
	for _, r := range dev.Routes {
		if r.Bits() == 0 {
			e.Exit = true
			continue
		}
		e.Routes = append(e.Routes, r.Masked())
		e.carried = append(e.carried, newPart(r.Masked()))
	}
	e.regular = e.regular && len(e.carried) == 0 && !e.Exit
	e.setBehind()
	e.list = newPrefixList(slices.Clone(e.own))
	return e
}

func (e *entry) setBehind() {
	only := func(p netip.Prefix, exit bool, carried []part) {
		of := *e
		of.own, of.carried, of.Exit = nil, carried, exit
		e.behind = append(e.behind, behind{p, &of})
	}
	for i, p := range e.carried {
		only(p.Prefix, false, e.carried[i:i+1])
	}
	if e.Exit {
		only(netip.PrefixFrom(netip.IPv4Unspecified(), 0), true, nil)
		only(netip.PrefixFrom(netip.IPv6Unspecified(), 0), true, nil)
	}
}

// put adds or replaces a device and gives its slot.
func (d *directory) put(e *entry) int {
	slot, ok := d.slots[e.ID]
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
	return slot
}

// disown takes a device out of what finds it.
func (d *directory) disown(slot int) {
	e := d.entries[slot]
	d.irregular.clear(slot)
	d.carriers.clear(slot)
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

func (d *directory) remove(slot int) {
	d.disown(slot)
	delete(d.slots, d.entries[slot].ID)
	d.entries[slot] = nil
	d.free = append(d.free, slot)
}
