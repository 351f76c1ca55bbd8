package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"warren/nat/home"
	"warren/nat/relay"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// goneFor is how long a relay's word that a peer is not connected there counts; then it is tried again.
const goneFor = 2 * time.Second

// errNoRelay says that no relay is connected.
var errNoRelay = errors.New("no relay is connected")

// relays runs the core that says which relays of the network to be connected to, and chooses, for each peer, the one that its packets take. The
// packet path only reads snapshot and routes.
type relays struct {
	log    *slog.Logger
	client func(r *pb.Relay, on relayEvents) (*relay.Client, error)
	on     relayEvents
	// changed is told whenever a relay connects or disconnects, homes at which relays this device is reached from now on.
	changed func()
	homes   func([]home.ID)

	ctx      context.Context
	group    sync.WaitGroup
	mu       sync.Mutex
	told     []func(*home.Core) // what run is to do
	wake     chan struct{}
	snapshot atomic.Pointer[[]*relayLink] // in order of their keys
	chosen   atomic.Pointer[[]home.ID]
	routes   sync.Map // [32]byte device key -> *peerRoute; bounded by the map
}

// relayEvents are what relay connections tell.
type relayEvents struct {
	data   func(from [key.Size]byte, packets [][]byte)
	signal func(from [key.Size]byte, b []byte)
	gone   func(peer [key.Size]byte)
	state  func(connected bool, remote netip.AddrPort, err error)
	rtt    func(time.Duration)
}

// relayLink is one relay. client is nil while no connection is wanted, up while there is none.
type relayLink struct {
	desc   *pb.Relay
	id     home.ID
	client atomic.Pointer[relay.Client]
	cancel context.CancelFunc // of run's goroutine
	up     atomic.Pointer[netip.AddrPort]
	used   atomic.Int64 // Unix nanoseconds: when the core was last told
}

// peerRoute is what is known of one peer: the relay that it was last heard through, those at which it says that it is reached, and when one
// last said it was not there.
type peerRoute struct {
	last     atomic.Pointer[relayLink]
	homes    atomic.Pointer[[]home.ID]
	goneAt   sync.Map     // *relayLink -> time.Time
	searched atomic.Int64 // Unix nanoseconds
}

// run lives as long as ctx; the rest may be called before.
func (r *relays) run(ctx context.Context) error {
	core := home.New()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var next time.Time
		for _, f := range append(r.takeTold(), func(c *home.Core) { next = r.handle(c, nil) }) {
			f(core)
		}
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			for _, l := range r.links() {
				r.disconnect(l)
			}
			r.group.Wait()
			return nil
		case <-r.wake:
		case <-timer.C:
		}
	}
}

func (r *relays) tell(f func(*home.Core)) {
	r.mu.Lock()
	r.told = append(r.told, f)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *relays) event(e home.Event) { r.tell(func(c *home.Core) { r.handle(c, e) }) }

func (r *relays) takeTold() []func(*home.Core) {
	r.mu.Lock()
	defer r.mu.Unlock()
	told := r.told
	r.told = nil
	return told
}

// handle passes an event to the core and does what it says.
func (r *relays) handle(c *home.Core, e home.Event) time.Time {
	actions, next := c.Handle(time.Now(), e)
	for _, a := range actions {
		switch a := a.(type) {
		case home.Connect:
			if l := r.find(a.Relay); l != nil {
				r.connect(l)
			}
		case home.Disconnect:
			if l := r.find(a.Relay); l != nil {
				r.disconnect(l)
			}
		case home.Chosen:
			r.chosen.Store(&a.Relays)
			if l := r.linkOf(a.Relays, 0); l != nil {
				r.log.Info("home relay", "relay", l.desc.GetName(), "region", l.desc.GetRegion())
			}
			r.homes(a.Relays)
			r.changed()
		}
	}
	return next
}

// set makes the list of relays the given one. Relays that stay keep their connection.
func (r *relays) set(want []*pb.Relay) {
	want = slices.SortedFunc(slices.Values(want), func(a, b *pb.Relay) int { return bytes.Compare(a.GetRelayKey(), b.GetRelayKey()) })
	r.tell(func(c *home.Core) {
		var list []*relayLink
		var ids, kept []home.ID
		for _, w := range want {
			if len(w.GetRelayKey()) != key.Size {
				continue // the statement was checked; this keeps the conversion from panicking
			}
			l := r.find(home.ID(w.GetRelayKey()))
			if l == nil || !proto.Equal(l.desc, w) {
				l = &relayLink{desc: w, id: home.ID(w.GetRelayKey())}
			} else {
				kept = append(kept, l.id)
			}
			list, ids = append(list, l), append(ids, l.id)
		}
		r.handle(c, home.SetRelays{IDs: kept}) // those that go, and those that are described anew, are disconnected
		r.snapshot.Store(&list)
		r.handle(c, home.SetRelays{IDs: ids})
	})
}

func (r *relays) find(id home.ID) *relayLink {
	links := r.links()
	i, ok := slices.BinarySearchFunc(links, id, func(l *relayLink, id home.ID) int { return bytes.Compare(l.id[:], id[:]) })
	if !ok {
		return nil
	}
	return links[i]
}

// linkOf gives the i-th of a list of relays, or nil.
func (r *relays) linkOf(ids []home.ID, i int) *relayLink {
	if i >= len(ids) {
		return nil
	}
	return r.find(ids[i])
}

func (r *relays) connect(l *relayLink) {
	on := relayEvents{
		data: func(from [key.Size]byte, packets [][]byte) {
			r.heard(from, l)
			r.on.data(from, packets)
		},
		signal: func(from [key.Size]byte, b []byte) {
			r.heard(from, l)
			r.on.signal(from, b)
		},
		gone:  func(peer [key.Size]byte) { r.gone(peer, l) },
		state: func(connected bool, remote netip.AddrPort, err error) { r.stateOf(l, connected, remote, err) },
		rtt:   func(rtt time.Duration) { r.event(home.RTT{Relay: l.id, RTT: rtt}) },
	}
	c, err := r.client(l.desc, on)
	if err != nil {
		r.log.Warn("relay ignored", "relay", l.desc.GetName(), "err", err)
		return
	}
	ctx, cancel := context.WithCancel(r.ctx)
	l.cancel = cancel
	l.client.Store(c)
	r.group.Go(func() {
		if err := c.Run(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("relay given up", "relay", l.desc.GetName(), "err", err)
		}
	})
}

func (r *relays) disconnect(l *relayLink) {
	if c := l.client.Swap(nil); c != nil {
		l.cancel()
		l.up.Store(nil)
		r.changed()
	}
}

func (r *relays) stateOf(l *relayLink, connected bool, remote netip.AddrPort, err error) {
	switch {
	case connected && l.client.Load() != nil:
		l.up.Store(&remote)
		r.log.Info("relay connected", "relay", l.desc.GetName(), "region", l.desc.GetRegion(), "address", remote)
		r.event(home.Up{Relay: l.id})
	case !connected:
		l.up.Store(nil)
		r.log.Info("relay not connected", "relay", l.desc.GetName(), "err", err)
		r.event(home.Down{Relay: l.id})
	}
	r.changed()
}

// reset makes every link reconnect, since the network under it changed.
func (r *relays) reset() {
	for _, l := range r.links() {
		if c := l.client.Load(); c != nil {
			c.Reset()
		}
	}
}

func (r *relays) links() []*relayLink {
	if p := r.snapshot.Load(); p != nil {
		return *p
	}
	return nil
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
	return c.SendDataBatch(peer, bufs)
}

// sendSignal sends a sealed signal to peer through every connected relay on which it may be: signals are few, and are what finds out.
func (r *relays) sendSignal(peer [key.Size]byte, b []byte) error {
	p := r.route(peer)
	if l := r.pick(peer); l != nil && p.last.Load() == l {
		if c := l.client.Load(); c != nil {
			return c.SendSignal(peer, b)
		}
	}
	err := errNoRelay
	for _, l := range r.links() {
		c := l.client.Load()
		if l.up.Load() == nil || c == nil {
			continue
		}
		if sendErr := c.SendSignal(peer, b); sendErr == nil || err == errNoRelay {
			err = sendErr
		}
	}
	return err
}
