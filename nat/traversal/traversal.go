// Package traversal keeps every peer that is in use reachable: it runs the core of warren/nat/path, sends and answers checks, and seals
// and opens signals.
//
// Make one with New, start Run, and tell it what happens: SetPeers, SetOverlay, SetCandidates, SetRelay, SetMTU, PeerGone, Active, Idle,
// NetworkChanged, HandlePacket, HandleSignal. All of these may be called at any time, before Run too, from any goroutine, and do not block.
// Keep and Restore have the process that takes over begin with the paths of the one before.
// Config.OnPath gets each peer's path; Paths is a snapshot for people, Explain tells all that is known of one peer, and Ask has the peer tell
// its side.
package traversal

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"warren/nat/candidate"
	"warren/nat/path"
	"warren/nat/signal"
	"warren/nat/stunmsg"
	"warren/proto/key"
)

// Kind is how a peer is reached.
type Kind = path.Kind

// The kinds of path.
const (
	None   = path.None
	Relay  = path.Relay
	Direct = path.Direct
)

// Mapping is how a NAT maps.
type Mapping = path.Mapping

// The kinds of mapping.
const (
	MappingUnknown     = path.MappingUnknown
	MappingIndependent = path.MappingIndependent
	MappingDependent   = path.MappingDependent
	MappingSequential  = path.MappingSequential
)

// Path is how a peer's packets travel now.
type Path struct {
	Kind Kind
	// Local and Remote are set on a direct path. Local is zero where the kernel chooses. Socket is an extra one, or 0.
	Local, Remote netip.AddrPort
	Socket        uint16
	// RTT is the last measured round trip of the path; 0 while unknown.
	RTT time.Duration
	// MTU is the largest packet inside the tunnel that a direct path carries, in bytes; 0 on others.
	MTU   int
	Since time.Time
	// Relay and RelayAddr tell the relay on a relayed path.
	Relay     string
	RelayAddr netip.AddrPort
}

// Peer is one device of the network map.
type Peer struct {
	Device key.DevicePublic
	Node   key.NodePublic
	// NextNode is the key that Node is being rotated to, or zero.
	NextNode key.NodePublic
}

// Config is what a Traversal needs. Callbacks are called from Run's goroutine and must not block.
type Config struct {
	Self key.NodePrivate
	Log  *slog.Logger
	// Send sends one datagram through the tunnel's UDP sockets, from local unless that is zero.
	Send func(local netip.Addr, remote netip.AddrPort, b []byte) error
	// SendSignal sends b to a device over the relay.
	SendSignal func(device [key.Size]byte, b []byte) error
	// Traffic tells of the packets that went to a peer through the tunnel and came from it.
	Traffic func(peer key.NodePublic) path.Traffic
	// OnPath publishes a path to the tunnel.
	OnPath func(peer key.NodePublic, p Path)
	// OnSeen, if set, is told where a peer, which answered a check from remote, saw that check come from.
	OnSeen func(peer key.NodePublic, remote, seen netip.Addr)
	// OnRelays, if set, is told at which relays a device says that it is reached, its home first.
	OnRelays func(device [key.Size]byte, relays [][key.Size]byte)
	// Wanted, if set, is told that a peer calls which is not active.
	Wanted func(peer key.NodePublic)
	// Extra opens sockets beside the tunnel's own, for meeting hard NATs; nil: that is not done. HandleExtra takes what comes to them.
	Extra ExtraSockets
	// BirthdayRate is how many ports of a peer's hard NAT are tried in a second; 0: 100. Negative: none are.
	BirthdayRate int
}

// ExtraSockets are sockets beside the tunnel's own, known by ids that are not 0. Its methods are called from goroutines of their own or
// Run's; only Open may take its time.
type ExtraSockets interface {
	OpenExtra(count int) []uint16
	CloseExtra(ids []uint16)
	WriteExtra(id uint16, local netip.Addr, remote netip.AddrPort, b []byte) error
}

// Bounds of what waits for Run. What does not fit is dropped: checks and signals are repeated.
const (
	packetQueue = 512
	signalQueue = 256
	goneQueue   = 1024
	maxPacket   = stunmsg.MaxSize
)

type packet struct {
	socket uint16
	local  netip.Addr
	remote netip.AddrPort
	b      []byte
}

type sealed struct {
	from path.ID
	b    []byte
}

// Traversal is the task. See the package comment.
type Traversal struct {
	cfg      Config
	log      *slog.Logger
	packets  chan packet
	signals  chan sealed
	wake     chan struct{}
	counters counters

	mu      sync.Mutex
	control []func(*owner)
	gone    int              // of control, how many are a relay's words
	paths   map[path.ID]Path // by node key
	// histories has an entry for each peer of the map that ever had a path, by node key.
	histories map[path.ID][]Change
}

// New makes a Traversal.
func New(cfg Config) *Traversal {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.OnPath == nil {
		cfg.OnPath = func(key.NodePublic, Path) {}
	}
	if cfg.OnRelays == nil {
		cfg.OnRelays = func([key.Size]byte, [][key.Size]byte) {}
	}
	if cfg.Wanted == nil {
		cfg.Wanted = func(key.NodePublic) {}
	}
	if cfg.Traffic == nil {
		cfg.Traffic = func(key.NodePublic) (t path.Traffic) { return }
	}
	return &Traversal{
		cfg: cfg, log: cfg.Log, paths: map[path.ID]Path{}, histories: map[path.ID][]Change{},
		packets: make(chan packet, packetQueue), signals: make(chan sealed, signalQueue), wake: make(chan struct{}, 1),
	}
}

// tell has f called by Run, after all that was told before.
func (t *Traversal) tell(f func(*owner)) {
	t.mu.Lock()
	t.control = append(t.control, f)
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *Traversal) told() []func(*owner) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.control
	t.control, t.gone = nil, 0
	return all
}

// SetPeers gives the whole list of peers of the map.
func (t *Traversal) SetPeers(peers []Peer) {
	peers = slices.Clone(peers)
	t.tell(func(o *owner) { o.setPeers(peers) })
}

// SetOverlay gives the network's own prefixes: no check goes into or comes out of the tunnel itself.
func (t *Traversal) SetOverlay(prefixes []netip.Prefix) {
	prefixes = slices.Clone(prefixes)
	t.tell(func(o *owner) { o.overlay = prefixes })
}

// SetCandidates gives the candidates of this device, and of its own addresses those whose link leads to some prefixes only.
func (t *Traversal) SetCandidates(candidates []candidate.Candidate, confined map[netip.Addr][]netip.Prefix) {
	candidates = slices.Clone(candidates)
	t.tell(func(o *owner) {
		o.local = candidates
		o.handle(path.SetLocal{Candidates: candidates, Confined: confined})
	})
}

// SetRelay tells whether a relay is connected, and which is shown.
func (t *Traversal) SetRelay(connected bool, relay string, addr netip.AddrPort) {
	t.tell(func(o *owner) { o.setRelay(connected, relay, addr) })
}

// SetHomes gives the relays at which this device is reached, its home first. Peers hear of them in the signals that follow.
func (t *Traversal) SetHomes(relays [][key.Size]byte) {
	relays = slices.Clone(relays)
	t.tell(func(o *owner) { o.homes = relays })
}

// PeerGone tells that the relay has no connection to a device. A relay may say so as often as it likes: not all of it is kept.
func (t *Traversal) PeerGone(device key.DevicePublic) {
	t.mu.Lock()
	full := t.gone >= goneQueue
	if !full {
		t.gone++
	}
	t.mu.Unlock()
	if full {
		t.counters.dropped.Add(1)
		return
	}
	t.tell(func(o *owner) { o.handle(path.PeerGone{Peer: device.Raw()}) })
}

// Active tells that the tunnel has a peer configured. Only such peers, and those that call, cost anything.
func (t *Traversal) Active(peer key.NodePublic) { t.tell(func(o *owner) { o.active(peer) }) }

// Idle tells that the tunnel has removed a peer.
func (t *Traversal) Idle(peer key.NodePublic) { t.tell(func(o *owner) { o.idle(peer) }) }

// SetMTU tells the MTU of the tunnel's interface.
func (t *Traversal) SetMTU(mtu int) { t.tell(func(o *owner) { o.handle(path.InterfaceMTU{MTU: mtu}) }) }

// SetMapping tells how the NAT before this device maps what is sent without a local address, and one of the addresses outside; zero if none is
// known.
func (t *Traversal) SetMapping(m Mapping, external netip.AddrPort) {
	t.tell(func(o *owner) { o.handle(path.SetMapping{NAT: path.NAT{Mapping: m, External: external}}) })
}

// NetworkChanged tells that addresses, links or routes of the host changed, or that it woke from sleep.
func (t *Traversal) NetworkChanged() { t.tell(func(o *owner) { o.handle(path.NetworkChanged{}) }) }

// HandlePacket takes a datagram from the tunnel's sockets that is neither WireGuard's nor an answer of a STUN server. It copies b.
func (t *Traversal) HandlePacket(local netip.Addr, remote netip.AddrPort, b []byte) {
	t.HandleExtra(0, local, remote, b)
}

// HandleExtra is HandlePacket for what came to an extra socket.
func (t *Traversal) HandleExtra(socket uint16, local netip.Addr, remote netip.AddrPort, b []byte) {
	if len(b) > maxPacket {
		t.counters.refused.Add(1)
		return
	}
	p := packet{socket, local.Unmap(), netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port()), bytes.Clone(b)}
	select {
	case t.packets <- p:
	default:
		t.counters.dropped.Add(1)
	}
}

// HandleSignal takes a signal that a relay brought from a device. It copies b.
func (t *Traversal) HandleSignal(from [key.Size]byte, b []byte) {
	if len(b) > signal.MaxSize {
		t.counters.refused.Add(1)
		return
	}
	select {
	case t.signals <- sealed{from, bytes.Clone(b)}:
	default:
		t.counters.dropped.Add(1)
	}
}

// Paths is a snapshot of the paths of all peers in use, by node key.
func (t *Traversal) Paths() map[[key.Size]byte]Path {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.paths)
}

// Run does the work until ctx ends.
func (t *Traversal) Run(ctx context.Context) error {
	o := newOwner(t)
	ready := make(chan struct{})
	close(ready)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var spare <-chan struct{} // keys of peers that are not in use are derived when there is nothing better to do
		if len(o.underived) > 0 {
			spare = ready
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.wake:
			for _, f := range t.told() {
				f(o)
			}
		case p := <-t.packets:
			o.packet(p)
		case s := <-t.signals:
			o.signal(s)
		case <-timer.C:
			o.handle(nil)
		case <-spare:
			o.deriveSome()
		}
		if o.next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(o.next))
		}
	}
}
