package server

import (
	"iter"

	"warren/coord/domain"
	"warren/coord/store"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// access is who may know of whom and what each may do: the policy in force, compiled for the devices of the network. Sight is mutual. The hub
// calls it with its lock held.
type access interface {
	// put takes a device's next state; one that is not visible is taken out.
	put(*store.Device) effect
	sees(a, b rawKey) bool
	// peers gives the devices that a sees, in any order.
	peers(a rawKey) iter.Seq[rawKey]
	// digest sums up the records of a's peers.
	digest(a rawKey) record.Digest
	grants(a rawKey) []*pb.Grant
}

// effect is what a change of one device did to it and to others.
type effect struct {
	gained, lost []rawKey // peers
	// rules are devices whose grants changed.
	rules []rawKey
}

// openAccess lets all devices reach each other on everything.
type openAccess struct {
	all     map[rawKey]*store.Device
	sum     record.Digest
	allowed []*pb.Grant
}

func newOpenAccess(n *domain.Network) *openAccess {
	return &openAccess{all: map[rawKey]*store.Device{}, allowed: domain.BuiltInGrants(n.Prefixes)}
}

func (o *openAccess) put(d *store.Device) (e effect) {
	k := d.Key.Raw()
	old := o.all[k]
	if old != nil {
		o.sum.Toggle(old.Key, old.Version)
		delete(o.all, k)
	}
	others := func() (out []rawKey) {
		for other := range o.all {
			out = append(out, other)
		}
		return out
	}
	switch {
	case d.Visible():
		if old == nil {
			e.gained = others()
		}
		o.all[k] = d
		o.sum.Toggle(d.Key, d.Version)
	case old != nil:
		e.lost = others()
	}
	return e
}

func (o *openAccess) sees(a, b rawKey) bool {
	_, okA := o.all[a]
	_, okB := o.all[b]
	return okA && okB && a != b
}

func (o *openAccess) peers(a rawKey) iter.Seq[rawKey] {
	return func(yield func(rawKey) bool) {
		for k := range o.all {
			if k != a && !yield(k) {
				return
			}
		}
	}
}

func (o *openAccess) digest(a rawKey) record.Digest {
	sum := o.sum
	if d := o.all[a]; d != nil {
		sum.Toggle(d.Key, d.Version)
	}
	return sum
}

func (o *openAccess) grants(rawKey) []*pb.Grant { return o.allowed }
