// Package tundev wraps the TUN device that WireGuard reads from and writes to. It finds the peer of each outgoing packet in the map's
// own longest-prefix table, holds packets until that very peer is configured, and lets through only what the filter passes. Wrap makes one;
// Update publishes what changed in the map; Configured says which peers the WireGuard device has.
//
// WireGuard takes a packet from the configured peer that carries its source by the longest prefix among those configured. Where the map has a
// longer one, of a peer that is not configured, the packet is forged by the peer with the wider prefix, and is dropped here. So the source of
// every packet that arrives is what the signed record of its sender has, and the filter judges forwarded packets by the host that sent them.
//
//	tundev.go  what becomes of packets in both directions
//	map.go     the map
//	hold.go    packets that wait for their peer
//	mtu.go     packets longer than a peer's path carries
//	run.go     packets of one flow in a row, judged once
//	word.go    what agents say to each other
//	sibling.go packets that another gateway of the same CIDR hands over
//	inject.go  packets to peers that do not come from the host
//	probe.go   echo requests to hosts behind this device
//	notes.go   what was sent and received lately
//	reader.go  reading from the inner device so that released packets need not wait for the next one
package tundev

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"
	"golang.zx2c4.com/wireguard/tun"

	"warren/proto/key"
	"warren/tunnel/filter"
)

// Config is what a Device is made with.
type Config struct {
	Log *slog.Logger
	// Wanted is told that a packet waits for a peer. It must not block.
	Wanted func(peer key.NodePublic)
	// OnWord is told what the agent of another device has sent by SendWord. The payload, of 1 to MaxWord bytes, is whatever that agent likes. It is called
	// from where packets of that peer arrive, by several goroutines at once, and must not block.
	OnWord func(from key.DevicePublic, payload []byte)
	// OnProbe is told that a host has answered a Probe. It is called from where packets of the host leave, and must not block.
	OnProbe func(target netip.Addr, id, seq uint16)
	// OnUse is told that the host sends to or hears from a CIDR that a peer carries, which it has not for UnusedFor: until then nobody need look at
	// Traffic. It is called from where packets pass, by several goroutines at once, and must not block.
	OnUse  func()
	Filter filter.Config
	// Paused leaves what the host sends in the interface until Resume.
	Paused bool
}

// peer is a device of the map. It stays the same object as long as its key is in the map.
type peer struct {
	key       key.NodePublic
	account   *account // nil for those that stand for no device
	entries   []*entry // what it carries, in order; guarded by Device.setting
	addresses atomic.Pointer[addresses]
	// configured says that the WireGuard device has it; direct that, besides, nothing waits for it, so that order is kept without waiting.
	configured, direct atomic.Bool
	mtu                atomic.Int32 // the largest packet for it; 0: the interface's
	// What follows belongs to Device.mu.
	held     []held // oldest first
	queued   bool   // in Device.released
	wantedAt time.Time
}

// Device implements tun.Device.
type Device struct {
	tun.Device
	cfg    Config
	filter *filter.Filter
	view   atomic.Pointer[view]
	// us stands for our own addresses and what else we carry, prober for the address of probes, nobody for what is no device's.
	us, prober, nobody *peer
	began              time.Time

	setting   sync.Mutex // held while the map changes
	contested map[netip.Prefix][]*entry
	self      []netip.Prefix
	addresses []netip.Addr
	siblings  []Sibling

	mu       sync.Mutex
	peers    map[[key.Size]byte]*peer    // by node key; changed under setting as well
	accounts map[[key.Size]byte]*account // by device key; likewise
	holding  map[*peer]struct{}          // those for which packets wait
	released []*peer                     // those that are configured, and whose packets can be read
	held     int                         // packets in all
	bytes    int
	pending  atomic.Bool // there is something in released

	resumed   chan struct{} // closed by Resume
	resume    sync.Once
	injected  queue
	hostsTurn bool // belongs to Read
	learnt    learnt
	borrowed  atomic.Pointer[[]netip.Addr] // whose answers are taken; nil: none
	inner     reader
	tooBig    limiter
	counters  counters
}

type counters struct {
	noPeer, held, heldDropped, notOurs, forged, tooBig, clamped, words, wordsDropped, injectedDropped, handed, unwrapped, refused, probeAnswers atomic.Uint64
}

// Counters are what became of packets, besides the filter's verdicts.
type Counters struct {
	// NoPeer had an address that no peer carries; Held waited for a peer; HeldDropped waited in vain; NotOurs came for an address that is not ours,
	// Forged from one that its sender does not carry.
	NoPeer, Held, HeldDropped, NotOurs, Forged uint64
	// TooBig were longer than the path carries, and answered by ICMP; Clamped were TCP SYNs whose MSS was lowered.
	TooBig, Clamped uint64
	// Words came from agents of peers; WordsDropped came from others or were too many, or the host has tried to send some.
	Words, WordsDropped uint64
	// Handed were given to a sibling, Unwrapped came from one. Refused came in such a packet and may not, or the host has tried to send some. InjectedDropped are
	// words and packets of siblings for which there was no room.
	Handed, Unwrapped, Refused, InjectedDropped uint64
	// ProbeAnswers came from hosts that this device has probed.
	ProbeAnswers uint64
	Filter       filter.Counters
	Table        filter.Stats
}

// Wrap takes over inner: closing the Device closes it.
func Wrap(inner tun.Device, cfg Config) *Device {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Wanted == nil {
		cfg.Wanted = func(key.NodePublic) {}
	}
	if cfg.OnWord == nil {
		cfg.OnWord = func(key.DevicePublic, []byte) {}
	}
	if cfg.OnProbe == nil {
		cfg.OnProbe = func(netip.Addr, uint16, uint16) {}
	}
	if cfg.OnUse == nil {
		cfg.OnUse = func() {}
	}
	d := &Device{
		Device: inner, cfg: cfg, filter: filter.New(cfg.Filter), began: time.Now(),
		us: new(peer), prober: new(peer), nobody: new(peer), contested: map[netip.Prefix][]*entry{},
		peers: map[[key.Size]byte]*peer{}, accounts: map[[key.Size]byte]*account{}, holding: map[*peer]struct{}{}, inner: newReader(inner),
	}
	d.learnt.by, d.resumed = map[netip.Prefix][]Host{}, make(chan struct{})
	if !cfg.Paused {
		d.Resume()
	}
	d.view.Store(&view{routes: new(bart.Table[*entry])})
	return d
}

// Resume has packets from the host read, where Config.Paused kept them waiting.
func (d *Device) Resume() { d.resume.Do(func() { close(d.resumed) }) }

// Close closes the inner device; reads in progress end.
func (d *Device) Close() error {
	err := d.Device.Close()
	d.inner.close()
	d.Resume()
	return err
}

// Configured says whether the WireGuard device has the peer. Packets that waited for it go first. Peers that are not in the map are ignored.
func (d *Device) Configured(k key.NodePublic, configured bool) {
	d.mu.Lock()
	p := d.peers[k.Raw()]
	wake := false
	if p != nil {
		p.wantedAt = time.Time{}
		p.configured.Store(configured)
		p.direct.Store(configured && len(p.held) == 0)
		wake = configured && d.release(p)
	}
	d.mu.Unlock()
	if wake {
		d.inner.interrupt()
	}
}

// now is the filter's clock.
func (d *Device) now() time.Duration { return time.Since(d.began) }

// Read implements tun.Device: it gives packets whose peer is configured. Where much is to be sent that did not come from the host, the host has every
// second turn. Only one Read may go on at a time.
func (d *Device) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	<-d.resumed
	for {
		if d.pending.Load() {
			if n := d.takeReleased(bufs, sizes, offset); n > 0 {
				return n, nil
			}
		}
		if d.injected.pending.Load() && !(d.hostsTurn && d.inner.ready()) {
			d.hostsTurn = true
			if n := d.takeInjected(bufs, sizes, offset); n > 0 {
				return n, nil
			}
		}
		d.hostsTurn = false
		n, err := d.inner.read(bufs, sizes, offset)
		n = d.outgoing(bufs[:n], sizes, offset)
		if errors.Is(err, os.ErrDeadlineExceeded) || (n == 0 && err == nil) {
			if n > 0 {
				return n, nil
			}
			continue
		}
		return n, err
	}
}

// outgoing keeps those packets of a batch that may go now, in front, and tells how many they are.
func (d *Device) outgoing(bufs [][]byte, sizes []int, offset int) int {
	v, now, kept := d.view.Load(), d.now(), 0
	last := run{direction: filter.Out}
	for i := range bufs {
		b := bufs[i][offset : offset+sizes[i]]
		switch {
		case last.goesOn(b):
			if !d.leaves(last.peer, b) {
				continue
			}
		case len(b) == 0:
			continue
		default:
			if b = d.passes(v, bufs[i][offset:], len(b), now, &last); b == nil {
				continue
			}
		}
		if kept != i {
			// Copied, not swapped: WireGuard keeps each buffer together with other state of the same place in the batch, and would go on
			// reading into a buffer that is being encrypted.
			copy(bufs[kept][offset:], b)
		}
		sizes[kept] = len(b)
		kept++
	}
	last.end(d.filter)
	return kept
}

// passes decides about one packet to a peer, at the beginning of a buffer, and gives what is to be sent in its place; nil for nothing.
func (d *Device) passes(v *view, buf []byte, size int, now time.Duration, last *run) []byte {
	b := buf[:size]
	src, dst, err := filter.Addresses(b)
	if err != nil {
		return nil
	}
	to, ok := v.routes.Lookup(dst)
	switch {
	case ok && to.peer == d.prober:
		d.probed(b)
		return nil
	case d.isBorrowed(dst) && d.probed(b):
		return nil
	case !ok || to.account == nil:
		d.counters.noPeer.Add(1)
		return nil
	case to.own && agents(b) && v.inBand(to, b):
		d.notMade(b)
		return nil
	}
	if list := to.account.uses.Load(); list != nil {
		if via := d.handTo(v, *list, to, src); via != nil {
			d.learn(v, src, now)
			return d.handOver(v, via, buf, size)
		}
	}
	j := d.filter.Judge(filter.Out, &to.account.Peer, b, now)
	if j.Verdict != filter.Pass {
		return nil
	}
	d.note(to, &to.sent, now)
	if len(v.carried) > 0 && int64(now) >= d.learnt.next.Load() {
		d.learn(v, src, now)
	}
	last.begin(b, to.peer, j.Flow)
	if !d.leaves(to.peer, b) {
		return nil
	}
	return b
}

// notMade counts a packet that only agents may make.
func (d *Device) notMade(b []byte) {
	if protocol(b) == protoWord {
		d.counters.wordsDropped.Add(1)
	} else {
		d.counters.refused.Add(1)
	}
}

// leaves decides about a packet that may go to its peer.
func (d *Device) leaves(p *peer, b []byte) bool {
	if mtu := int(p.mtu.Load()); mtu > 0 && !d.fits(b, mtu) {
		return false
	}
	return p.direct.Load() || d.hold(p, b, false)
}

// Write implements tun.Device: packets from peers go to the host if they are for it, or for what it carries, and the filter passes them.
func (d *Device) Write(bufs [][]byte, offset int) (int, error) {
	v, now, kept := d.view.Load(), d.now(), 0
	last := run{direction: filter.In}
	for i := range bufs {
		if b := bufs[i][offset:]; !last.goesOn(b) && !d.arrives(v, b, now, &last) {
			continue
		}
		if kept != i {
			bufs[kept], bufs[i] = bufs[i], bufs[kept]
		}
		kept++
	}
	last.end(d.filter)
	if kept == 0 {
		return len(bufs), nil
	}
	if _, err := d.Device.Write(bufs[:kept], offset); err != nil {
		return 0, err
	}
	return len(bufs), nil
}

// arrives decides about one packet from a peer.
func (d *Device) arrives(v *view, b []byte, now time.Duration, last *run) bool {
	src, dst, err := filter.Addresses(b)
	if err != nil {
		return false
	}
	to, ok := v.routes.Lookup(dst)
	from, known := v.routes.Lookup(src)
	switch {
	case !ok || to.peer != d.us && !(known && v.transit(from, to, src, dst)):
		d.counters.notOurs.Add(1)
		return false
	case !known || !from.configured.Load():
		d.counters.forged.Add(1)
		return false
	case to.own && agents(b) && d.taken(v, from, b, now):
		return false
	}
	j := d.filter.Judge(filter.In, &from.account.Peer, b, now)
	if j.Verdict != filter.Pass {
		return false
	}
	d.note(from, &from.received, now)
	mtu := int(from.mtu.Load())
	if len(v.siblings) > 0 {
		mtu = v.returnMTU(mtu, dst)
	}
	if mtu > 0 && clampMSS(b, mtu) {
		d.counters.clamped.Add(1)
	}
	last.begin(b, from.peer, j.Flow)
	return true
}

// transit reports whether a packet from one peer may go on to another through the host: if one of them is a host behind a peer, and of what we carry.
func (v *view) transit(from, to *entry, src, dst netip.Addr) bool {
	carries := func(e *entry, a netip.Addr) bool {
		return !e.own && slices.ContainsFunc(v.carried, func(x netip.Prefix) bool { return x.Contains(a) })
	}
	return from.account != to.account && from.account != nil && to.account != nil && (carries(to, dst) || carries(from, src))
}

// agents reports whether a packet is of a protocol that agents make packets of.
func agents(b []byte) bool {
	switch protocol(b) {
	case protoWord, protoIPv4, protoIPv6:
		return true
	}
	return false
}

// taken takes a packet from a peer to one of our addresses if its agent has made it, and reports whether that is so.
func (d *Device) taken(v *view, from *entry, b []byte, now time.Duration) bool {
	switch {
	case protocol(b) == protoWord:
		d.hear(from, b)
	case from.own && v.isSiblingFor(from.account, netip.Addr{}):
		d.unwrap(v, from, b, now)
	default:
		return false
	}
	return true
}

// returnMTU is how long answers to a packet from a peer may be, whose path carries so much; 0: no less than the interface. Those of hosts that siblings
// can reach, too, may be handed over.
func (v *view) returnMTU(path int, dst netip.Addr) int {
	if v.mtu == 0 || !slices.ContainsFunc(v.siblings, func(s siblings) bool { return s.prefix.Contains(dst) }) {
		return path
	}
	least := v.mtu - header6
	if path > 0 {
		least = min(path, least)
	}
	return max(least, 0)
}

// Counters gives the counts so far.
func (d *Device) Counters() Counters {
	return Counters{
		NoPeer: d.counters.noPeer.Load(), Held: d.counters.held.Load(), HeldDropped: d.counters.heldDropped.Load(),
		NotOurs: d.counters.notOurs.Load(), Forged: d.counters.forged.Load(),
		TooBig: d.counters.tooBig.Load(), Clamped: d.counters.clamped.Load(),
		Words: d.counters.words.Load(), WordsDropped: d.counters.wordsDropped.Load(),
		Handed: d.counters.handed.Load(), Unwrapped: d.counters.unwrapped.Load(), Refused: d.counters.refused.Load(),
		InjectedDropped: d.counters.injectedDropped.Load(), ProbeAnswers: d.counters.probeAnswers.Load(), Filter: d.filter.Counters(), Table: d.filter.Stats(),
	}
}

// Collect tells what happened to flows since the last time; see filter.Collect.
func (d *Device) Collect(tell func(*filter.Record), omitted func(*filter.Peer, filter.Omitted)) {
	d.filter.Collect(d.now(), tell, omitted)
}

// KeepFlows gives the flows that pass at present, for RestoreFlows of the process that takes over.
func (d *Device) KeepFlows() []filter.Kept { return d.filter.Keep(d.now()) }

// RestoreFlows takes up flows of a process before this one, as far as map and rules, which are there by now, allow them. It tells how many those are.
func (d *Device) RestoreFlows(flows []filter.Kept) (taken int) {
	return d.filter.Restore(flows, func(id [32]byte) *filter.Peer {
		d.mu.Lock()
		defer d.mu.Unlock()
		if a := d.accounts[id]; a != nil {
			return &a.Peer
		}
		return nil
	}, d.now())
}

// Flows visits the flows that pass at present, those of one device or, if that is zero, all, until visit has seen enough.
func (d *Device) Flows(device key.DevicePublic, visit func(*filter.Record) (more bool)) {
	var p *filter.Peer
	if !device.IsZero() {
		d.mu.Lock()
		a := d.accounts[device.Raw()]
		d.mu.Unlock()
		if a == nil {
			return
		}
		p = &a.Peer
	}
	d.filter.Flows(p, d.now(), visit)
}
