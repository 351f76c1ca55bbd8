package tundev

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"warren/proto/key"
)

// Traffic is when packets of the host's last went to a prefix, and last came from there, to a hundredth of a second; zero: not since the peer
// carries it. What agents say to each other does not count.
type Traffic struct {
	Prefix         netip.Prefix
	Sent, Received time.Time
}

// UnusedFor is how long nothing went to a CIDR, or came from it, for the next packet to be told to Config.OnUse.
const UnusedFor = 5 * time.Second

// note has a time stamp of an entry be now, or somewhat earlier: many packets share one, so that processors need not pass it back and forth.
func (d *Device) note(e *entry, stamp *atomic.Int64, now time.Duration) {
	const resolution = 10 * time.Millisecond
	old := time.Duration(stamp.Load())
	if old != 0 && now-old < resolution {
		return
	}
	stamp.Store(int64(max(now, 1)))
	if !e.own && (old == 0 || now-old >= UnusedFor) {
		d.cfg.OnUse()
	}
}

// Traffic tells of all prefixes of a device, in order; of none if it is not in the map.
func (d *Device) Traffic(device key.DevicePublic) (out []Traffic) {
	d.setting.Lock() // entries are changed under it
	defer d.setting.Unlock()
	d.mu.Lock()
	a := d.accounts[device.Raw()]
	d.mu.Unlock()
	if a == nil {
		return nil
	}
	p := a.node.Load()
	if p == nil {
		return nil
	}
	at := func(stamp *atomic.Int64) time.Time {
		if ns := stamp.Load(); ns != 0 {
			return d.began.Add(time.Duration(ns))
		}
		return time.Time{}
	}
	for _, e := range p.entries {
		out = append(out, Traffic{e.prefix, at(&e.sent), at(&e.received)})
	}
	return out
}

// Bounds on what is learnt: hosts for each prefix that we carry, and how often one is looked at.
const (
	maxLearnt  = 4
	learnAgain = 100 * time.Millisecond
)

// Host is one behind this device that has sent something which was allowed.
type Host struct {
	Addr netip.Addr
	Seen time.Time
}

// learnt is what is known of hosts behind this device.
type learnt struct {
	next atomic.Int64 // when to look again, in nanoseconds since Device.began
	mu   sync.Mutex
	by   map[netip.Prefix][]Host // newest first
}

// Hosts gives a few hosts of a prefix that this device carries, newest first. Addresses of the gateway itself may be among them.
// Behind an exit node none are learnt.
func (d *Device) Hosts(carried netip.Prefix) []Host {
	d.learnt.mu.Lock()
	defer d.learnt.mu.Unlock()
	return slices.Clone(d.learnt.by[carried.Masked()])
}

// learn looks at the source of a packet that may go out, once in a while.
func (d *Device) learn(v *view, src netip.Addr, now time.Duration) {
	if next := d.learnt.next.Load(); int64(now) < next || !d.learnt.next.CompareAndSwap(next, int64(now+learnAgain)) {
		return
	}
	e, ok := v.routes.Lookup(src)
	if !ok || e.peer != d.us || e.own || e.prefix.Bits() == 0 {
		return
	}
	d.learnt.mu.Lock()
	defer d.learnt.mu.Unlock()
	list := slices.DeleteFunc(d.learnt.by[e.prefix], func(h Host) bool { return h.Addr == src })
	list = append([]Host{{src, d.began.Add(now)}}, list...)
	d.learnt.by[e.prefix] = list[:min(len(list), maxLearnt)]
}

// unlearn forgets hosts of what is carried no more.
func (d *Device) unlearn(carried []netip.Prefix) {
	d.learnt.mu.Lock()
	defer d.learnt.mu.Unlock()
	for x := range d.learnt.by {
		if !slices.Contains(carried, x) {
			delete(d.learnt.by, x)
		}
	}
}
