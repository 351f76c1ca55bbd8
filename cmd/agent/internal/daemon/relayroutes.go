package daemon

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"warren/nat/home"
	"warren/proto/key"
)

// goneFor is how long a relay's word that a peer is not connected there counts; then it is tried again.
const goneFor = 2 * time.Second

// errNoRelay says that no relay is connected.
var errNoRelay = errors.New("no relay is connected")

// peerRoute is what is known of one peer: the relay that it was last heard through, those at which it says that it is reached, and when one
// last said it was not there.
type peerRoute struct {
	last     atomic.Pointer[relayLink]
	homes    atomic.Pointer[[]home.ID]
	goneAt   sync.Map     // *relayLink -> time.Time
	searched atomic.Int64 // Unix nanoseconds
}

// preferred lists the links, this device's home and standby first.
func (r *relays) preferred() []*relayLink {
	links := r.links()
	chosen := r.chosen.Load()
	if chosen == nil || len(*chosen) == 0 {
		return links
	}
	out := make([]*relayLink, 0, len(links))
	for i := range *chosen {
		if l := r.linkOf(*chosen, i); l != nil {
			out = append(out, l)
		}
	}
	for _, l := range links {
		if !slices.Contains(*chosen, l.id) {
			out = append(out, l)
		}
	}
	return out
}

// first gives the relay that is named in status: the home, or else the first one connected.
func (r *relays) first() (name string, addr netip.AddrPort, ok bool) {
	for _, l := range r.preferred() {
		if at := l.up.Load(); at != nil {
			return l.desc.GetName(), *at, true
		}
	}
	return "", netip.AddrPort{}, false
}

// add is for a peer that is in the map, forget for one that no longer is.
func (r *relays) add(peer [key.Size]byte) { r.routes.LoadOrStore(peer, new(peerRoute)) }

func (r *relays) forget(peer [key.Size]byte) { r.routes.Delete(peer) }

// route gives what is known of a peer, which for one that is not in the map is nothing.
func (r *relays) route(peer [key.Size]byte) *peerRoute {
	if v, ok := r.routes.Load(peer); ok {
		return v.(*peerRoute)
	}
	return new(peerRoute)
}

// heard remembers that peer is on l. Only peers of the map have a route, so a stranger cannot grow the table.
func (r *relays) heard(peer [key.Size]byte, l *relayLink) {
	v, ok := r.routes.Load(peer)
	if !ok {
		return
	}
	p := v.(*peerRoute)
	if p.last.Load() != l {
		p.last.Store(l)
	}
	p.goneAt.Delete(l)
	r.use(l, time.Now())
}

// reachedAt takes a peer's word where it is reached.
func (r *relays) reachedAt(peer [key.Size]byte, ids []home.ID) {
	if v, ok := r.routes.Load(peer); ok {
		v.(*peerRoute).homes.Store(&ids)
	}
}

// searchAgain is how long a peer that is nowhere is not looked for on further relays.
const searchAgain = time.Minute

// gone remembers that peer is not on l. When it is on none that is connected, the others are asked, and the session hears of it.
func (r *relays) gone(peer [key.Size]byte, l *relayLink) {
	v, ok := r.routes.Load(peer)
	if !ok {
		return
	}
	now := time.Now()
	p := v.(*peerRoute)
	p.goneAt.Store(l, now)
	p.last.CompareAndSwap(l, nil)
	for _, other := range r.links() {
		if other.up.Load() != nil && !p.isGone(other, now) {
			return
		}
	}
	if last := p.searched.Load(); now.UnixNano()-last > int64(searchAgain) && p.searched.CompareAndSwap(last, now.UnixNano()) {
		r.event(home.Search{})
	}
	r.on.gone(peer)
}

func (p *peerRoute) isGone(l *relayLink, now time.Time) bool {
	at, ok := p.goneAt.Load(l)
	return ok && now.Sub(at.(time.Time)) < goneFor
}

// tellUse is how often the core hears that a relay is used.
const tellUse = 5 * time.Second

func (r *relays) use(l *relayLink, now time.Time) {
	if last := l.used.Load(); now.UnixNano()-last > int64(tellUse) && l.used.CompareAndSwap(last, now.UnixNano()) {
		r.event(home.Use{Relay: l.id})
	}
}

// pick chooses the link for a packet to peer: its home, where it was last heard, its standby, else the first connected one that has not said
// it is gone, else any connected one, for the peer may have just come. What is wanted and not connected is connected for the next packets.
func (r *relays) pick(peer [key.Size]byte) *relayLink {
	p, now := r.route(peer), time.Now()
	var homes []home.ID
	if h := p.homes.Load(); h != nil {
		homes = *h
	}
	for i := range homes {
		if l := r.linkOf(homes, i); l != nil && !p.isGone(l, now) {
			r.use(l, now)
			if l.up.Load() != nil {
				return l
			}
		}
		if l := p.last.Load(); i == 0 && l != nil && l.up.Load() != nil {
			return l
		}
	}
	if l := p.last.Load(); l != nil && l.up.Load() != nil {
		return l
	}
	var any *relayLink
	for _, l := range r.preferred() {
		if l.up.Load() == nil {
			continue
		}
		if !p.isGone(l, now) {
			return l
		}
		if any == nil {
			any = l
		}
	}
	return any
}

// sendData sends a batch of packets to peer; it never blocks for long.
func (r *relays) sendData(peer [key.Size]byte, bufs [][]byte) error {
	l := r.pick(peer)
	if l == nil {
		return errNoRelay
	}
	c := l.client.Load()
	if c == nil {
		return errNoRelay
	}
	return (*c).SendDataBatch(peer, bufs)
}

// sendSignal sends a sealed signal to peer through every connected relay on which it may be: signals are few, and are what finds out.
func (r *relays) sendSignal(peer [key.Size]byte, b []byte) error {
	p := r.route(peer)
	if l := r.pick(peer); l != nil && p.last.Load() == l {
		if c := l.client.Load(); c != nil {
			return (*c).SendSignal(peer, b)
		}
	}
	err := errNoRelay
	for _, l := range r.links() {
		c := l.client.Load()
		if l.up.Load() == nil || c == nil {
			continue
		}
		if sendErr := (*c).SendSignal(peer, b); sendErr == nil || err == errNoRelay {
			err = sendErr
		}
	}
	return err
}
