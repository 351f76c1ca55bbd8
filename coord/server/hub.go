package server

import (
	"bytes"
	"maps"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"warren/coord/reason"
	"warren/coord/store"
	"warren/internal/broadcast"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// window is how many changes the hub keeps in memory; a Watch that is further behind reads the store.
const window = 4096

type rawKey = [key.Size]byte

// hub is what has been published, in memory, and who watches it. One change costs a step for each watcher that it concerns.
type hub struct {
	s       *Server
	changed broadcast.Broadcast // for Run: something may be due at another time

	mu        sync.Mutex
	devices   map[rawKey]*store.Device // tombstones too
	digest    record.Digest            // over the visible devices
	relays    map[rawKey]*store.Relay
	revision  uint64
	recent    []store.Change // the newest, all after revision after
	after     uint64
	watches   map[rawKey]*watch
	starts    map[rawKey]*starts
	unsaved   map[rawKey]store.Sighting
	announced bool // OnBlocked has been told of those that were blocked at the start
}

func newHub(s *Server) *hub {
	return &hub{
		s: s, devices: map[rawKey]*store.Device{}, relays: map[rawKey]*store.Relay{},
		watches: map[rawKey]*watch{}, starts: map[rawKey]*starts{}, unsaved: map[rawKey]store.Sighting{},
	}
}

func (h *hub) load(devices []*store.Device, relays []*store.Relay, revision uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.revision, h.after = revision, revision
	for _, d := range devices {
		h.set(d)
	}
	for _, r := range relays {
		h.relays[r.Key.Raw()] = r
	}
}

// set replaces a device and tells whether relays are to treat it otherwise than before. The caller holds mu.
func (h *hub) set(d *store.Device) (blockedChanged bool) {
	k := d.Key.Raw()
	old := h.devices[k]
	wasVisible := old == nil || old.Visible()
	if old != nil && wasVisible {
		h.digest.Toggle(old.Key, old.Version)
	}
	if d.Visible() {
		h.digest.Toggle(d.Key, d.Version)
	}
	if s, ok := h.unsaved[k]; ok && s.At.After(d.LastSeen) {
		d = seenDevice(d, s)
	}
	h.devices[k] = d
	return wasVisible != d.Visible()
}

func seenDevice(d *store.Device, s store.Sighting) *store.Device {
	next := *d
	next.LastSeen, next.Hostname, next.OS, next.AgentVersion = s.At, s.Hostname, s.OS, s.AgentVersion
	return &next
}

// publish makes a committed batch known and wakes the watchers. Calls follow each other in the order of revisions.
func (h *hub) publish(b *batch) {
	h.mu.Lock()
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
	h.log(b.changes)
	h.mu.Unlock()
	for _, d := range blocked {
		h.s.cfg.OnBlocked(d.Key, !d.Visible())
	}
	h.changed.Wake()
}

// log appends to the changes in memory and pokes whom they concern. The caller holds mu.
func (h *hub) log(changes []store.Change) {
	everybody := false
	for _, c := range changes {
		h.revision = c.Revision
		h.recent = append(h.recent, c)
		if c.Audience.IsZero() {
			everybody = true
		} else if w := h.watches[c.Audience.Raw()]; w != nil {
			w.poke()
		}
	}
	if extra := len(h.recent) - window; extra > 0 {
		h.after = h.recent[extra-1].Revision
		h.recent = slices.Delete(h.recent, 0, extra)
	}
	if everybody {
		for _, w := range h.watches {
			w.poke()
		}
	}
}

// cut ends the Watch of a device that is no member any more. The caller holds mu.
func (h *hub) cut(d *store.Device) {
	k := d.Key.Raw()
	if d.Removed {
		delete(h.starts, k)
	}
	if w := h.watches[k]; w != nil {
		w.close(h.s.notAdmitted(d))
	}
}

// announce tells OnBlocked of every device that is blocked; from then on publish does. The caller sees to it that nothing is published
// meanwhile.
func (h *hub) announce() {
	h.mu.Lock()
	var blocked []*store.Device
	for _, k := range slices.SortedFunc(maps.Keys(h.devices), func(a, b rawKey) int { return bytes.Compare(a[:], b[:]) }) {
		if d := h.devices[k]; !d.Visible() {
			blocked = append(blocked, d)
		}
	}
	h.announced = true
	h.mu.Unlock()
	for _, d := range blocked {
		h.s.cfg.OnBlocked(d.Key, true)
	}
}

// forget drops tombstones that the store has pruned.
func (h *hub) forget(gone []key.DevicePublic) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range gone {
		delete(h.devices, k.Raw())
	}
}

// view is one consistent moment for one watcher.
type view struct {
	revision uint64
	digest   record.Digest
	relays   []*pb.Relay
	changes  []store.Change  // after the watcher's revision; nil with behind
	behind   bool            // the changes are not in memory any more
	devices  []*store.Device // only with snapshot
}

// look gives what the watcher d has not seen since revision after. With snapshot it gives all devices instead.
func (h *hub) look(d key.DevicePublic, after uint64, snapshot bool) view {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := view{revision: h.revision, digest: h.digest, relays: h.relayList()}
	if self := h.devices[d.Raw()]; self != nil && self.Visible() {
		v.digest.Toggle(self.Key, self.Version)
	}
	switch {
	case snapshot:
		for _, dev := range h.devices {
			v.devices = append(v.devices, dev)
		}
		slices.SortFunc(v.devices, func(a, b *store.Device) int {
			x, y := a.Key.Raw(), b.Key.Raw()
			return bytes.Compare(x[:], y[:])
		})
	case after < h.after:
		v.behind = true
	default:
		i, _ := slices.BinarySearchFunc(h.recent, after, func(c store.Change, r uint64) int {
			if c.Revision <= r {
				return -1
			}
			return 1
		})
		v.changes = slices.Clone(h.recent[i:])
	}
	return v
}

// relayList describes the relays in order of their keys, the built-in one first. The caller holds mu.
func (h *hub) relayList() []*pb.Relay {
	var out []*pb.Relay
	for _, r := range h.relays {
		if !r.Removed {
			out = append(out, r.Desc)
		}
	}
	slices.SortFunc(out, func(a, b *pb.Relay) int { return bytes.Compare(a.GetRelayKey(), b.GetRelayKey()) })
	if h.s.cfg.Relay != nil {
		out = slices.Insert(out, 0, h.s.cfg.Relay)
	}
	return out
}

// device gives the published state of k, or nil.
func (h *hub) device(k key.DevicePublic) *store.Device {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.devices[k.Raw()]
}

// due lists the devices that are to expire or to be removed now, and when the next one is.
func (h *hub) due(now time.Time, ephemeralAfter time.Duration) (keys []key.DevicePublic, next time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := func(d *store.Device, t time.Time) bool {
		if !now.Before(t) {
			keys = append(keys, d.Key)
			return true
		}
		if next.IsZero() || t.Before(next) {
			next = t
		}
		return false
	}
	for k, d := range h.devices {
		if d.Removed {
			continue
		}
		if !d.Gone && !d.ExpiresAt.IsZero() && at(d, d.ExpiresAt) {
			continue
		}
		if d.Ephemeral && h.watches[k] == nil {
			at(d, h.lastSeen(d).Add(ephemeralAfter))
		}
	}
	return keys, next
}

func (h *hub) lastSeen(d *store.Device) time.Time {
	if d.LastSeen.After(h.s.startedAt) {
		return d.LastSeen
	}
	return h.s.startedAt // while the coordinator was away nobody could be seen
}

// abandoned tells whether an ephemeral device has been away for too long.
func (h *hub) abandoned(k key.DevicePublic, now time.Time, after time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.devices[k.Raw()]
	return d != nil && d.Ephemeral && h.watches[k.Raw()] == nil && now.Sub(h.lastSeen(d)) >= after
}

// newest is the newest revision that was published.
func (h *hub) newest() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.revision
}

// counts are for metrics and status.
func (h *hub) counts() (devices, online int, revision uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k, d := range h.devices {
		if d.Visible() {
			devices++
			if h.watches[k] != nil {
				online++
			}
		}
	}
	return devices, online, h.revision
}
