package tundev

import (
	"bytes"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"warren/proto/key"
	"warren/tunnel/filter"
)

// Update is what changed in the map.
type Update struct {
	// Self is what packets from peers may be for: our own addresses and what else we carry. Nil: as before.
	Self []netip.Prefix
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
}

// account is a device of the map to the filter.
type account struct {
	filter.Peer
	keys int // under how many node keys it is in the map; guarded by Device.setting
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
	var gone []*filter.Peer
	for _, p := range c.left {
		if a := p.account; a.keys == 0 && d.accounts[a.ID] == a {
			delete(d.accounts, a.ID)
			gone = append(gone, &a.Peer)
		}
	}
	d.routes.Store(c.routes)
	if u.Rules != nil || len(gone) > 0 {
		d.filter.SetRules(u.Rules, d.now(), gone...)
	}
	d.reconsider(c.routes)
}

// change is an Update, worked out.
type change struct {
	d      *Device
	routes *bart.Table[*peer]
	copied bool // routes is ours alone, and nobody has it yet

	peers    map[[key.Size]byte]*peer // nil for those that have left
	accounts map[[key.Size]byte]*account
	left     []*peer
}

// copyAbove is for how many prefixes it costs less to copy the whole table than the way to each.
const copyAbove = 64

func (d *Device) change(u Update) *change {
	c := &change{d: d, routes: d.routes.Load(), peers: map[[key.Size]byte]*peer{}, accounts: map[[key.Size]byte]*account{}}
	if n := len(u.Put) + len(u.Gone); n > copyAbove && n > c.routes.Size()/copyAbove {
		c.routes, c.copied = c.routes.Clone(), true
	}
	for _, k := range u.Gone {
		c.leave(c.peer(k.Raw()))
	}
	for i := range u.Put {
		c.put(&u.Put[i])
	}
	if u.Self != nil {
		self := masked(u.Self)
		c.move(d.us, d.self, self)
		d.self = self
	}
	return c
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
	c.move(p, p.prefixes, nil)
	p.account.keys--
	c.peers[p.key.Raw()] = nil
	c.left = append(c.left, p)
}

// put has a peer of the map be as m is. It stays the same object, unless its node key has come to another device.
func (c *change) put(m *Peer) {
	raw, a := m.Node.Raw(), c.account(m.account())
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
	prefixes := masked(m.Prefixes)
	c.move(p, p.prefixes, prefixes)
	p.prefixes = prefixes
}

// account is that of a device, the one that there was as long as it is in the map.
func (c *change) account(id [key.Size]byte) *account {
	a := c.accounts[id]
	if a == nil {
		a = c.d.accounts[id]
	}
	if a == nil {
		a = &account{Peer: filter.Peer{ID: id}}
		c.accounts[id] = a
	}
	return a
}

// move has a peer carry other prefixes than before.
func (c *change) move(p *peer, before, after []netip.Prefix) {
	for _, x := range before {
		if !slices.Contains(after, x) {
			c.release(x, p)
		}
	}
	for _, x := range after {
		if !slices.Contains(before, x) {
			c.claim(x, p)
		}
	}
}

func (c *change) claim(x netip.Prefix, p *peer) {
	list := c.d.contested[x]
	if list == nil {
		other, ok := c.routes.Get(x)
		if !ok || other == p {
			c.insert(x, p)
			return
		}
		list = []*peer{other}
	}
	if !slices.Contains(list, p) {
		list = append(list, p)
	}
	c.d.contested[x] = list
	c.insert(x, c.carrier(list))
}

func (c *change) release(x netip.Prefix, p *peer) {
	list, ok := c.d.contested[x]
	switch list = slices.DeleteFunc(list, func(o *peer) bool { return o == p }); {
	case !ok:
		c.delete(x)
		return
	case len(list) == 1:
		delete(c.d.contested, x)
	default:
		c.d.contested[x] = list
	}
	c.insert(x, c.carrier(list))
}

// carrier is who of several gets the packets.
func (c *change) carrier(list []*peer) *peer {
	return slices.MinFunc(list, func(a, b *peer) int {
		switch c.d.us {
		case a:
			return -1
		case b:
			return 1
		}
		x, y := a.key.Raw(), b.key.Raw()
		return bytes.Compare(x[:], y[:])
	})
}

func (c *change) insert(x netip.Prefix, p *peer) {
	if c.copied {
		c.routes.Insert(x, p)
	} else {
		c.routes = c.routes.InsertPersist(x, p)
	}
}

func (c *change) delete(x netip.Prefix) {
	if c.copied {
		c.routes.Delete(x)
	} else {
		c.routes = c.routes.DeletePersist(x)
	}
}
