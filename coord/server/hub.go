package server

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"time"

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

	mu       sync.Mutex
	devices  map[rawKey]*store.Device // tombstones too
	digest   record.Digest            // over the visible devices
	relays   map[rawKey]*store.Relay
	revision uint64
	recent   []store.Change // the newest, all after recentAfter
	after    uint64
	watches  map[rawKey]*watch
	past     map[rawKey]*past
}

func newHub(s *Server) *hub {
	return &hub{
		s: s, devices: map[rawKey]*store.Device{}, relays: map[rawKey]*store.Relay{},
		watches: map[rawKey]*watch{}, past: map[rawKey]*past{},
	}
}

// visible tells whether peers see d.
func visible(d *store.Device) bool { return !d.Removed && !d.Gone }

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

// set replaces a device. The caller holds mu.
func (h *hub) set(d *store.Device) {
	k := d.Key.Raw()
	if old := h.devices[k]; old != nil && visible(old) {
		h.digest.Toggle(old.Key, old.Version)
	}
	if visible(d) {
		h.digest.Toggle(d.Key, d.Version)
	}
	h.devices[k] = d
	h.s.cfg.OnBlocked(d.Key, !visible(d))
}

// publish makes a committed batch known and wakes the watchers.
func (h *hub) publish(b *batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range b.devices {
		h.set(d)
		if !visible(d) {
			h.cut(d)
		}
	}
	for _, r := range b.relays {
		h.relays[r.Key.Raw()] = r
		if w := h.watches[r.Key.Raw()]; w != nil && r.Removed {
			w.close(errRemoved())
		}
	}
	for _, c := range b.changes {
		h.revision = c.Revision
		h.recent = append(h.recent, c)
	}
	if extra := len(h.recent) - window; extra > 0 {
		h.after = h.recent[extra-1].Revision
		h.recent = slices.Delete(h.recent, 0, extra)
	}
	if len(b.changes) > 0 {
		for _, w := range h.watches {
			w.poke()
		}
	}
	h.changed.Wake()
}

// cut ends the Watch of a device that is no member any more. The caller holds mu.
func (h *hub) cut(d *store.Device) {
	w := h.watches[d.Key.Raw()]
	if w == nil {
		return
	}
	if d.Removed {
		w.close(errRemoved())
	} else {
		w.close(errExpired(d.ExpiresAt))
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

// look gives what w has not seen since revision after. With snapshot it gives all devices instead.
func (h *hub) look(d key.DevicePublic, after uint64, snapshot bool) view {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := view{revision: h.revision, digest: h.digest, relays: h.relayList()}
	if self := h.devices[d.Raw()]; self != nil && visible(self) {
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

// relay gives the separate relay k, or nil.
func (h *hub) relay(k key.DevicePublic) *store.Relay {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.relays[k.Raw()]
}

// online reports whether k has a Watch open.
func (h *hub) online(k key.DevicePublic) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.watches[k.Raw()] != nil
}

// due lists the devices that are to expire or to be removed now, and when the next one is.
func (h *hub) due(now time.Time, ephemeralAfter time.Duration) (keys []key.DevicePublic, next time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := func(d *store.Device, t time.Time) {
		if !now.Before(t) {
			keys = append(keys, d.Key)
		} else if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for k, d := range h.devices {
		switch {
		case !visible(d):
		case !d.ExpiresAt.IsZero():
			at(d, d.ExpiresAt)
		case d.Ephemeral && h.watches[k] == nil:
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

// seen remembers when a device was last heard of.
func (h *hub) seen(k key.DevicePublic, at time.Time, hostname, os, version string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.devices[k.Raw()]; d != nil {
		next := *d
		next.LastSeen, next.Hostname, next.OS, next.AgentVersion = at, hostname, os, version
		h.devices[k.Raw()] = &next
	}
	h.changed.Wake()
}

// counts are for metrics and status.
func (h *hub) counts() (devices, online int, revision uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k, d := range h.devices {
		if visible(d) {
			devices++
			if h.watches[k] != nil {
				online++
			}
		}
	}
	return devices, online, h.revision
}

// past is what is remembered of a device's former Watches, to notice one key on two machines.
type past struct {
	superseded []instance // oldest first, at most maxPast
	duplicate  string     // for a person; empty when all is well
	noticedAt  time.Time
}

// instance is one start of an agent.
type instance struct {
	id       [16]byte
	hostname string
	remote   string
	at       time.Time
}

func (i instance) String() string { return fmt.Sprintf("host %q (%s)", i.hostname, i.remote) }

const (
	maxPast = 8
	// pastLife is how long a superseded instance is remembered.
	pastLife = time.Hour
	// duplicateLife is how long a refusal lasts after the other machine was last seen.
	duplicateLife = 10 * time.Minute
)

// admit decides whether the instance may open a Watch for k. An instance that comes back after another one took over shows that both
// are running: that is one key on two machines.
func (h *hub) admit(k key.DevicePublic, me instance) (other instance, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.past[k.Raw()]
	current := h.watches[k.Raw()]
	if p == nil || current == nil || current.me.id == me.id {
		return instance{}, true
	}
	p.superseded = slices.DeleteFunc(p.superseded, func(i instance) bool { return me.at.Sub(i.at) > pastLife })
	if !slices.ContainsFunc(p.superseded, func(i instance) bool { return i.id == me.id }) {
		return instance{}, true
	}
	p.duplicate = fmt.Sprintf("its key is in use on two machines: %s and %s", current.me, me)
	p.noticedAt = me.at
	return current.me, false
}

// duplicate tells what is known of a key on two machines.
func (h *hub) duplicate(k key.DevicePublic, now time.Time) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.past[k.Raw()]; p != nil && now.Sub(p.noticedAt) < duplicateLife {
		return p.duplicate
	}
	return ""
}

// join makes w the Watch of its device; an older one is closed. The peers are told that the device is online.
func (h *hub) join(w *watch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := w.device.Raw()
	if old := h.watches[k]; old != nil {
		if old.me.id != w.me.id {
			p := h.past[k]
			if p == nil {
				p = new(past)
				h.past[k] = p
			}
			p.superseded = append(p.superseded, old.me)
			if extra := len(p.superseded) - maxPast; extra > 0 {
				p.superseded = slices.Delete(p.superseded, 0, extra)
			}
		}
		old.close(errSuperseded(w.me))
	}
	h.watches[k] = w
	if w.role == pb.Role_ROLE_DEVICE {
		for other, peer := range h.watches {
			if peer.role != pb.Role_ROLE_DEVICE || other == k {
				continue
			}
			peer.tell(w.device, true)
			w.tell(peer.device, true)
		}
	}
	h.changed.Wake()
}

// leave ends w, unless another one took over already.
func (h *hub) leave(w *watch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := w.device.Raw()
	if h.watches[k] != w {
		return
	}
	delete(h.watches, k)
	if w.role == pb.Role_ROLE_DEVICE {
		for _, peer := range h.watches {
			if peer.role == pb.Role_ROLE_DEVICE {
				peer.tell(w.device, false)
			}
		}
	}
	h.changed.Wake()
}

// remote tells where the Watch of k comes from.
func (h *hub) remote(k key.DevicePublic) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := h.watches[k.Raw()]; w != nil {
		return w.me.remote
	}
	return ""
}
