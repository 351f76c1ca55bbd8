package server

import (
	"bytes"
	"slices"

	"connectrpc.com/connect"

	"warren/coord/reason"
	"warren/coord/store"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// maxQueue is how many changes wait for one Watch in memory; one that is further behind reads the store.
const maxQueue = 512

// publish makes a committed batch known and wakes the watchers. Calls follow each other in the order of revisions. It unlocks what plan locked.
func (h *hub) publish(b *batch) {
	var blocked []*store.Device
	for _, d := range b.devices {
		if h.set(d) && h.announced {
			blocked = append(blocked, d)
		}
		if !d.Visible() {
			h.cut(d)
		}
	}
	for _, r := range b.relays {
		h.relays[r.Key.Raw()] = r
		if w := h.watches[r.Key.Raw()]; w != nil && r.Removed {
			w.close(h.s.refuse(connect.CodePermissionDenied, reason.Removed, errRemoved()))
		}
	}
	if b.policy != nil || b.confirmed {
		h.confirmBy = b.confirmBy
	}
	for _, d := range b.deliveries {
		h.deliver(d)
	}
	for _, p := range b.pairs {
		h.introduce(p)
	}
	h.mu.Unlock()
	for _, d := range blocked {
		h.s.cfg.OnBlocked(d.Key, !d.Visible())
	}
	h.changed.Wake()
}

// undo takes back what plan did with a batch that was not committed, and unlocks the hub.
func (h *hub) undo(b *batch) {
	for _, back := range slices.Backward(b.undo) {
		back()
	}
	h.mu.Unlock()
}

// deliver queues a row for the watchers that it concerns. The caller holds mu.
func (h *hub) deliver(d delivery) {
	h.revision = d.Revision
	push := func(k rawKey) {
		if w := h.watches[k]; w != nil && w.role == pb.Role_ROLE_DEVICE {
			w.push(d.Change)
		}
	}
	switch {
	case d.all:
		for k := range h.watches {
			push(k)
		}
	case d.to != nil:
		for _, k := range d.to {
			push(k)
		}
	default:
		about := rawKey(d.ID)
		push(about)
		for k := range h.access.peers(about) {
			push(k)
		}
	}
	if !d.relays {
		return
	}
	for _, w := range h.watches {
		if w.role == pb.Role_ROLE_RELAY {
			w.push(d.Change)
		}
	}
}

// pair is two devices of which one gained, or lost, sight of the other.
type pair struct{ a, b rawKey }

// introduce tells two devices of each other's presence if they see each other now, and else makes sure that they are not told. The caller holds mu.
func (h *hub) introduce(p pair) {
	sees := h.access.sees(p.a, p.b)
	for _, x := range []pair{p, {p.b, p.a}} {
		w, other := h.watches[x.a], h.devices[x.b]
		switch {
		case w == nil || other == nil:
		case sees:
			w.tell(other.Key, h.watches[x.b] != nil) // that it is away, too: word of its going may not have come, for it was not seen
		default:
			w.forget(other.Key)
		}
	}
}

// push queues a change. The caller holds the hub's mu.
func (w *watch) push(c store.Change) {
	switch {
	case c.Kind == store.KindResnapshot:
		w.queue, w.behind = append(w.queue[:0], c), false
	case w.behind:
	case len(w.queue) == maxQueue:
		w.queue, w.behind = nil, true
	default:
		w.queue = append(w.queue, c)
	}
	w.poke()
}

// view is one consistent moment for one watcher.
type view struct {
	revision uint64
	digest   record.Digest
	told     *told
	relays   []*pb.Relay
	changes  []store.Change  // that it has not seen
	behind   bool            // there are more of them than were kept in memory: the store has them
	devices  []*store.Device // only in a snapshot
}

// take gives what waits for w.
func (h *hub) take(w *watch) view {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.moment(w)
	v.changes, v.behind = w.queue, w.behind
	w.queue, w.behind = nil, false
	return v
}

// moment is what a statement for w says now. The caller holds mu.
func (h *hub) moment(w *watch) view {
	v := view{revision: h.revision}
	if w.role == pb.Role_ROLE_DEVICE {
		k := w.device.Raw()
		v.digest, v.told, v.relays = h.access.digest(k), h.access.tell(k, w.grantPeers), h.relayList()
	}
	return v
}

// snapshot gives all that w may know, in order of keys: for a device itself and its peers, for a relay those that it must not serve. What
// waits for w is in it. again says that w knew others before, and who of them was online.
func (h *hub) snapshot(w *watch, again bool) view {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.moment(w)
	w.queue, w.behind = nil, false
	if w.role == pb.Role_ROLE_RELAY {
		for _, d := range h.devices {
			if !d.Visible() {
				v.devices = append(v.devices, d)
			}
		}
	} else {
		k := w.device.Raw()
		if self := h.devices[k]; self != nil && self.Visible() {
			v.devices = append(v.devices, self)
		}
		for p := range h.access.peers(k) {
			v.devices = append(v.devices, h.devices[p])
			if online := h.watches[p] != nil; online || again {
				w.tell(h.devices[p].Key, online)
			}
		}
	}
	slices.SortFunc(v.devices, func(a, b *store.Device) int {
		x, y := a.Key.Raw(), b.Key.Raw()
		return bytes.Compare(x[:], y[:])
	})
	return v
}

// concerns tells whether a row of the log is to be sent to w, which reads it late: a row for everybody is for those only who see the device now.
// Who lost sight of it has a row of its own.
func (h *hub) concerns(w *watch, c store.Change) bool {
	if !c.Audience.IsZero() || c.Kind != pb.Kind_KIND_DEVICE || w.role == pb.Role_ROLE_RELAY {
		return true
	}
	if len(c.ID) != key.Size {
		return false
	}
	about := rawKey(c.ID)
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.devices[about]
	switch {
	case d == nil:
		return true // a tombstone that was forgotten
	case d.Visible():
		return about == w.device.Raw() || h.access.sees(w.device.Raw(), about)
	}
	return c.Body == nil || bytes.Equal(c.Body.GetPayload(), d.Signed.GetPayload()) && d.Removed
}
