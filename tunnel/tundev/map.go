package tundev

import (
	"bytes"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/gaissmai/bart"

	"warren/proto/key"
	"warren/tunnel/filter"
)

// Update is what changed in the map.
type Update struct {
	// Self is what packets from peers may be for: our own addresses and what else we carry. Nil: as before.
	Self []netip.Prefix
	// Addresses are our own overlay addresses, which are in Self as well. Nil: as before.
	Addresses []netip.Addr
	// Probe are the reserved addresses that Probe sends from, at most one of each family. Nil: as before.
	Probe []netip.Addr
	// Overlay is what addresses of devices are from. Those that nobody has are nobody's, however wide a prefix somebody carries. Nil: as before.
	Overlay []netip.Prefix
	// Siblings are those who carry the same as we. Nil: as before.
	Siblings []Sibling
	// Gone are the node keys of peers that have left, Put the peers that are new or changed after that.
	Gone []key.NodePublic
	Put  []Peer
	// Rules are what is allowed. Nil: as before.
	Rules *filter.Rules
}

// Peer is a device of the map under its current node key.
type Peer struct {
	Node key.NodePublic
	// Device is the peer's device key, by which its flows outlive its node keys; zero: the node key stands for it.
	Device   key.DevicePublic
	Prefixes []netip.Prefix
	// Addresses are the peer's own overlay addresses, which are in Prefixes as well.
	Addresses []netip.Addr
}

// account is a device of the map, to the filter and to whatever is about devices rather than node keys.
type account struct {
	filter.Peer
	device key.DevicePublic     // zero if a node key stands for it
	keys   int                  // under how many node keys it is in the map; guarded by Device.setting
	node   atomic.Pointer[peer] // the newest of those
	uses   atomic.Pointer[uses] // which gateways it uses instead of us; nil: us
	words  limiter              // on those that come from it
}

// entry is a prefix of the map and whose it is.
type entry struct {
	*peer
	prefix netip.Prefix
	own    bool // it is the owner's overlay address
	// When a packet last went there or came from there, in nanoseconds since Device.began; 0: never.
	sent, received atomic.Int64
}

// view is an immutable snapshot of the map, as packets see it.
type view struct {
	routes   *bart.Table[*entry]
	own      addresses
	probe    addresses
	carried  []netip.Prefix // what we carry besides our own addresses
	siblings []siblings
	mtu      int // the interface's
}

// addresses are a device's own, one of each family; the zero one is none.
type addresses struct{ v4, v6 netip.Addr }

func addressesOf(list []netip.Addr) (out addresses) {
	for _, a := range list {
		if a = a.Unmap(); a.Is4() && !out.v4.IsValid() {
			out.v4 = a
		} else if a.Is6() && !out.v6.IsValid() {
			out.v6 = a
		}
	}
	return out
}

// between gives the addresses by which two devices reach each other; IPv4 costs less.
func between(from, to addresses) (src, dst netip.Addr, ok bool) {
	if from.v4.IsValid() && to.v4.IsValid() {
		return from.v4, to.v4, true
	}
	return from.v6, to.v6, from.v6.IsValid() && to.v6.IsValid()
}

func (p *Peer) account() [key.Size]byte {
	if p.Device.IsZero() {
		return p.Node.Raw()
	}
	return p.Device.Raw()
}

// Update publishes a change of the map, at a cost in proportion to the change. Packets that wait are dropped unless the new map would send them to
// the same peer; flows that it does not allow end. Of several that carry the very same prefix, we ourselves get its packets, or else the
// peer with the least key.
func (d *Device) Update(u Update) {
	d.setting.Lock()
	defer d.setting.Unlock()
	c := d.change(u) // without mu, for which packets may wait
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range c.left {
		p.configured.Store(false)
		p.direct.Store(false)
	}
	for raw, p := range c.peers {
		if p == nil {
			delete(d.peers, raw)
		} else {
			d.peers[raw] = p
		}
	}
	for id, a := range c.accounts {
		d.accounts[id] = a
	}
	for p, a := range c.addresses {
		p.addresses.Store(&a)
		p.account.node.Store(p)
	}
	var gone []*filter.Peer
	for _, p := range c.left {
		a := p.account
		a.node.CompareAndSwap(p, nil)
		if a.keys == 0 && d.accounts[a.ID] == a {
			delete(d.accounts, a.ID)
			gone = append(gone, &a.Peer)
		}
	}
	v := d.seen(&u, c.routes)
	d.view.Store(v)
	if u.Rules != nil || len(gone) > 0 {
		d.filter.SetRules(u.Rules, d.now(), gone...)
	}
	d.reconsider(v)
}

// change is an Update, worked out.
type change struct {
	d      *Device
	routes *bart.Table[*entry]
	copied bool // routes is ours alone, and nobody has it yet

	peers     map[[key.Size]byte]*peer // nil for those that have left
	accounts  map[[key.Size]byte]*account
	addresses map[*peer]addresses
	left      []*peer
}

// copyAbove is for how many prefixes it costs less to copy the whole table than the way to each.
const copyAbove = 64

func (d *Device) change(u Update) *change {
	c := &change{
		d: d, routes: d.view.Load().routes,
		peers: map[[key.Size]byte]*peer{}, accounts: map[[key.Size]byte]*account{}, addresses: map[*peer]addresses{},
	}
	n := len(u.Gone)
	for i := range u.Put {
		n += len(u.Put[i].Prefixes)
	}
	if n > copyAbove && n > c.routes.Size()/copyAbove {
		c.routes, c.copied = c.routes.Clone(), true
	}
	for _, k := range u.Gone {
		c.leave(c.peer(k.Raw()))
	}
	for i := range u.Put {
		c.put(&u.Put[i])
	}
	if u.Addresses != nil {
		d.addresses = u.Addresses
	}
	if u.Self != nil {
		d.self = u.Self
	}
	if u.Self != nil || u.Addresses != nil {
		c.move(d.us, d.self, d.addresses)
	}
	if u.Probe != nil {
		c.move(d.prober, hosts(u.Probe), u.Probe)
	}
	if u.Overlay != nil {
		c.move(d.nobody, u.Overlay, nil)
	}
	return c
}

// seen gives what packets are to see from now on. The caller holds both locks.
func (d *Device) seen(u *Update, routes *bart.Table[*entry]) *view {
	v := *d.view.Load()
	v.routes = routes
	if u.Addresses != nil {
		v.own = addressesOf(u.Addresses)
	}
	if u.Probe != nil {
		v.probe = addressesOf(u.Probe)
	}
	if u.Self != nil || u.Addresses != nil {
		v.carried = nil
		for _, e := range d.us.entries {
			if !e.own {
				v.carried = append(v.carried, e.prefix)
			}
		}
		d.unlearn(v.carried)
	}
	if u.Siblings != nil {
		d.siblings = u.Siblings
	}
	v.siblings = d.resolve(d.siblings)
	if mtu, err := d.Device.MTU(); err == nil {
		v.mtu = mtu
	}
	return &v
}

func hosts(list []netip.Addr) (out []netip.Prefix) {
	for _, a := range list {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}

// masked gives each prefix once.
func masked(prefixes []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, len(prefixes))
	for i, p := range prefixes {
		out[i] = p.Masked()
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

// peer is who has a node key now, or nil.
func (c *change) peer(raw [key.Size]byte) *peer {
	if p, ok := c.peers[raw]; ok {
		return p
	}
	return c.d.peers[raw]
}

func (c *change) leave(p *peer) {
	if p == nil {
		return
	}
	c.move(p, nil, nil)
	p.account.keys--
	c.peers[p.key.Raw()] = nil
	c.left = append(c.left, p)
}

// put has a peer of the map be as m is. It stays the same object, unless its node key has come to another device.
func (c *change) put(m *Peer) {
	raw, a := m.Node.Raw(), c.account(m)
	p := c.peer(raw)
	if p != nil && p.account != a {
		c.leave(p)
		p = nil
	}
	if p == nil {
		p = &peer{key: m.Node, account: a}
		a.keys++
		c.peers[raw] = p
	}
	c.move(p, m.Prefixes, m.Addresses)
	c.addresses[p] = addressesOf(m.Addresses)
}

// account is that of a device, the one that there was as long as it is in the map.
func (c *change) account(m *Peer) *account {
	id := m.account()
	a := c.accounts[id]
	if a == nil {
		a = c.d.accounts[id]
	}
	if a == nil {
		a = &account{Peer: filter.Peer{ID: id}, device: m.Device}
		c.accounts[id] = a
	}
	return a
}

// move has a peer carry these prefixes instead of those of before, some of which are its own addresses.
func (c *change) move(p *peer, prefixes []netip.Prefix, own []netip.Addr) {
	before := p.entries
	p.entries = nil
	for _, x := range masked(prefixes) {
		mine := x.IsSingleIP() && slices.Contains(own, x.Addr())
		i := slices.IndexFunc(before, func(e *entry) bool { return e.prefix == x && e.own == mine })
		if i >= 0 {
			p.entries = append(p.entries, before[i])
		} else {
			p.entries = append(p.entries, &entry{peer: p, prefix: x, own: mine})
		}
	}
	for _, e := range before {
		if !slices.Contains(p.entries, e) {
			c.release(e)
		}
	}
	for _, e := range p.entries {
		if !slices.Contains(before, e) {
			c.claim(e)
		}
	}
}

func (c *change) claim(e *entry) {
	list := c.d.contested[e.prefix]
	if list == nil {
		other, ok := c.routes.Get(e.prefix)
		if !ok {
			c.insert(e)
			return
		}
		list = []*entry{other}
	}
	list = append(list, e)
	c.d.contested[e.prefix] = list
	c.insert(c.carrier(list))
}

func (c *change) release(e *entry) {
	list, ok := c.d.contested[e.prefix]
	switch list = slices.DeleteFunc(list, func(o *entry) bool { return o == e }); {
	case !ok:
		c.delete(e.prefix)
		return
	case len(list) == 1:
		delete(c.d.contested, e.prefix)
	default:
		c.d.contested[e.prefix] = list
	}
	c.insert(c.carrier(list))
}

// carrier is who of several gets the packets.
func (c *change) carrier(list []*entry) *entry {
	return slices.MinFunc(list, func(a, b *entry) int {
		for _, first := range []*peer{c.d.prober, c.d.us, c.d.nobody} {
			switch first {
			case a.peer:
				return -1
			case b.peer:
				return 1
			}
		}
		x, y := a.key.Raw(), b.key.Raw()
		return bytes.Compare(x[:], y[:])
	})
}

func (c *change) insert(e *entry) {
	if c.copied {
		c.routes.Insert(e.prefix, e)
	} else {
		c.routes = c.routes.InsertPersist(e.prefix, e)
	}
}

func (c *change) delete(x netip.Prefix) {
	if c.copied {
		c.routes.Delete(x)
	} else {
		c.routes = c.routes.DeletePersist(x)
	}
}
