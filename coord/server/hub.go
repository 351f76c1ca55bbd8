package server

import (
	"bytes"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"warren/coord/policy"
	"warren/coord/store"
	"warren/internal/backoff"
	"warren/internal/broadcast"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

type rawKey = [key.Size]byte

// hub is what has been published, in memory, and who watches it. One change costs a step for each device that it concerns.
type hub struct {
	s       *Server
	changed broadcast.Broadcast // for Run: something may be due at another time

	mu        sync.Mutex
	devices   map[rawKey]*store.Device // tombstones too
	visible   int                      // of devices
	access    *access
	confirmBy time.Time // the policy in force is rolled back then; zero: it stays
	relays    map[rawKey]*store.Relay
	revision  uint64
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

func (h *hub) load(p *policy.Policy, confirmBy, at time.Time, devices []*store.Device, relays []*store.Relay, revision uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.revision, h.confirmBy = revision, confirmBy
	dir := h.s.emptyDirectory()
	for _, d := range devices {
		h.set(d)
		if d.Visible() {
			dir.Devices = append(dir.Devices, compiledDevice(&d.Device))
		}
	}
	h.access = newAccess(p, dir, at)
	for _, d := range devices {
		h.access.load(d)
	}
	for _, r := range relays {
		h.relays[r.Key.Raw()] = r
	}
}

// set replaces a device and tells whether relays are to treat it otherwise than before. The caller holds mu.
func (h *hub) set(d *store.Device) (blockedChanged bool) {
	k := d.Key.Raw()
	old := h.devices[k]
	if s, ok := h.unsaved[k]; ok && s.At.After(d.LastSeen) {
		d = seenDevice(d, s)
	}
	h.devices[k] = d
	if old != nil && old.Visible() {
		h.visible--
	}
	if d.Visible() {
		h.visible++
	}
	return (old == nil || old.Visible()) != d.Visible()
}

// returnsPerSecond is how many devices may come back in a second: each costs a TLS handshake, two signatures and what it has missed.
const returnsPerSecond = 1000

// longestReturn bounds how long a device is kept waiting for that.
const longestReturn = 30 * time.Second

// returnWithin is how long devices take to come back which all lose their connections at once.
func (h *hub) returnWithin() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return backoff.Spread(h.visible, returnsPerSecond, longestReturn)
}

func seenDevice(d *store.Device, s store.Sighting) *store.Device {
	next := *d
	next.LastSeen, next.Host = s.At, s.Host
	return &next
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

// advertisers lists the devices that offer to carry something, in no particular order.
func (h *hub) advertisers() (out []key.DevicePublic) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.devices {
		if len(d.Advertised) > 0 {
			out = append(out, d.Key)
		}
	}
	return out
}

// used tells whether the policy lets anybody else use what a gateway carries, and whether a grant names it at all.
func (h *hub) used(k key.DevicePublic, p netip.Prefix) (used, named bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.access.compiled.Used(k.Raw(), p)
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

// policyDue tells when the policy is to be rolled back, and when a time window opens or closes next; zero: never.
func (h *hub) policyDue() (confirmBy, window time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.confirmBy, h.access.next
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
