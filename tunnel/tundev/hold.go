package tundev

import (
	"maps"
	"slices"
	"time"

	"warren/tunnel/filter"
)

// Bounds on held packets, in packets and in bytes.
const (
	maxHeldPeer  = 64
	maxHeldTotal = 1024
	maxHeldBytes = 1 << 20
	// wantAgain is how long to wait before a peer that is still not configured is asked for again.
	wantAgain = time.Second
)

// held is a packet that waits.
type held struct {
	packet []byte
	made   bool // by us, between own addresses: no grant is needed for it
}

// hold keeps a copy of b until p is configured and those before it are gone, and reports whether that is so by now.
func (d *Device) hold(p *peer, b []byte, made bool) (direct bool) {
	d.mu.Lock()
	if p.direct.Load() {
		d.mu.Unlock()
		return true
	}
	d.push(p, b, made)
	now := time.Now()
	want := !p.configured.Load() && now.Sub(p.wantedAt) >= wantAgain
	if want {
		p.wantedAt = now
	}
	d.mu.Unlock()
	if want {
		d.cfg.Wanted(p.key)
	}
	return false
}

// push appends a copy of b to what waits for p. Older packets make room: p's own, or else those of some other peer. The caller holds mu, as
// for all that follows.
func (d *Device) push(p *peer, b []byte, made bool) {
	if d.peers[p.key.Raw()] != p {
		d.counters.heldDropped.Add(1) // the map has changed meanwhile
		return
	}
	for len(p.held) >= maxHeldPeer || d.held >= maxHeldTotal || d.bytes+len(b) > maxHeldBytes {
		victim := p
		if len(p.held) == 0 {
			for victim = range d.holding {
				break
			}
		}
		d.pop(victim)
		d.counters.heldDropped.Add(1)
	}
	p.held = append(p.held, held{append([]byte(nil), b...), made})
	d.holding[p] = struct{}{}
	d.held++
	d.bytes += len(b)
	d.counters.held.Add(1)
}

// pop takes the oldest packet that waits for p.
func (d *Device) pop(p *peer) held {
	h := p.held[0]
	p.held[0] = held{}
	p.held = p.held[1:]
	d.held--
	d.bytes -= len(h.packet)
	if len(p.held) == 0 {
		p.held = nil
		delete(d.holding, p)
	}
	return h
}

// release lets what waits for p be read, and reports whether that is anything.
func (d *Device) release(p *peer) bool {
	if len(p.held) == 0 {
		return false
	}
	if !p.queued {
		p.queued = true
		d.released = append(d.released, p)
	}
	d.pending.Store(true)
	return true
}

// takeReleased gives packets that have waited.
func (d *Device) takeReleased(bufs [][]byte, sizes []int, offset int) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.released) > 0 {
		p := d.released[0]
		for p.configured.Load() && len(p.held) > 0 {
			if n == len(bufs) {
				return n
			}
			sizes[n] = copy(bufs[n][offset:], d.pop(p).packet)
			n++
		}
		p.direct.Store(p.configured.Load())
		p.queued = false
		d.released[0] = nil
		d.released = d.released[1:]
	}
	d.released = nil
	d.pending.Store(false)
	return n
}

// reconsider drops, after a change of the map, what v would not send to the peer that it waits for.
func (d *Device) reconsider(v *view) {
	now := d.now()
	for _, p := range slices.Collect(maps.Keys(d.holding)) {
		waited := len(p.held)
		for range waited {
			h := d.pop(p)
			_, dst, err := filter.Addresses(h.packet)
			to, ok := v.routes.Lookup(dst)
			if err != nil || !ok || to.peer != p || !h.made && d.filter.Again(&p.account.Peer, h.packet, now) != filter.Pass {
				d.counters.heldDropped.Add(1)
				continue
			}
			p.held = append(p.held, h)
			d.held++
			d.bytes += len(h.packet)
		}
		if len(p.held) > 0 {
			d.holding[p] = struct{}{}
		}
	}
}
