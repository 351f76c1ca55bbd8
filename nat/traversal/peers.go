package traversal

import (
	"warren/nat/check"
	"warren/nat/path"
	"warren/nat/signal"
	"warren/proto/key"
)

// deriveAtOnce is how many peers get their keys in one go while nothing else is to be done: about a millisecond's work.
const deriveAtOnce = 8

// setPeers makes the peers those of the list. Peers that stay, with the keys they had, cost a comparison.
func (o *owner) setPeers(list []Peer) {
	keep := make(map[path.ID]bool, len(list))
	for _, n := range list {
		id := n.Device.Raw()
		keep[id] = true
		p := o.peers[id]
		if p == nil {
			p = &peer{}
			o.peers[id] = p
		} else if p.Node.Equal(n.Node) && p.NextNode.Equal(n.NextNode) {
			continue
		}
		o.rekey(id, p, n)
	}
	for id, p := range o.peers {
		if !keep[id] {
			o.remove(id, p)
		}
	}
}

// rekey takes the keys of n. Those under which the tunnel still has the peer stay known until it says otherwise.
func (o *owner) rekey(id path.ID, p *peer, n Peer) {
	o.unname(id, p)
	if !p.Node.IsZero() && !p.Node.Equal(n.Node) {
		o.t.movePath(p.Node.Raw(), n.Node.Raw())
	}
	p.Peer = n
	p.derived = false
	o.underived = append(o.underived, id)
	o.byNode[n.Node.Raw()] = id
	if !n.NextNode.IsZero() {
		o.byNode[n.NextNode.Raw()] = id
	}
	for raw := range p.active {
		o.byNode[raw] = id
	}
	if p.box != nil {
		o.setBoxKeys(p)
	}
	if len(p.active) > 0 {
		o.derive(id)
	}
}

func (o *owner) unname(id path.ID, p *peer) {
	raws := [][key.Size]byte{p.Node.Raw(), p.NextNode.Raw()}
	for raw := range p.active {
		raws = append(raws, raw)
	}
	for _, raw := range raws {
		if o.byNode[raw] == id {
			delete(o.byNode, raw)
		}
	}
}

func (o *owner) remove(id path.ID, p *peer) {
	o.handle(path.Forget{Peer: id})
	o.unname(id, p)
	o.table.Set(id)
	o.t.removePath(p.Node.Raw())
	o.t.forget(p.Node.Raw())
	for _, told := range p.askers {
		told <- false
	}
	delete(o.peers, id)
}

func (o *owner) active(n key.NodePublic) {
	id, ok := o.byNode[n.Raw()]
	if !ok {
		return // no longer in the map; the tunnel will learn of it
	}
	o.derive(id)
	p := o.peers[id]
	if p.active == nil {
		p.active = map[[key.Size]byte]key.NodePublic{}
	}
	p.active[n.Raw()] = n
	o.handle(path.Activate{Peer: id})
}

func (o *owner) idle(n key.NodePublic) {
	id, ok := o.byNode[n.Raw()]
	if !ok {
		return
	}
	p := o.peers[id]
	delete(p.active, n.Raw())
	if !p.Node.Equal(n) && !p.NextNode.Equal(n) {
		delete(o.byNode, n.Raw())
	}
	if len(p.active) == 0 {
		o.handle(path.Deactivate{Peer: id})
	}
}

// derive makes the keys of a peer's checks, if that has not been done.
func (o *owner) derive(id path.ID) {
	p := o.peers[id]
	if p == nil || p.derived {
		return
	}
	p.derived = true
	var keys []*check.Keys
	for _, n := range p.nodes() {
		k, err := check.NewKeys(o.t.cfg.Self, n)
		if err != nil {
			o.t.log.Warn("no checks with a peer: its node key is of no use", "peer", n.Short(), "err", err)
			continue
		}
		keys = append(keys, k)
	}
	o.table.Set(id, keys...)
}

func (o *owner) deriveSome() {
	n := min(deriveAtOnce, len(o.underived))
	for _, id := range o.underived[:n] {
		o.derive(id)
	}
	o.underived = o.underived[n:]
	if len(o.underived) == 0 {
		o.underived = nil
	}
}

// boxOf makes the peer's box when it is first needed; nil if its keys are of no use.
func (o *owner) boxOf(p *peer) *signal.Box {
	if p.box == nil {
		p.box = signal.NewBox()
		o.setBoxKeys(p)
	}
	return p.box
}

func (o *owner) setBoxKeys(p *peer) {
	var keys []*signal.Keys
	for _, n := range p.nodes() {
		if k, err := signal.NewKeys(o.t.cfg.Self, n); err == nil {
			keys = append(keys, k)
		}
	}
	p.box.SetKeys(keys...)
}

// nodes are the keys of a peer that are good now, the current one first.
func (p *peer) nodes() []key.NodePublic {
	if p.NextNode.IsZero() {
		return []key.NodePublic{p.Node}
	}
	return []key.NodePublic{p.Node, p.NextNode}
}
