package server

import (
	"fmt"
	"iter"
	"time"

	"connectrpc.com/connect"

	"warren/coord/reason"
	"warren/coord/store"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// admit decides whether the instance may open a Watch for k, or why not.
func (h *hub) admit(k key.DevicePublic, role pb.Role, me instance, now time.Time) *connect.Error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.admitted(k, role, me, now)
}

// admitted is admit for a caller that holds mu.
func (h *hub) admitted(k key.DevicePublic, role pb.Role, me instance, now time.Time) *connect.Error {
	if role == pb.Role_ROLE_RELAY {
		switch r := h.relays[k.Raw()]; {
		case r == nil:
			return h.s.notMember("relay")
		case r.Removed:
			return h.s.refuse(connect.CodePermissionDenied, reason.Removed, errRemoved())
		}
	} else {
		d := h.devices[k.Raw()]
		switch {
		case d == nil:
			return h.s.notMember("device")
		case !d.Visible() || d.Expired(now):
			return h.s.notAdmitted(d)
		}
	}
	p := h.starts[k.Raw()]
	if p == nil {
		return nil
	}
	if first := p.warning(now) == ""; p.refuses(me, h.watches[k.Raw()] != nil, now) {
		if first {
			h.s.log.Warn("one device key on two machines", "key", k.Short(), "in_use_by", p.last, "refused", me)
		}
		return h.s.refuse(connect.CodeFailedPrecondition, reason.Duplicate, fmt.Errorf(
			"this device's key is in use on another machine, %s; a copied state directory makes two machines one device: run \"warren leave --force\" here and join again", p.last))
	}
	return nil
}

// join makes w the Watch of its device; an older one is closed. The peers are told that the device is online.
func (h *hub) join(w *watch, now time.Time) *connect.Error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if refused := h.admitted(w.device, w.role, w.me, now); refused != nil {
		return refused
	}
	k := w.device.Raw()
	p := h.starts[k]
	if p == nil {
		p = new(starts)
		h.starts[k] = p
	}
	p.take(w.me, now)
	old := h.watches[k]
	if old != nil {
		old.close(h.s.refuse(connect.CodeAborted, reason.Superseded, fmt.Errorf("a newer start of this device took over: %s", w.me)))
	}
	h.watches[k] = w
	if w.role == pb.Role_ROLE_DEVICE {
		for peer := range h.watchingPeers(k) {
			w.tell(peer.device, true)
			// Also when an older Watch was open: the peer may have lost sight of the device meanwhile, and have forgotten its presence.
			peer.tell(w.device, true)
		}
	}
	h.saw(w, now)
	return nil
}

// watchingPeers gives the open Watches of those who see the device. The caller holds mu.
func (h *hub) watchingPeers(k rawKey) iter.Seq[*watch] {
	return func(yield func(*watch) bool) {
		for p := range h.access.peers(k) {
			if w := h.watches[p]; w != nil && !yield(w) {
				return
			}
		}
	}
}

// keepSeen drops the presence of devices that w does not see any more.
func (h *hub) keepSeen(w *watch, presence map[rawKey]bool) {
	if len(presence) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for k := range presence {
		if !h.access.sees(w.device.Raw(), k) {
			delete(presence, k)
		}
	}
}

// leave ends w, unless another one took over already.
func (h *hub) leave(w *watch, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := w.device.Raw()
	if h.watches[k] != w {
		return
	}
	delete(h.watches, k)
	if w.role == pb.Role_ROLE_DEVICE {
		for peer := range h.watchingPeers(k) {
			peer.tell(w.device, false)
		}
	}
	h.saw(w, now)
}

// saw remembers when a device was last heard of; Run stores it. The caller holds mu.
func (h *hub) saw(w *watch, now time.Time) {
	d := h.devices[w.device.Raw()]
	if w.role != pb.Role_ROLE_DEVICE || d == nil {
		return
	}
	s := store.Sighting{At: now, Host: w.host}
	h.unsaved[w.device.Raw()] = s
	h.devices[w.device.Raw()] = seenDevice(d, s)
	if d.Ephemeral {
		h.changed.Wake() // its end moved
	}
}

// takeSightings gives what has not been stored yet, and puts it back if undo is called.
func (h *hub) takeSightings() (all map[rawKey]store.Sighting, undo func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all, h.unsaved = h.unsaved, map[rawKey]store.Sighting{}
	return all, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for k, s := range all {
			if _, newer := h.unsaved[k]; !newer {
				h.unsaved[k] = s
			}
		}
	}
}

// sighting is what the device list shows of a device besides its record.
func (h *hub) sighting(k key.DevicePublic, now time.Time) (online bool, remote, duplicate string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := h.watches[k.Raw()]; w != nil {
		online, remote = true, w.me.remote
	}
	return online, remote, h.starts[k.Raw()].warning(now)
}

// put puts a question to a device, and gives the Watch that it goes down; nil: the device is offline.
func (h *hub) put(q *question) *watch {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.watches[q.device.Key.Raw()]
	if w != nil {
		w.ask(q.FlowsWanted)
	}
	return w
}
