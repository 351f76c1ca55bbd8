package traversal

import (
	"context"
	"net/netip"
	"slices"

	"warren/nat/candidate"
	"warren/nat/path"
	"warren/proto/key"
)

// Kept is how a peer is reached, as one process hands it to the next.
type Kept struct {
	Device key.DevicePublic
	// Candidates are the peer's.
	Candidates []candidate.Candidate
	// Path is the direct path, if its Kind is that; of its fields Local's address, Remote, RTT and MTU count.
	Path Path
}

// Keep asks Run how peers, given by node keys, are reached. Those of which there is nothing to tell are left out. It waits until Run answers or ctx
// ends, and gives nothing then.
func (t *Traversal) Keep(ctx context.Context, nodes []key.NodePublic) []Kept {
	done := make(chan []Kept, 1)
	t.tell(func(o *owner) { done <- o.keep(nodes) })
	select {
	case kept := <-done:
		return kept
	case <-ctx.Done():
		return nil
	}
}

func (o *owner) keep(nodes []key.NodePublic) (out []Kept) {
	for _, n := range nodes {
		id, ok := o.byNode[n.Raw()]
		if !ok || o.peers[id] == nil {
			continue
		}
		r, ok := o.core.Restorable(id)
		if !ok {
			continue
		}
		k := Kept{Device: o.peers[id].Device, Candidates: slices.Clone(r.Candidates)}
		if r.Remote.IsValid() {
			k.Path = directPath(r)
		}
		out = append(out, k)
	}
	return out
}

// Restore tells how a process before this one reached peers. It comes after SetPeers, and before they are Active. What it gives, of each peer, is without
// addresses that nothing may be sent to, for the tunnel to use at once.
func (t *Traversal) Restore(list []Kept, overlay []netip.Prefix) (usable []Kept) {
	for _, k := range list {
		usable = append(usable, k.clean(overlay))
	}
	t.tell(func(o *owner) {
		for _, k := range usable {
			id := k.Device.Raw()
			if o.peers[id] == nil {
				continue
			}
			o.derive(id) // its checks come soon
			o.handle(path.Restore{
				Peer: id, Candidates: k.Candidates, Pair: path.Pair{Local: k.Path.Local.Addr(), Remote: k.Path.Remote}, RTT: k.Path.RTT, MTU: k.Path.MTU,
			})
		}
	})
	return usable
}

func (k Kept) clean(overlay []netip.Prefix) Kept {
	k.Candidates = slices.DeleteFunc(slices.Clone(k.Candidates), func(c candidate.Candidate) bool { return candidate.Usable(c.Addr, overlay) != nil })
	p := k.Path
	inside := slices.ContainsFunc(overlay, func(x netip.Prefix) bool { return x.Contains(p.Local.Addr()) })
	if p.Kind != Direct || p.Socket != 0 || inside || candidate.Usable(p.Remote, overlay) != nil {
		k.Path = Path{}
	}
	return k
}

func directPath(r path.Restore) Path {
	return Path{Kind: Direct, Local: netip.AddrPortFrom(r.Local, 0), Remote: r.Remote, RTT: r.RTT, MTU: r.MTU}
}
