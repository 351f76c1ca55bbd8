// Package engine joins the WireGuard device, the Bind and the TUN wrapper, and keeps in the device only those peers that traffic needs.
//
// Make an Engine with New, which brings the device up; give it the network map with SetMap and what changes in it with Update, run Run, and Close
// it at the end. A peer is
// configured when a packet for it comes out of the TUN, when it calls (wire bind.Config.OnInitiation to Want, and OnCrossed to Recall), or when Want is called for
// any other reason; it is removed when it has been idle, when too many others are newer, and at once when the map no longer has it.
// Packets never wait for any of this: the TUN wrapper and the Bind hold the first ones of a peer until it is configured.
//
// The device is golang.zx2c4.com/wireguard's, unforked; device.go is all that knows it.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.zx2c4.com/wireguard/tun"
	"google.golang.org/protobuf/proto"

	"warren/proto/key"
	pb "warren/proto/warrenv1"
	"warren/tunnel/bind"
	"warren/tunnel/filter"
	"warren/tunnel/tundev"
)

// Defaults of Config.
const (
	DefaultIdleAfter     = 5 * time.Minute
	DefaultMaxConfigured = 16384
	DefaultSocketDir     = "/var/run/wireguard"
)

// Config is what an Engine is made of.
type Config struct {
	// TUN is the interface; the Engine closes it.
	TUN tun.Device
	// Name is the interface's, for the UAPI socket; empty: there is none.
	Name    string
	Bind    *bind.Bind
	Private key.NodePrivate
	Log     *slog.Logger
	// IdleAfter is how long a peer stays configured without traffic. It should not be shorter than a WireGuard session, 180 s.
	IdleAfter time.Duration
	// MaxConfigured bounds the peers in the device, at 26 KB each; the least recently used make room.
	MaxConfigured int
	// OnActive and OnIdle tell that a peer (by its current node key) was configured or removed. Run calls them, one after the other.
	OnActive, OnIdle func(peer key.NodePublic)
	// OnWord is told what the agent of another device has sent by SendWord, OnProbe that a host has answered a Probe, OnUse that a CIDR of a peer's is used
	// that was not for a while, as in tundev.Config. The packet path calls them, several goroutines at once: they must not block.
	OnWord  func(from key.DevicePublic, payload []byte)
	OnProbe func(target netip.Addr, id, seq uint16)
	OnUse   func()
	// Filter is what the packet filter is made with.
	Filter filter.Config
	// SocketDir is where the UAPI socket NAME.sock is made; empty for the place where wg looks.
	SocketDir string
}

// Peer is one device of the map, as the engine needs it.
type Peer struct {
	// Device is the key by which flows of the peer outlive its node keys; zero: the node key stands for it.
	Device  key.DevicePublic
	NodeKey key.NodePublic
	// NextNodeKey is the key being rotated to, or zero. A peer that calls with it is served under it.
	NextNodeKey key.NodePublic
	// Prefixes is what the peer carries, its own addresses among them. Of gateways with the same CIDR only the one that is used may have it here.
	Prefixes []netip.Prefix
	// Addresses are its own. Without, its agent cannot be talked to.
	Addresses []netip.Addr
}

// id is what a peer is known by whatever its node keys.
func (p *Peer) id() [key.Size]byte {
	if p.Device.IsZero() {
		return p.NodeKey.Raw()
	}
	return p.Device.Raw()
}

// Map is a whole network map: peers that are not in it are removed. Its fields are as those of Change.
type Map struct {
	Self     []netip.Addr
	Carries  []netip.Prefix
	Siblings []tundev.Sibling
	Probe    []netip.Addr
	Overlay  []netip.Prefix
	Grants   []*pb.Grant
	Peers    []Peer
}

// Change is what changed in the map. All but the peers is given whole.
type Change struct {
	// Self are this device's overlay addresses, Carries what it carries besides.
	Self    []netip.Addr
	Carries []netip.Prefix
	// Siblings are other devices that carry the same CIDRs.
	Siblings []tundev.Sibling
	// Probe are the addresses that Engine.Probe sends from, at most one of each family: no device has them.
	Probe []netip.Addr
	// Overlay is what addresses of devices are from.
	Overlay []netip.Prefix
	Grants  []*pb.Grant
	// Gone are the devices that have left, Put those that are new or changed after that.
	Gone []key.DevicePublic
	Put  []Peer
}

// self is what packets from peers may be for.
func (c *Change) self() []netip.Prefix {
	out := append([]netip.Prefix{}, c.Carries...)
	for _, a := range c.Self {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}

// PeerStats is what is known of a peer that was configured at least once since it came into the map.
type PeerStats struct {
	NodeKey          key.NodePublic
	LastHandshake    time.Time
	RxBytes, TxBytes uint64
	Configured       bool
}

// Engine is the running tunnel.
type Engine struct {
	cfg  Config
	log  *slog.Logger
	dev  *wireguard
	tun  *tundev.Device
	want wants
	// recall is peers to be called if there is still need.
	recall wants
	// disallowed counts packets that WireGuard has dropped, since another configured peer carries their source.
	disallowed atomic.Uint64

	// known is the keys of the map, current and next, for Want: [key.Size]byte -> struct{}.
	known sync.Map

	mu     sync.Mutex // guards what follows
	roster *roster
	self   []netip.Prefix // as self gives it, which does not tell our own addresses from what we carry
	own    []netip.Addr
	grants []*pb.Grant
	ruled  bool          // grants are in force
	wake   chan struct{} // holds a token when the roster has events to tell
	closed sync.Once
}

// New makes the device and brings it up, so that the Bind is open afterwards. After an error nothing is left but cfg.TUN, closed.
func New(cfg Config) (*Engine, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.IdleAfter <= 0 {
		cfg.IdleAfter = DefaultIdleAfter
	}
	if cfg.MaxConfigured <= 0 {
		cfg.MaxConfigured = DefaultMaxConfigured
	}
	if cfg.SocketDir == "" {
		cfg.SocketDir = DefaultSocketDir
	}
	e := &Engine{cfg: cfg, log: cfg.Log, wake: make(chan struct{}, 1)}
	e.want.init()
	e.recall.init()
	e.tun = tundev.Wrap(cfg.TUN, tundev.Config{
		Log: cfg.Log, Wanted: e.Want, OnWord: cfg.OnWord, OnProbe: cfg.OnProbe, OnUse: cfg.OnUse, Filter: cfg.Filter, Paused: true,
	})
	e.dev = newWireguard(e.tun, cfg.Bind, cfg.Log, &e.disallowed)
	e.roster = newRoster(e.dev, cfg.Bind, e.tun, cfg.Log, cfg.IdleAfter, cfg.MaxConfigured)
	if err := e.dev.up(cfg.Private); err != nil {
		e.dev.close()
		return nil, fmt.Errorf("bringing the tunnel up: %w", err)
	}
	return e, nil
}

// Run keeps the device's peers in line with traffic until ctx ends. Packets from the host wait in the interface until it runs, and until the peers are
// configured for which Want was called before. It fails when the device went away, for example because somebody
// deleted the interface.
func (e *Engine) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return e.cfg.Bind.Run(ctx) })
	group.Go(func() error { return e.loop(ctx) })
	group.Go(func() error { return e.serveUAPI(ctx) })
	return group.Wait()
}

func (e *Engine) loop(ctx context.Context) error {
	sweep := time.NewTicker(min(e.cfg.IdleAfter/4, time.Minute))
	defer sweep.Stop()
	resumed := e.configureWanted() // with whom a session goes on, and who were there a moment ago
	e.tun.Resume()
	tries := []time.Duration{300 * time.Millisecond, 600 * time.Millisecond, 1200 * time.Millisecond}
	again := time.NewTimer(tries[0])
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.dev.gone():
			if ctx.Err() != nil {
				return nil
			}
			return errors.New("the tunnel interface went away")
		case <-e.want.wake:
			e.configureWanted()
		case <-e.recall.wake:
			list := e.recall.take()
			e.change(func(time.Time) { e.roster.recall(list) })
		case <-e.wake:
			e.change(func(time.Time) {})
		case <-again.C:
			e.change(func(time.Time) { resumed = e.roster.callAgain(resumed) })
			if tries = tries[1:]; len(resumed) > 0 && len(tries) > 0 {
				again.Reset(tries[0])
			}
		case <-sweep.C:
			e.change(e.roster.sweep)
		}
	}
}

// configureWanted is for loop, as change is.
func (e *Engine) configureWanted() []key.NodePublic {
	list := e.want.take()
	for _, k := range list {
		e.change(func(now time.Time) { e.roster.want(k, now) })
	}
	return list
}

// change does something to the roster and then tells what came of it, in order. Only loop calls it.
func (e *Engine) change(do func(now time.Time)) {
	e.mu.Lock()
	do(time.Now())
	events := e.roster.takeEvents()
	e.mu.Unlock()
	for _, ev := range events {
		switch {
		case ev.active && e.cfg.OnActive != nil:
			e.cfg.OnActive(ev.peer)
		case !ev.active && e.cfg.OnIdle != nil:
			e.cfg.OnIdle(ev.peer)
		}
	}
}

// Want asks for a peer, by its current or its next key, to be configured. It never blocks; keys that are not in the map are ignored.
func (e *Engine) Want(peer key.NodePublic) {
	if _, ok := e.known.Load(peer.Raw()); ok {
		e.want.add(peer)
	}
}

// Recall has the device call a peer if packets wait for a session with it. It never blocks; peers that are not configured are left alone.
func (e *Engine) Recall(peer key.NodePublic) {
	if _, ok := e.known.Load(peer.Raw()); ok {
		e.recall.add(peer)
	}
}

// SetMap makes m the network map. When it returns, nothing goes to or comes from peers that are not in it. It costs a comparison for each peer;
// Update does not.
func (e *Engine) SetMap(m Map) {
	e.mu.Lock()
	gone, put := e.roster.diff(m.Peers)
	e.update(gone, &Change{
		Self: m.Self, Carries: m.Carries, Siblings: m.Siblings, Probe: m.Probe, Overlay: m.Overlay, Grants: m.Grants, Put: put,
	})
	e.mu.Unlock()
	e.woken()
}

// Update changes the network map, at a cost in proportion to the change. When it returns, nothing goes to or comes from peers that are gone.
func (e *Engine) Update(c Change) {
	var gone [][key.Size]byte
	for _, d := range c.Gone {
		gone = append(gone, d.Raw())
	}
	e.mu.Lock()
	e.update(gone, &c)
	e.mu.Unlock()
	e.woken()
}

func (e *Engine) woken() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// update is for a caller that holds mu.
func (e *Engine) update(gone [][key.Size]byte, c *Change) {
	u := tundev.Update{
		Put: make([]tundev.Peer, 0, len(c.Put)), Probe: append([]netip.Addr{}, c.Probe...),
		Overlay: append([]netip.Prefix{}, c.Overlay...), Siblings: append([]tundev.Sibling{}, c.Siblings...),
	}
	leaves := func(id [key.Size]byte) {
		if m := e.roster.members[id]; m != nil && e.roster.byKey[m.NodeKey.Raw()] == m {
			u.Gone = append(u.Gone, m.NodeKey)
		}
	}
	for _, id := range gone {
		leaves(id)
	}
	for _, p := range c.Put {
		if m := e.roster.members[p.id()]; m != nil && !m.NodeKey.Equal(p.NodeKey) {
			leaves(p.id())
		}
		u.Put = append(u.Put, tundev.Peer{Node: p.NodeKey, Device: p.Device, Prefixes: p.Prefixes, Addresses: p.Addresses})
	}
	if self := c.self(); e.own == nil || !slices.Equal(self, e.self) || !slices.Equal(c.Self, e.own) {
		e.self, e.own = self, append([]netip.Addr{}, c.Self...)
		u.Self, u.Addresses = e.self, e.own
	}
	if !e.ruled || !slices.EqualFunc(c.Grants, e.grants, func(a, b *pb.Grant) bool { return a == b || proto.Equal(a, b) }) {
		e.grants, e.ruled, u.Rules = c.Grants, true, e.rules(c.Grants)
	}
	e.tun.Update(u)
	for _, p := range c.Put {
		e.known.Store(p.NodeKey.Raw(), struct{}{})
		if !p.NextNodeKey.IsZero() {
			e.known.Store(p.NextNodeKey.Raw(), struct{}{})
		}
	}
	for _, k := range e.roster.change(gone, c.Put) {
		e.known.Delete(k.Raw())
	}
}

// SetPeerMTU says what the largest packet is that a peer's path carries, in bytes; 0: no less than the interface's MTU.
func (e *Engine) SetPeerMTU(peer key.NodePublic, mtu int) { e.tun.SetMTU(peer, mtu) }

// rules compiles grants. Grants that make no sense allow nothing: the coordinator that signed them is newer than we are, or broken.
func (e *Engine) rules(grants []*pb.Grant) *filter.Rules {
	rules, err := filter.Compile(grants)
	if err != nil {
		e.log.Error("the map's grants are not understood, so nothing is allowed; is this agent older than the coordinator?", "err", err)
		rules, _ = filter.Compile(nil)
	}
	return rules
}

// Stats tells of every peer that was configured at least once.
func (e *Engine) Stats() []PeerStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.roster.stats()
}

// Packets tells what became of packets between the host and the tunnel.
func (e *Engine) Packets() tundev.Counters {
	c := e.tun.Counters()
	c.Forged += e.disallowed.Load()
	return c
}

// SendWord sends a payload of our own, of at most tundev.MaxWord bytes, to the agent of another device, which is configured for it if need be. It never
// blocks; the word may be lost.
func (e *Engine) SendWord(to key.DevicePublic, payload []byte) error {
	return e.tun.SendWord(to, payload)
}

// Probe has an echo request take the way of forwarded packets to a host behind this device; Config.OnProbe is told of the answer.
func (e *Engine) Probe(target netip.Addr, id, seq uint16) error { return e.tun.Probe(target, id, seq) }

// Borrow and ProbeFrom are Probe from addresses that the host does not translate; see tundev.Device.
func (e *Engine) Borrow(list ...netip.Addr) { e.tun.Borrow(list...) }

// ProbeFrom is a Probe from a borrowed address.
func (e *Engine) ProbeFrom(src, target netip.Addr, id, seq uint16) error {
	return e.tun.ProbeFrom(src, target, id, seq)
}

// Uses says which gateway a device uses for a CIDR that siblings carry, too; zero: this one. See tundev.Device.Uses.
func (e *Engine) Uses(device key.DevicePublic, cidr netip.Prefix, sibling key.DevicePublic) bool {
	return e.tun.Uses(device, cidr, sibling)
}

// Traffic tells when packets last went to and came from each prefix of a device.
func (e *Engine) Traffic(device key.DevicePublic) []tundev.Traffic { return e.tun.Traffic(device) }

// Hosts gives a few hosts of a CIDR that this device carries that were heard of lately, newest first.
func (e *Engine) Hosts(carried netip.Prefix) []tundev.Host { return e.tun.Hosts(carried) }

// Collect tells what happened to flows since the last time; see filter.Collect.
func (e *Engine) Collect(tell func(*filter.Record), omitted func(*filter.Peer, filter.Omitted)) {
	e.tun.Collect(tell, omitted)
}

// Active gives the keys under which peers are configured that were used within a time, the last used first: those with which a session goes on. A
// process that takes over calls Want for them.
func (e *Engine) Active(within time.Duration) []key.NodePublic {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.roster.active(time.Now().Add(-within))
}

// KeepFlows gives the flows that pass at present, and RestoreFlows takes up those of a process before this one; see tundev.Device.
func (e *Engine) KeepFlows() []filter.Kept { return e.tun.KeepFlows() }

// RestoreFlows is called once there is a map.
func (e *Engine) RestoreFlows(flows []filter.Kept) (taken int) { return e.tun.RestoreFlows(flows) }

// Flows visits the flows that pass at present, those of one device or, if that is zero, all, until visit has seen enough.
func (e *Engine) Flows(device key.DevicePublic, visit func(*filter.Record) (more bool)) {
	e.tun.Flows(device, visit)
}

// Close takes the device down and closes the TUN. It may be called more than once, also while Run runs.
func (e *Engine) Close() {
	e.closed.Do(e.dev.close)
}

// wants is the set of peers that someone wants configured. It is bounded by the map: Want lets no other key in.
type wants struct {
	mu   sync.Mutex
	set  map[[key.Size]byte]struct{}
	list []key.NodePublic
	wake chan struct{} // holds a token when the list may not be empty
}

func (w *wants) init() {
	w.set = map[[key.Size]byte]struct{}{}
	w.wake = make(chan struct{}, 1)
}

func (w *wants) add(k key.NodePublic) {
	w.mu.Lock()
	if _, ok := w.set[k.Raw()]; !ok {
		w.set[k.Raw()] = struct{}{}
		w.list = append(w.list, k)
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *wants) take() []key.NodePublic {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.list
	w.list = nil
	clear(w.set)
	return list
}
