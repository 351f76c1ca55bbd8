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

	"warren/nat/relay"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// maxRelays bounds how many of the network's relays a device stays connected to.
const maxRelays = 8

// goneFor is how long a relay's word that a peer is not connected there counts; then it is tried again.
const goneFor = 2 * time.Second

// errNoRelay says that no relay is connected.
var errNoRelay = errors.New("no relay is connected")

// relays keeps a connection to each relay of the network and chooses, for each peer, one that has the peer too. The packet path
// only reads snapshot and routes.
type relays struct {
	log    *slog.Logger
	client func(r *pb.Relay, on relayEvents) (*relay.Client, error)
	on     relayEvents
	// changed is told whenever a relay connects or disconnects.
	changed func()

	ctx      context.Context
	group    sync.WaitGroup
	mu       sync.Mutex
	list     []*relayLink // in order of their keys
	snapshot atomic.Pointer[[]*relayLink]
	routes   sync.Map // [32]byte device key -> *peerRoute; bounded by keep
}

// relayEvents are what relay connections tell.
type relayEvents struct {
	data, signal func(from [key.Size]byte, b []byte)
	gone         func(peer [key.Size]byte)
	state        func(connected bool, remote netip.AddrPort, err error)
}

// relayLink is one relay. up is nil while it is not connected.
type relayLink struct {
	desc   *pb.Relay
	client *relay.Client
	cancel context.CancelFunc
	up     atomic.Pointer[netip.AddrPort]
}

// peerRoute is what is known of one peer: the relay that it was last heard through, and when one last said it was gone.
type peerRoute struct {
	last   atomic.Pointer[relayLink]
	goneAt sync.Map // *relayLink -> time.Time
}

// run lives as long as ctx; set may be called once it has begun.
func (r *relays) run(ctx context.Context) error {
	<-ctx.Done()
	r.mu.Lock()
	for _, l := range r.list {
		l.cancel()
	}
	r.list = nil
	r.mu.Unlock()
	r.group.Wait()
	return nil
}

// set makes the list of relays the given one. Relays that stay keep their connection.
func (r *relays) set(ctx context.Context, want []*pb.Relay) {
	want = slices.SortedFunc(slices.Values(want), func(a, b *pb.Relay) int { return bytes.Compare(a.GetRelayKey(), b.GetRelayKey()) })
	if len(want) > maxRelays {
		want = want[:maxRelays]
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.list
	r.list = nil
	for _, w := range want {
		i := slices.IndexFunc(old, func(l *relayLink) bool { return proto.Equal(l.desc, w) })
		if i >= 0 {
			r.list = append(r.list, old[i])
			old = slices.Delete(slices.Clone(old), i, i+1)
			continue
		}
		if l := r.start(ctx, w); l != nil {
			r.list = append(r.list, l)
		}
	}
	for _, l := range old {
		l.cancel()
	}
	list := slices.Clone(r.list)
	r.snapshot.Store(&list)
}

func (r *relays) start(ctx context.Context, desc *pb.Relay) *relayLink {
	l := &relayLink{desc: desc}
	on := relayEvents{
		data: func(from [key.Size]byte, b []byte) {
			r.heard(from, l)
			r.on.data(from, b)
		},
		signal: func(from [key.Size]byte, b []byte) {
			r.heard(from, l)
			r.on.signal(from, b)
		},
		gone:  func(peer [key.Size]byte) { r.gone(peer, l) },
		state: func(connected bool, remote netip.AddrPort, err error) { r.stateOf(l, connected, remote, err) },
	}
	c, err := r.client(desc, on)
	if err != nil {
		r.log.Warn("relay ignored", "relay", desc.GetName(), "err", err)
		return nil
	}
	ctx, l.cancel = context.WithCancel(ctx)
	l.client = c
	r.group.Go(func() {
		if err := c.Run(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("relay given up", "relay", desc.GetName(), "err", err)
		}
		l.up.Store(nil)
		r.changed()
	})
	return l
}

func (r *relays) stateOf(l *relayLink, connected bool, remote netip.AddrPort, err error) {
	if connected {
		l.up.Store(&remote)
		r.log.Info("relay connected", "relay", l.desc.GetName(), "address", remote)
	} else {
		l.up.Store(nil)
		r.log.Info("relay not connected", "relay", l.desc.GetName(), "err", err)
	}
	r.changed()
}

// reset makes every link reconnect, since the network under it changed.
func (r *relays) reset() {
	for _, l := range r.links() {
		l.client.Reset()
	}
}

func (r *relays) links() []*relayLink {
	if p := r.snapshot.Load(); p != nil {
		return *p
	}
	return nil
}

// first gives the relay that is named in status: the first one connected.
func (r *relays) first() (name string, addr netip.AddrPort, ok bool) {
	for _, l := range r.links() {
		if at := l.up.Load(); at != nil {
			return l.desc.GetName(), *at, true
		}
	}
	return "", netip.AddrPort{}, false
}

func (r *relays) route(peer [key.Size]byte) *peerRoute {
	if v, ok := r.routes.Load(peer); ok {
		return v.(*peerRoute)
	}
	v, _ := r.routes.LoadOrStore(peer, new(peerRoute))
	return v.(*peerRoute)
}

// keep forgets peers that are no longer in the map.
func (r *relays) keep(known func([key.Size]byte) bool) {
	r.routes.Range(func(k, _ any) bool {
		if !known(k.([key.Size]byte)) {
			r.routes.Delete(k)
		}
		return true
	})
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
}

// gone remembers that peer is not on l, and tells the session when it is on none.
func (r *relays) gone(peer [key.Size]byte, l *relayLink) {
	v, ok := r.routes.Load(peer)
	if !ok {
		return
	}
	p := v.(*peerRoute)
	p.goneAt.Store(l, time.Now())
	p.last.CompareAndSwap(l, nil)
	for _, other := range r.links() {
		if other.up.Load() != nil && !p.isGone(other, time.Now()) {
			return
		}
	}
	r.on.gone(peer)
}

func (p *peerRoute) isGone(l *relayLink, now time.Time) bool {
	at, ok := p.goneAt.Load(l)
	return ok && now.Sub(at.(time.Time)) < goneFor
}

// pick chooses the link for a packet to peer: where it was last heard, else the first connected one that has not said it is gone, else
// any connected one, for the peer may have just come.
func (r *relays) pick(peer [key.Size]byte) *relayLink {
	p := r.route(peer)
	if l := p.last.Load(); l != nil && l.up.Load() != nil {
		return l
	}
	var any *relayLink
	for _, l := range r.links() {
		if l.up.Load() == nil {
			continue
		}
		if !p.isGone(l, time.Now()) {
			return l
		}
		if any == nil {
			any = l
		}
	}
	return any
}

// sendData sends a batch of packets to peer; it never blocks.
func (r *relays) sendData(peer [key.Size]byte, bufs [][]byte) error {
	l := r.pick(peer)
	if l == nil {
		return errNoRelay
	}
	return l.client.SendDataBatch(peer, bufs)
}

// sendSignal sends a sealed signal to peer through every connected relay on which it may be: signals are few, and are what finds out.
func (r *relays) sendSignal(peer [key.Size]byte, b []byte) error {
	p := r.route(peer)
	if l := p.last.Load(); l != nil && l.up.Load() != nil {
		return l.client.SendSignal(peer, b)
	}
	err := errNoRelay
	for _, l := range r.links() {
		if l.up.Load() != nil {
			if sendErr := l.client.SendSignal(peer, b); sendErr == nil || err == errNoRelay {
				err = sendErr
			}
		}
	}
	return err
}
