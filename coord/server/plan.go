package server

import (
	"slices"

	"warren/coord/policy/compile"
	"warren/coord/store"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// bounds are on the rows of the change log that are for one device alone. Beyond them a device gets a snapshot, and the removal of a device that
// very many see is one row for everybody.
type bounds struct {
	own        int // in the log, for one device
	ownChanges int // by one change, for one device
	changes    int // by one change, for all devices together
}

func defaultBounds() bounds { return bounds{own: 256, ownChanges: 64, changes: 4096} }

// A batch becomes rows of the change log before it is committed, and those go to whom they concern once it is. In between the hub is locked,
// for its access is ahead of what has been published.

// delivery is a row and who gets it at once.
type delivery struct {
	store.Change
	// to are devices; nil: whoever sees the device that the row is about, and that device.
	to []rawKey
	// all says that every device gets it.
	all bool
	// relays says that relays get it.
	relays bool
}

// plan works out what the batch changes in the views of devices, and appends the rows. It locks the hub until publish or undo.
func (h *hub) plan(b *batch) error {
	h.mu.Lock()
	b.planned = true
	for _, d := range b.devices {
		if err := h.planDevice(b, d); err != nil {
			return err
		}
	}
	if err := h.planPolicy(b); err != nil {
		return err
	}
	for range b.relays {
		if err := b.append(delivery{Change: store.Change{Kind: pb.Kind_KIND_STATEMENT}, all: true}); err != nil {
			return err
		}
	}
	return b.appendOwn()
}

// planDevice plans for one device's next state. If its version is as it was, nobody is concerned.
func (h *hub) planDevice(b *batch, d *store.Device) error {
	k := d.Key.Raw()
	old := b.latest[k]
	if old == nil {
		old = h.devices[k]
	}
	b.latest[k] = d
	if old != nil && old.Version == d.Version {
		h.planWaiting(b, old, d)
		h.planFacts(b, old, d)
		return nil
	}
	was := before(old, d)
	b.undo = append(b.undo, func() { h.access.put(was) })
	e := h.access.put(d)
	for _, p := range slices.Concat(e.gained, e.lost) {
		if old != nil { // nobody was told of a new one's presence
			b.pairs = append(b.pairs, pair{k, p})
		}
	}
	var err error
	if d.Visible() {
		err = h.planVisible(b, old, d, e)
	} else {
		err = b.planHidden(old, d, e)
	}
	return err
}

// planWaiting plans for a device of which others are told nothing new: it has to know itself which of its routes wait.
func (h *hub) planWaiting(b *batch, old, d *store.Device) {
	if !d.Visible() || slices.Equal(old.WaitingRoutes(), d.WaitingRoutes()) {
		return
	}
	b.undo = append(b.undo, func() { h.access.renew(old) })
	h.access.renew(d)
	b.ownRow(d.Key.Raw(), store.Change{Kind: pb.Kind_KIND_STATEMENT})
}

// planFacts plans for a device of which policies know something else, and others are told nothing new: grants that ask for a posture may hold for it
// now, or hold no longer.
func (h *hub) planFacts(b *batch, old, d *store.Device) {
	if !d.Visible() || old.Host == d.Host {
		return
	}
	b.undo = append(b.undo, func() { h.access.put(old) })
	e, k := h.access.put(d), d.Key.Raw()
	if n := len(e.gained) + len(e.lost); n > 0 {
		e.moves = append(e.moves, compile.Move{ID: k, Gained: e.gained, Lost: e.lost, Many: n > h.s.bounds.ownChanges})
	}
	for _, p := range e.gained {
		e.moves = append(e.moves, compile.Move{ID: p, Gained: []rawKey{k}})
	}
	for _, p := range e.lost {
		e.moves = append(e.moves, compile.Move{ID: p, Lost: []rawKey{k}})
	}
	h.planMoves(b, e)
}

// planPolicy plans for another policy, or for time windows that open and close.
func (h *hub) planPolicy(b *batch) error {
	a, now, most := h.access, h.s.cfg.Now(), h.s.bounds.ownChanges
	old, at := a.compiled.Policy(), a.at
	switch {
	case b.policy != nil:
		b.undo = append(b.undo, func() { a.setPolicy(old, at, most) })
		h.planMoves(b, a.setPolicy(b.policy, now, most))
	case b.advance:
		b.undo = append(b.undo, func() { a.advance(at, most) })
		h.planMoves(b, a.advance(now, most))
	default:
		return nil
	}
	return store.SetMetaNumber(b.tx, metaPolicyAt, uint64(now.UnixNano()))
}

// planMoves plans for a change of the policy or of time: who gains or loses sight of others is told so, who only has other grants gets a statement.
func (h *hub) planMoves(b *batch, e effect) {
	moved := map[rawKey]bool{}
	for _, m := range e.moves {
		moved[m.ID] = true
		if m.Many {
			b.resnapshot(m.ID)
			continue
		}
		for _, p := range m.Lost {
			b.ownRow(m.ID, store.Change{Kind: pb.Kind_KIND_DEVICE, ID: slices.Clone(p[:])})
			b.pairs = append(b.pairs, pair{m.ID, p})
		}
		for _, p := range m.Gained {
			b.ownRow(m.ID, store.Change{Kind: pb.Kind_KIND_DEVICE, ID: slices.Clone(p[:]), Body: h.signed(b, p)})
			b.pairs = append(b.pairs, pair{m.ID, p})
		}
	}
	for _, k := range e.changed {
		if !moved[k] {
			b.ownRow(k, store.Change{Kind: pb.Kind_KIND_STATEMENT})
		}
	}
}

// before is the state that takes d out of access again: the one before, or that of a device that nobody sees.
func before(old, d *store.Device) *store.Device {
	if old != nil {
		return old
	}
	hidden := *d
	hidden.Gone = true
	return &hidden
}

// planVisible plans one row for everybody who sees d; whom d sees itself is told in rows of its own.
func (h *hub) planVisible(b *batch, old, d *store.Device, e effect) error {
	k := d.Key.Raw()
	wasHidden := old != nil && !old.Visible()
	row := store.Change{Kind: pb.Kind_KIND_DEVICE, ID: d.Key.Bytes(), Body: d.Signed}
	if err := b.append(delivery{Change: row, relays: wasHidden}); err != nil {
		return err
	}
	for _, p := range e.lost {
		b.ownRow(p, store.Change{Kind: pb.Kind_KIND_DEVICE, ID: d.Key.Bytes()})
		b.ownRow(k, store.Change{Kind: pb.Kind_KIND_DEVICE, ID: slices.Clone(p[:])})
	}
	switch {
	case wasHidden:
		b.resnapshot(k) // it was told nothing meanwhile
	case old != nil:
		for _, p := range e.gained {
			b.ownRow(k, store.Change{Kind: pb.Kind_KIND_DEVICE, ID: slices.Clone(p[:]), Body: h.signed(b, p)})
		}
	}
	return nil
}

// planHidden plans for a device that expired or was removed: a row for each that saw it, or, if those are many, one for everybody, by which
// strangers learn no more than the key of a device that is gone.
func (b *batch) planHidden(old, d *store.Device, e effect) error {
	row := store.Change{Kind: pb.Kind_KIND_DEVICE, ID: d.Key.Bytes()}
	if d.Removed {
		row.Body = d.Signed // an expired device is out of sight, not removed
	}
	flips := old == nil || old.Visible()
	if len(e.lost) > b.s.bounds.ownChanges {
		return b.append(delivery{Change: row, to: e.lost, relays: flips})
	}
	for _, p := range e.lost {
		b.ownRow(p, row)
	}
	if !flips && !d.Removed {
		return nil
	}
	row.Kind = pb.Kind_KIND_BLOCKED
	return b.append(delivery{Change: row, to: []rawKey{}, relays: true})
}

// signed gives the newest record of a device.
func (h *hub) signed(b *batch, k rawKey) *pb.Signed {
	if d := b.latest[k]; d != nil {
		return d.Signed
	}
	return h.devices[k].Signed
}

// ownRow notes a row for one device alone.
func (b *batch) ownRow(to rawKey, c store.Change) {
	if _, known := b.own[to]; !known {
		b.ownOrder = append(b.ownOrder, to)
	}
	b.own[to] = append(b.own[to], c)
	b.ownRows++
}

// resnapshot notes that a device needs a snapshot.
func (b *batch) resnapshot(k rawKey) {
	b.ownRow(k, store.Change{Kind: store.KindResnapshot})
}

// appendOwn appends the rows for single devices, each device's own in a row, or one that asks for a snapshot.
func (b *batch) appendOwn() error {
	for _, k := range b.ownOrder {
		d, err := key.DevicePublicFromBytes(k[:])
		if err != nil {
			return err
		}
		if last := b.latest[k]; last != nil && last.Removed {
			continue // nobody will ever read them
		}
		rows := b.own[k]
		many, err := b.tooMany(d, rows)
		if err != nil {
			return err
		}
		if many {
			rows = []store.Change{{Kind: store.KindResnapshot}}
		}
		for _, c := range rows {
			c.Audience = d
			if err := b.append(delivery{Change: c, to: []rawKey{k}}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *batch) tooMany(d key.DevicePublic, rows []store.Change) (bool, error) {
	asks := func(c store.Change) bool { return c.Kind == store.KindResnapshot }
	if len(rows) > b.s.bounds.ownChanges || len(rows) > 1 && b.ownRows > b.s.bounds.changes || slices.ContainsFunc(rows, asks) {
		return true, nil
	}
	have, err := b.tx.OwnChanges(d)
	return have+len(rows) > b.s.bounds.own, err
}

// append writes a row and keeps it for those who watch.
func (b *batch) append(d delivery) (err error) {
	if d.Revision, err = b.tx.Append(d.Change); err != nil {
		return err
	}
	b.deliveries = append(b.deliveries, d)
	return nil
}
