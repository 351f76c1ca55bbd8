package traversal

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"warren/nat/candidate"
	"warren/nat/path"
	"warren/nat/path/pathtest"
	"warren/nat/stunmsg"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

var (
	relayAddr = netip.MustParseAddrPort("203.0.113.1:443")
	stunAddr  = netip.MustParseAddrPort("203.0.113.1:3478")
	stranger  = netip.MustParseAddrPort("198.51.100.66:6666")
	overlay   = netip.MustParsePrefix("100.70.0.0/16")
)

const (
	oneWay   = 5 * time.Millisecond
	relayWay = 20 * time.Millisecond
	talkPace = 100 * time.Millisecond
)

// world joins Traversals by a model of the internet and a relay, in the fake time of testing/synctest.
type world struct {
	t       *testing.T
	mu      sync.Mutex // guards everything below, and the devices' records
	net     *pathtest.Net
	devices []*device
	signals [][]byte // all that went over the relay
}

// device is one Traversal, with the host that it runs on and the tunnel that it serves.
type device struct {
	w     *world
	host  *pathtest.Host
	id    key.DevicePrivate
	node  key.NodePrivate
	tr    *Traversal
	stop  func()
	relay bool // connected

	kinds  map[[key.Size]byte][]Kind // what OnPath told, by node key
	paths  map[[key.Size]byte]Path
	flow   map[[key.Size]byte]*path.Traffic // data of the tunnel
	wanted []key.NodePublic
	out    []datagram // all that Send got
}

type datagram struct {
	to netip.AddrPort
	b  []byte
}

func run(t *testing.T, f func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		f(&world{t: t, net: &pathtest.Net{Delay: oneWay}})
	})
}

// add places a device behind a box of its own, and starts it.
func (w *world) add(name string, kind pathtest.NAT) *device {
	n := byte(len(w.devices) + 1)
	outside, at := netip.AddrFrom4([4]byte{192, 0, 2, n}), netip.AddrFrom4([4]byte{10, n, 0, 2})
	if kind == pathtest.Public {
		at = outside
	}
	d := &device{
		w: w, id: key.NewDevice(), node: key.NewNode(), relay: true,
		host: &pathtest.Host{Name: name, At: netip.AddrPortFrom(at, 51820), Box: pathtest.NewBox(kind, outside, uint64(n))},
	}
	w.mu.Lock()
	w.net.Hosts = append(w.net.Hosts, d.host)
	w.devices = append(w.devices, d)
	w.mu.Unlock()
	d.start(nil)
	return d
}

// start makes a new Traversal, as a restart does. change may change its Config.
func (d *device) start(change func(*Config)) {
	d.w.mu.Lock()
	d.kinds, d.paths = map[[key.Size]byte][]Kind{}, map[[key.Size]byte]Path{}
	d.flow = map[[key.Size]byte]*path.Traffic{}
	d.w.mu.Unlock()
	cfg := Config{Self: d.node, Send: d.send, SendSignal: d.sendSignal, Traffic: d.traffic, OnPath: d.onPath, Wanted: d.onWanted}
	if change != nil {
		change(&cfg)
	}
	d.tr = New(cfg)
	d.tr.SetOverlay([]netip.Prefix{overlay})
	d.tr.SetCandidates(d.candidates(), nil)
	d.tr.SetRelay(true, "home", relayAddr)
	ctx, cancel := context.WithCancel(d.w.t.Context())
	done := make(chan error, 1)
	go func() { done <- d.tr.Run(ctx) }()
	d.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			d.w.t.Errorf("Run: %v", err)
		}
	})
	d.w.t.Cleanup(d.stop)
}

func (d *device) candidates() []candidate.Candidate {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	out := []candidate.Candidate{{Kind: pb.CandidateKind_CANDIDATE_KIND_HOST, Addr: d.host.At}}
	if mapped, ok := d.w.net.Mapped(time.Now(), d.host, stunAddr); ok && mapped != d.host.At {
		out = append(out, candidate.Candidate{Kind: pb.CandidateKind_CANDIDATE_KIND_SERVER_REFLEXIVE, Addr: mapped})
	}
	return out
}

func (d *device) raw() [key.Size]byte { return d.node.Public().Raw() }

func (d *device) peer() Peer { return Peer{Device: d.id.Public(), Node: d.node.Public()} }

// meet tells both of each other.
func (w *world) meet(a, b *device) {
	a.tr.SetPeers([]Peer{b.peer()})
	b.tr.SetPeers([]Peer{a.peer()})
}

// talk makes the tunnel of a use b: a packet every tenth of a second, each answered.
func (w *world) talk(a, b *device) (stop func()) {
	a.tr.Active(b.node.Public())
	b.tr.Active(a.node.Public())
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(talkPace)
		defer tick.Stop()
		for {
			w.data(a, b, true)
			select {
			case <-tick.C:
			case <-done:
				return
			case <-w.t.Context().Done():
				return
			}
		}
	}()
	return sync.OnceFunc(func() { close(done) })
}

// data carries one packet of the tunnel by the path that a has published.
func (w *world) data(a, b *device, answer bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	from, to := a.raw(), b.raw()
	a.flowOf(to).Sent = time.Now()
	arrived := func(direct bool) {
		b.flowOf(from).Received = time.Now()
		if direct {
			b.flowOf(from).Direct = time.Now()
		}
		if answer {
			go w.data(b, a, false)
		}
	}
	switch p := a.paths[to]; p.Kind {
	case Relay:
		if a.relay && b.relay {
			time.AfterFunc(relayWay, func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				arrived(false)
			})
		}
	case Direct:
		f := w.net.Send(time.Now(), a.host, p.Socket, p.Local.Addr(), p.Remote, 100)
		time.AfterFunc(time.Until(f.At), func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			if h, _, fate := w.net.Arrive(f); fate == pathtest.Arrived && h == b.host {
				arrived(true)
			}
		})
	}
}

func (d *device) send(local netip.Addr, remote netip.AddrPort, b []byte) error {
	return d.WriteExtra(0, local, remote, b)
}

// WriteExtra, OpenExtra and CloseExtra make the device its own ExtraSockets.
func (d *device) WriteExtra(id uint16, local netip.Addr, remote netip.AddrPort, b []byte) error {
	w := d.w
	w.mu.Lock()
	defer w.mu.Unlock()
	b = bytes.Clone(b)
	d.out = append(d.out, datagram{remote, b})
	f := w.net.Send(time.Now(), d.host, id, local, remote, len(b))
	time.AfterFunc(time.Until(f.At), func() {
		w.mu.Lock()
		h, socket, fate := w.net.Arrive(f)
		w.mu.Unlock()
		for _, other := range w.devices {
			if fate == pathtest.Arrived && other.host == h {
				other.tr.HandleExtra(socket, h.At.Addr(), f.Src, b)
			}
		}
	})
	return nil
}

func (d *device) OpenExtra(count int) (ids []uint16) {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	if d.host.Extra == nil {
		d.host.Extra = map[uint16]uint16{}
	}
	for range count {
		id := uint16(len(d.host.Extra) + 1)
		d.host.Extra[id] = 20000 + id
		ids = append(ids, id)
	}
	return ids
}

func (d *device) CloseExtra(ids []uint16) {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	for _, id := range ids {
		delete(d.host.Extra, id)
	}
}

var errNoRelay = errors.New("no relay is connected")

func (d *device) sendSignal(to [key.Size]byte, b []byte) error {
	w := d.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if !d.relay {
		return errNoRelay
	}
	b = bytes.Clone(b)
	w.signals = append(w.signals, b)
	from := d.id.Public().Raw()
	for _, other := range w.devices {
		if other.id.Public().Raw() != to {
			continue
		}
		if other.relay {
			time.AfterFunc(relayWay, func() { other.tr.HandleSignal(from, b) })
		} else {
			time.AfterFunc(relayWay, func() { d.tr.PeerGone(other.id.Public()) })
		}
	}
	return nil
}

func (d *device) traffic(peer key.NodePublic) path.Traffic {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	return *d.flowOf(peer.Raw())
}

// flowOf is for a caller that holds mu.
func (d *device) flowOf(peer [key.Size]byte) *path.Traffic {
	if d.flow[peer] == nil {
		d.flow[peer] = new(path.Traffic)
	}
	return d.flow[peer]
}

func (d *device) onPath(peer key.NodePublic, p Path) {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	d.paths[peer.Raw()] = p
	d.kinds[peer.Raw()] = append(d.kinds[peer.Raw()], p.Kind)
}

func (d *device) onWanted(peer key.NodePublic) {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	d.wanted = append(d.wanted, peer)
}

// setRelay connects or disconnects the device's relay.
func (d *device) setRelay(up bool) {
	d.w.mu.Lock()
	d.relay = up
	d.w.mu.Unlock()
	d.tr.SetRelay(up, "home", relayAddr)
}

// path is what the tunnel of d was last told of the peer.
func (d *device) path(peer *device) Path {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	return d.paths[peer.raw()]
}

func (d *device) told(peer *device) []Kind {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	return append([]Kind(nil), d.kinds[peer.raw()]...)
}

// checksTo gives the requests that d sent to an address, and how many answers.
func (d *device) checksTo(to netip.AddrPort) (requests [][]byte, answers int) {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	for _, o := range d.out {
		if o.to != to {
			continue
		}
		m, err := stunmsg.Parse(o.b)
		switch {
		case err != nil:
			d.w.t.Errorf("what was sent to %s is no STUN: %v", to, err)
		case m.Class == stunmsg.Request:
			requests = append(requests, o.b)
		default:
			answers++
		}
	}
	return requests, answers
}

// pass lets fake time go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// within fails the test unless ok becomes true within d of fake time; it gives how long it took.
func (w *world) within(d time.Duration, what string, ok func() bool) time.Duration {
	w.t.Helper()
	const step = 5 * time.Millisecond
	synctest.Wait()
	for took := time.Duration(0); took <= d; took += step {
		if ok() {
			return took
		}
		pass(step)
	}
	w.t.Fatalf("not within %s: %s", d, what)
	return 0
}

// both reports whether each reaches the other in this way.
func both(a, b *device, k Kind) func() bool {
	return func() bool { return a.path(b).Kind == k && b.path(a).Kind == k }
}
