// Package tundev wraps the TUN device that WireGuard reads from and writes to. It finds the peer of each outgoing packet in the map's
// own longest-prefix table, holds packets until that very peer is configured, and lets through only what the filter passes. Wrap makes one;
// SetMap publishes the map; Configured says which peers the WireGuard device has.
package tundev

import (
	"errors"
	"io"
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

// Bounds on held packets, in packets and in bytes.
const (
	maxHeldPeer  = 64
	maxHeldTotal = 1024
	maxHeldBytes = 1 << 20
	// wantAgain is how long to wait before a peer that is still not configured is asked for again.
	wantAgain = time.Second
)

// Config is what a Device is made with.
type Config struct {
	Log *slog.Logger
	// Wanted is told that a packet waits for a peer. It must not block.
	Wanted func(peer key.NodePublic)
}

// Route says which peer carries a prefix.
type Route struct {
	Prefix netip.Prefix
	Peer   key.NodePublic
}

// table is an immutable snapshot of the map.
type table struct {
	self   map[netip.Addr]struct{}
	routes *bart.Table[*peer]
}

// peer is a device of the map. It stays the same object as long as its key is in the map.
type peer struct {
	key   key.NodePublic
	ready atomic.Bool
	mtu   atomic.Int32 // the largest packet for it; 0: the interface's
	// held and wantedAt belong to Device.mu.
	held     [][]byte
	wantedAt time.Time
}

// Device implements tun.Device.
type Device struct {
	tun.Device
	cfg    Config
	filter *filter.Filter
	table  atomic.Pointer[table]
	began  time.Time

	mu       sync.Mutex
	peers    map[[key.Size]byte]*peer
	early    map[[key.Size]byte]struct{} // configured before the map told of them
	held     int
	bytes    int
	released [][]byte // of peers that are ready, oldest first
	pending  atomic.Bool

	inner    reader
	tooBig   answers
	counters counters
}

type counters struct {
	noPeer, held, heldDropped, notOurs, tooBig, clamped atomic.Uint64
}

// Counters are what became of packets, besides the filter's verdicts.
type Counters struct {
	// NoPeer had an address that no peer carries; Held waited for a peer; HeldDropped waited in vain; NotOurs came for an address that is not ours.
	NoPeer, Held, HeldDropped, NotOurs uint64
	// TooBig were longer than the path carries, and answered by ICMP; Clamped were TCP SYNs whose MSS was lowered.
	TooBig, Clamped uint64
	Filter          filter.Counters
}

// Wrap takes over inner: closing the Device closes it.
func Wrap(inner tun.Device, cfg Config) *Device {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d := &Device{
		Device: inner, cfg: cfg, filter: filter.New(), began: time.Now(),
		peers: map[[key.Size]byte]*peer{}, early: map[[key.Size]byte]struct{}{}, inner: newReader(inner),
	}
	d.table.Store(&table{routes: new(bart.Table[*peer])})
	return d
}

// SetMap publishes a map: our own addresses, who carries what, and what is allowed. Peers that are not in it any more lose what was held for
// them.
func (d *Device) SetMap(self []netip.Addr, routes []Route, rules *filter.Rules) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := &table{self: make(map[netip.Addr]struct{}, len(self)), routes: new(bart.Table[*peer])}
	for _, a := range self {
		t.self[a] = struct{}{}
	}
	known := make(map[[key.Size]byte]*peer, len(routes))
	for _, r := range routes {
		raw := r.Peer.Raw()
		p := known[raw]
		if p == nil {
			if p = d.peers[raw]; p == nil {
				p = &peer{key: r.Peer}
				_, ready := d.early[raw]
				p.ready.Store(ready)
			}
			known[raw] = p
		}
		t.routes.Insert(r.Prefix.Masked(), p)
	}
	for raw, p := range d.peers {
		if known[raw] == nil {
			d.drop(p)
		}
	}
	clear(d.early)
	d.peers = known
	d.table.Store(t)
	d.filter.SetRules(rules)
}

// drop forgets what is held for a peer. The caller holds mu.
func (d *Device) drop(p *peer) {
	for _, b := range p.held {
		d.bytes -= len(b)
	}
	d.held -= len(p.held)
	d.counters.heldDropped.Add(uint64(len(p.held)))
	p.held = nil
}

// Configured says whether the WireGuard device has the peer. Packets that waited for it go first.
func (d *Device) Configured(k key.NodePublic, ready bool) {
	d.mu.Lock()
	p := d.peers[k.Raw()]
	if p == nil {
		if ready {
			d.early[k.Raw()] = struct{}{}
		} else {
			delete(d.early, k.Raw())
		}
		d.mu.Unlock()
		return
	}
	p.ready.Store(ready)
	p.wantedAt = time.Time{}
	wake := false
	if ready && len(p.held) > 0 {
		d.released = append(d.released, p.held...)
		p.held = nil
		d.pending.Store(true)
		wake = true
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

// takeReleased gives packets that have waited.
func (d *Device) takeReleased(bufs [][]byte, sizes []int, offset int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := min(len(d.released), len(bufs))
	for i, b := range d.released[:n] {
		sizes[i] = copy(bufs[i][offset:], b)
		d.held--
		d.bytes -= len(b)
		d.released[i] = nil
	}
	if d.released = d.released[n:]; len(d.released) == 0 {
		d.released = nil
		d.pending.Store(false)
	}
	return n
}

// outgoing keeps those packets of a batch that may go now, in front, and tells how many they are.
func (d *Device) outgoing(bufs [][]byte, sizes []int, offset int) int {
	t, now, kept := d.table.Load(), d.now(), 0
	for i := range bufs {
		if sizes[i] == 0 || !d.passes(t, bufs[i][offset:offset+sizes[i]], now) {
			continue
		}
		if kept != i {
			// Copied, not swapped: WireGuard keeps each buffer together with other state of the same place in the batch, and would go on
			// reading into a buffer that is being encrypted.
			sizes[kept] = copy(bufs[kept][offset:], bufs[i][offset:offset+sizes[i]])
		}
		kept++
	}
	return kept
}

// passes decides about one packet to a peer.
func (d *Device) passes(t *table, b []byte, now time.Duration) bool {
	_, dst, err := filter.Addresses(b)
	if err != nil {
		return false
	}
	p, ok := t.routes.Lookup(dst)
	if !ok {
		d.counters.noPeer.Add(1)
		return false
	}
	if d.filter.Out(b, now) != filter.Pass {
		return false
	}
	if mtu := int(p.mtu.Load()); mtu > 0 && !d.fits(b, mtu) {
		return false
	}
	return p.ready.Load() || d.hold(p, b)
}

// hold keeps a copy of b until p is configured, and reports whether it is by now.
func (d *Device) hold(p *peer, b []byte) (ready bool) {
	d.mu.Lock()
	if p.ready.Load() {
		d.mu.Unlock()
		return true
	}
	if len(p.held) >= maxHeldPeer || (len(p.held) > 0 && (d.held >= maxHeldTotal || d.bytes+len(b) > maxHeldBytes)) {
		d.held--
		d.bytes -= len(p.held[0])
		p.held = p.held[1:]
		d.counters.heldDropped.Add(1)
	}
	if d.held < maxHeldTotal && d.bytes+len(b) <= maxHeldBytes && d.peers[p.key.Raw()] == p {
		p.held = append(p.held, append([]byte(nil), b...))
		d.held++
		d.bytes += len(b)
		d.counters.held.Add(1)
	} else {
		d.counters.heldDropped.Add(1)
	}
	now := time.Now()
	want := now.Sub(p.wantedAt) >= wantAgain
	if want {
		p.wantedAt = now
	}
	d.mu.Unlock()
	if want {
		d.cfg.Wanted(p.key)
	}
	return false
}

// Write implements tun.Device: packets from peers go to the host if they are for it and the filter passes them.
func (d *Device) Write(bufs [][]byte, offset int) (int, error) {
	t, now, kept := d.table.Load(), d.now(), 0
	for i := range bufs {
		if !d.arrives(t, bufs[i][offset:], now) {
			continue
		}
		if kept != i {
			bufs[kept], bufs[i] = bufs[i], bufs[kept]
		}
		kept++
	}
	if kept == 0 {
		return len(bufs), nil
	}
	if _, err := d.Device.Write(bufs[:kept], offset); err != nil {
		return 0, err
	}
	return len(bufs), nil
}

func (d *Device) arrives(t *table, b []byte, now time.Duration) bool {
	src, dst, err := filter.Addresses(b)
	if err != nil {
		return false
	}
	if _, ours := t.self[dst]; !ours {
		d.counters.notOurs.Add(1)
		return false
	}
	if d.filter.In(b, now) != filter.Pass {
		return false
	}
	if p, ok := t.routes.Lookup(src); ok {
		if mtu := int(p.mtu.Load()); mtu > 0 && clampMSS(b, mtu) {
			d.counters.clamped.Add(1)
		}
	}
	return true
}

// Counters gives the counts so far.
func (d *Device) Counters() Counters {
	return Counters{
		NoPeer: d.counters.noPeer.Load(), Held: d.counters.held.Load(), HeldDropped: d.counters.heldDropped.Load(),
		NotOurs: d.counters.notOurs.Load(), TooBig: d.counters.tooBig.Load(), Clamped: d.counters.clamped.Load(), Filter: d.filter.Counters(),
	}
}

// reader reads from the inner device in a way that can be interrupted.
type reader interface {
	read(bufs [][]byte, sizes []int, offset int) (int, error)
	// interrupt makes a read in progress, or else the next one, return early with os.ErrDeadlineExceeded.
	interrupt()
}

func newReader(inner tun.Device) reader {
	if f := inner.File(); f != nil && f.SetReadDeadline(time.Time{}) == nil {
		return &fileReader{inner, f}
	}
	return newPumpReader(inner)
}

// fileReader interrupts by a deadline that has passed, for devices that read from a pollable file, as Linux' does.
type fileReader struct {
	inner tun.Device
	file  *os.File
}

func (r *fileReader) read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n, err := r.inner.Read(bufs, sizes, offset)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if reset := r.file.SetReadDeadline(time.Time{}); reset != nil {
			return n, reset
		}
	}
	return n, err
}

func (r *fileReader) interrupt() {
	// Fails only on a closed file, and then the read has ended anyway.
	_ = r.file.SetReadDeadline(time.Unix(1, 0))
}

// pumpReader reads in a goroutine of its own and copies: for devices without a file, which are those of tests and of systems to come.
type pumpReader struct {
	packets chan []byte
	failed  chan error
	wake    chan struct{}
}

func newPumpReader(inner tun.Device) *pumpReader {
	r := &pumpReader{packets: make(chan []byte), failed: make(chan error, 1), wake: make(chan struct{}, 1)}
	go r.pump(inner)
	return r
}

func (r *pumpReader) pump(inner tun.Device) {
	const headroom = 64
	bufs, sizes := make([][]byte, inner.BatchSize()), make([]int, inner.BatchSize())
	for i := range bufs {
		bufs[i] = make([]byte, 65535+headroom)
	}
	for {
		n, err := inner.Read(bufs, sizes, headroom)
		for i := range n {
			r.packets <- append([]byte(nil), bufs[i][headroom:headroom+sizes[i]]...)
		}
		if err != nil && !errors.Is(err, tun.ErrTooManySegments) {
			r.failed <- err
			close(r.packets)
			return
		}
	}
}

func (r *pumpReader) read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case b, ok := <-r.packets:
		if !ok {
			select {
			case err := <-r.failed:
				return 0, err
			default:
				return 0, io.EOF
			}
		}
		sizes[0] = copy(bufs[0][offset:], b)
		return 1, nil
	case <-r.wake:
		return 0, os.ErrDeadlineExceeded
	}
}

func (r *pumpReader) interrupt() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}
