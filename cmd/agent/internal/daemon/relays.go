package daemon

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"warren/nat/home"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// relays runs the core that says which relays of the network to be connected to, and chooses, for each peer, the one that its packets take. The
// packet path only reads snapshot and routes.
type relays struct {
	log    *slog.Logger
	client func(r *pb.Relay, on relayEvents) (relayClient, error)
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

// relayClient is a connection to one relay, as relay.Client is. Run keeps it up until its context ends; the rest never blocks.
type relayClient interface {
	Run(context.Context) error
	SendDataBatch(to [key.Size]byte, packets [][]byte) error
	SendSignal(to [key.Size]byte, b []byte) error
	Reset()
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
	client atomic.Pointer[relayClient]
	cancel context.CancelFunc // of run's goroutine
	up     atomic.Pointer[netip.AddrPort]
	used   atomic.Int64 // Unix nanoseconds: when the core was last told
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
	l.client.Store(&c)
	r.group.Go(func() {
		if err := c.Run(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("relay given up", "relay", l.desc.GetName(), "err", err)
		}
	})
}

func (r *relays) disconnect(l *relayLink) {
	if l.client.Swap(nil) != nil {
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
		if l.client.Load() != nil { // else the core wanted it so, and may have another connection to the same relay by now
			r.event(home.Down{Relay: l.id})
		}
	}
	r.changed()
}

// reset makes every link reconnect, since the network under it changed.
func (r *relays) reset() {
	for _, l := range r.links() {
		if c := l.client.Load(); c != nil {
			(*c).Reset()
		}
	}
}

func (r *relays) links() []*relayLink {
	if p := r.snapshot.Load(); p != nil {
		return *p
	}
	return nil
}
