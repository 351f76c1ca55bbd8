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
//	reader.go  reading from the inner device so that released packets need not wait for the next one
package tundev

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
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
	Filter filter.Config
}

// peer is a device of the map. It stays the same object as long as its key is in the map.
type peer struct {
	key      key.NodePublic
	account  *account
	prefixes []netip.Prefix // that it carries; masked
	// configured says that the WireGuard device has it; direct that, besides, nothing waits for it, so that order is kept without waiting.
	configured, direct atomic.Bool
	mtu                atomic.Int32 // the largest packet for it; 0: the interface's
	// What follows belongs to Device.mu.
	held     [][]byte // oldest first
	queued   bool     // in Device.released
	wantedAt time.Time
}

// Device implements tun.Device.
type Device struct {
	tun.Device
	cfg    Config
	filter *filter.Filter
	routes atomic.Pointer[bart.Table[*peer]] // an immutable snapshot of the map
	us     *peer                             // stands for our own addresses and what else we carry
	began  time.Time

	setting   sync.Mutex // held while the map changes
	contested map[netip.Prefix][]*peer
	self      []netip.Prefix

	mu       sync.Mutex
	peers    map[[key.Size]byte]*peer    // by node key; changed under setting as well
	accounts map[[key.Size]byte]*account // by device key; likewise
	holding  map[*peer]struct{}          // those for which packets wait
	released []*peer                     // those that are configured, and whose packets can be read
	held     int                         // packets in all
	bytes    int
	pending  atomic.Bool // there is something in released

	inner    reader
	tooBig   answers
	counters counters
}

type counters struct {
	noPeer, held, heldDropped, notOurs, forged, tooBig, clamped atomic.Uint64
}

// Counters are what became of packets, besides the filter's verdicts.
type Counters struct {
	// NoPeer had an address that no peer carries; Held waited for a peer; HeldDropped waited in vain; NotOurs came for an address that is not ours,
	// Forged from one that its sender does not carry.
	NoPeer, Held, HeldDropped, NotOurs, Forged uint64
	// TooBig were longer than the path carries, and answered by ICMP; Clamped were TCP SYNs whose MSS was lowered.
	TooBig, Clamped uint64
	Filter          filter.Counters
	Table           filter.Stats
}

// Wrap takes over inner: closing the Device closes it.
func Wrap(inner tun.Device, cfg Config) *Device {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Wanted == nil {
		cfg.Wanted = func(key.NodePublic) {}
	}
	d := &Device{
		Device: inner, cfg: cfg, filter: filter.New(cfg.Filter), began: time.Now(), us: new(peer), contested: map[netip.Prefix][]*peer{},
		peers: map[[key.Size]byte]*peer{}, accounts: map[[key.Size]byte]*account{}, holding: map[*peer]struct{}{}, inner: newReader(inner),
	}
	d.routes.Store(new(bart.Table[*peer]))
	return d
}

// Close closes the inner device; reads in progress end.
func (d *Device) Close() error {
	err := d.Device.Close()
	d.inner.close()
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

// Read implements tun.Device: it gives packets whose peer is configured.
func (d *Device) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for {
		if d.pending.Load() {
			if n := d.takeReleased(bufs, sizes, offset); n > 0 {
				return n, nil
			}
		}
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
	t, now, kept := d.routes.Load(), d.now(), 0
	last := run{direction: filter.Out}
	for i := range bufs {
		b := bufs[i][offset : offset+sizes[i]]
		switch {
		case last.goesOn(b):
			if !d.leaves(last.peer, b) {
				continue
			}
		case sizes[i] == 0 || !d.passes(t, b, now, &last):
			continue
		}
		if kept != i {
			// Copied, not swapped: WireGuard keeps each buffer together with other state of the same place in the batch, and would go on
			// reading into a buffer that is being encrypted.
			sizes[kept] = copy(bufs[kept][offset:], bufs[i][offset:offset+sizes[i]])
		}
		kept++
	}
	last.end(d.filter)
	return kept
}

// passes decides about one packet to a peer.
func (d *Device) passes(t *bart.Table[*peer], b []byte, now time.Duration, last *run) bool {
	_, dst, err := filter.Addresses(b)
	if err != nil {
		return false
	}
	p, ok := t.Lookup(dst)
	if !ok || p == d.us {
		d.counters.noPeer.Add(1)
		return false
	}
	j := d.filter.Judge(filter.Out, &p.account.Peer, b, now)
	if j.Verdict != filter.Pass {
		return false
	}
	last.begin(b, p, j.Flow)
	return d.leaves(p, b)
}

// leaves decides about a packet that may go to its peer.
func (d *Device) leaves(p *peer, b []byte) bool {
	if mtu := int(p.mtu.Load()); mtu > 0 && !d.fits(b, mtu) {
		return false
	}
	return p.direct.Load() || d.hold(p, b)
}

// Write implements tun.Device: packets from peers go to the host if they are for it, or for what it carries, and the filter passes them.
func (d *Device) Write(bufs [][]byte, offset int) (int, error) {
	t, now, kept := d.routes.Load(), d.now(), 0
	last := run{direction: filter.In}
	for i := range bufs {
		if b := bufs[i][offset:]; !last.goesOn(b) && !d.arrives(t, b, now, &last) {
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
func (d *Device) arrives(t *bart.Table[*peer], b []byte, now time.Duration, last *run) bool {
	src, dst, err := filter.Addresses(b)
	if err != nil {
		return false
	}
	if p, ok := t.Lookup(dst); !ok || p != d.us {
		d.counters.notOurs.Add(1)
		return false
	}
	p, ok := t.Lookup(src)
	if !ok || !p.configured.Load() {
		d.counters.forged.Add(1)
		return false
	}
	j := d.filter.Judge(filter.In, &p.account.Peer, b, now)
	if j.Verdict != filter.Pass {
		return false
	}
	if mtu := int(p.mtu.Load()); mtu > 0 && clampMSS(b, mtu) {
		d.counters.clamped.Add(1)
	}
	last.begin(b, p, j.Flow)
	return true
}

// Counters gives the counts so far.
func (d *Device) Counters() Counters {
	return Counters{
		NoPeer: d.counters.noPeer.Load(), Held: d.counters.held.Load(), HeldDropped: d.counters.heldDropped.Load(),
		NotOurs: d.counters.notOurs.Load(), Forged: d.counters.forged.Load(),
		TooBig: d.counters.tooBig.Load(), Clamped: d.counters.clamped.Load(), Filter: d.filter.Counters(), Table: d.filter.Stats(),
	}
}

// Collect tells what happened to flows since the last time; see filter.Collect.
func (d *Device) Collect(tell func(*filter.Record), omitted func(*filter.Peer, filter.Omitted)) {
	d.filter.Collect(d.now(), tell, omitted)
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
