package traversal

import (
	"errors"
	"net/netip"
	"time"

	"warren/nat/candidate"
	"warren/nat/check"
	"warren/nat/path"
	"warren/nat/signal"
	"warren/nat/stunmsg"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// owner is what belongs to Run's goroutine: the core and the keys.
type owner struct {
	t         *Traversal
	core      *path.Core
	next      time.Time // when the core wants to be called
	peers     map[path.ID]*peer
	byNode    map[[key.Size]byte]path.ID // current and next keys, and those that are active
	table     *check.Table
	underived []path.ID // peers that may have no keys in table yet
	overlay   []netip.Prefix
	local     []candidate.Candidate
	relay     string
	relayAddr netip.AddrPort
	homes     [][key.Size]byte // relays at which this device is reached
	view      signal.View      // of our network
}

// peer is one device of the map.
type peer struct {
	Peer
	derived bool
	box     *signal.Box                       // made when the first signal is due
	active  map[[key.Size]byte]key.NodePublic // keys under which the tunnel has it

	theirs   signal.View // the peer's word
	theirsAt time.Time
	toldAt   time.Time     // when it was last told because it asked
	againAt  time.Time     // when it was last asked to say something again
	askers   []chan<- bool // who waits for its word; each has room for one
}

func newOwner(t *Traversal) *owner {
	o := &owner{t: t, peers: map[path.ID]*peer{}, byNode: map[[key.Size]byte]path.ID{}, table: check.NewTable()}
	rate := t.cfg.BirthdayRate
	if t.cfg.Extra == nil {
		rate = -1
	}
	o.core = path.New(time.Now(), path.Config{Traffic: o.traffic, BirthdayRate: rate})
	return o
}

// handle passes an event to the core and does what it says.
func (o *owner) handle(ev path.Event) {
	actions, next := o.core.Handle(time.Now(), ev)
	o.next = next
	for _, a := range actions {
		o.do(a)
	}
}

func (o *owner) do(a path.Action) {
	switch a := a.(type) {
	case path.SendCheck:
		o.sendCheck(a)
	case path.SendSignal:
		o.sendSignal(a)
	case path.OpenSockets:
		o.openSockets(a)
	case path.CloseSockets:
		o.t.cfg.Extra.CloseExtra(a.Sockets)
	case path.SetPath:
		o.publish(a)
	case path.SetRTT:
		if p := o.peers[a.Peer]; p != nil {
			o.t.setRTT(p.Node.Raw(), a.RTT)
		}
	case path.SetMTU:
		o.publishMTU(a)
	case path.Wanted:
		if p := o.peers[a.Peer]; p != nil {
			o.t.cfg.Wanted(p.Node)
		}
	case path.Ended:
		if p := o.peers[a.Peer]; p != nil {
			o.t.removePath(p.Node.Raw())
			o.tellTunnel(p, Path{}) // or it would find a stale path when it has the peer again
		}
	}
}

func (o *owner) sendCheck(a path.SendCheck) {
	keys := o.table.Keys(a.Peer)
	if len(keys) == 0 {
		return // the session ends with the peer; this is the rest of it
	}
	o.t.counters.checks.Add(1)
	if err := o.send(a.Pair, keys[0].PaddedRequest(a.Tx, a.Size)); err != nil {
		o.t.counters.sendErrors.Add(1)
		o.t.log.Debug("check not sent", "local", a.Local, "remote", a.Remote, "err", err)
	}
}

// send sends a datagram from the socket of a pair.
func (o *owner) send(at path.Pair, b []byte) error {
	if at.Socket != 0 {
		return o.t.cfg.Extra.WriteExtra(at.Socket, at.Local, at.Remote, b)
	}
	return o.t.cfg.Send(at.Local, at.Remote, b)
}

// openSockets opens extra sockets without keeping Run from its work.
func (o *owner) openSockets(a path.OpenSockets) {
	t := o.t
	go func() {
		ids := t.cfg.Extra.OpenExtra(a.Count)
		t.tell(func(o *owner) { o.handle(path.SocketsOpened{Peer: a.Peer, Sockets: ids}) })
	}()
}

func (o *owner) sendSignal(a path.SendSignal) {
	if p := o.peers[a.Peer]; p != nil {
		if a.Step != path.StepNone {
			o.t.log.Debug("ports of a hard NAT", "peer", p.Node.Short(), "step", a.Step)
		}
		s := signal.Signal{
			Candidates: a.Candidates, Call: a.Call, Lost: a.Lost, View: o.viewFor(p), TriesPorts: a.NAT != path.NAT{} || a.Step != path.StepNone,
			Sequential: a.Mapping == path.MappingSequential, External: a.External, Step: pb.HardNAT_Step(a.Step),
		}
		if s.View.Mapping == 0 {
			s.View.Mapping = mappingFor(a.Mapping)
		}
		o.seal(a.Peer, p, s)
	}
}

// seal sends a signal and reports whether a relay took it.
func (o *owner) seal(id path.ID, p *peer, s signal.Signal) bool {
	s.Relays = o.homes
	b, err := o.boxOf(p).Seal(s)
	if err == nil {
		o.t.counters.signals.Add(1)
		err = o.t.cfg.SendSignal(id, b)
	}
	if err != nil {
		o.t.counters.sendErrors.Add(1)
		o.t.log.Debug("signal not sent", "peer", p.Node.Short(), "err", err)
	}
	return err == nil
}

func (o *owner) publish(a path.SetPath) {
	p := o.peers[a.Peer]
	if p == nil {
		return
	}
	out := Path{Kind: a.Path.Kind, RTT: a.Path.RTT, MTU: a.Path.MTU, Since: a.Path.Since}
	switch out.Kind {
	case Direct:
		out.Remote, out.Socket = a.Path.Remote, a.Path.Socket
		if l := a.Path.Local; l.IsValid() {
			out.Local = netip.AddrPortFrom(l, o.portOf(l))
		}
	case Relay:
		out.Relay, out.RelayAddr = o.relay, o.relayAddr
	}
	if o.t.setPath(p.Node.Raw(), out) {
		o.t.counters.count(out.Kind, a.Cause)
	}
	o.t.note(p.Node.Raw(), out, a.Cause, a.Reason)
	o.tellTunnel(p, out)
	o.t.log.Info("path", "peer", p.Node.Short(), "kind", out.Kind, "local", out.Local, "remote", out.Remote, "relay", out.Relay,
		"rtt", out.RTT, "reason", a.Reason)
}

// publishMTU publishes the path that is in use, with another MTU.
func (o *owner) publishMTU(a path.SetMTU) {
	p := o.peers[a.Peer]
	if p == nil {
		return
	}
	out, ok := o.t.setMTU(p.Node.Raw(), a.MTU)
	if !ok {
		return
	}
	o.t.note(p.Node.Raw(), out, path.LongLost, a.Reason)
	o.tellTunnel(p, out)
	o.t.log.Info("path", "peer", p.Node.Short(), "kind", out.Kind, "local", out.Local, "remote", out.Remote, "mtu", a.MTU, "reason", a.Reason)
}

// tellTunnel publishes under the current key, and under another that the tunnel still or already uses.
func (o *owner) tellTunnel(p *peer, out Path) {
	o.t.cfg.OnPath(p.Node, out)
	for raw, k := range p.active {
		if raw != p.Node.Raw() {
			o.t.cfg.OnPath(k, out)
		}
	}
}

func (o *owner) portOf(local netip.Addr) uint16 {
	for _, c := range o.local {
		if c.Addr.Addr() == local {
			return c.Addr.Port()
		}
	}
	return 0
}

func (o *owner) setRelay(connected bool, relay string, addr netip.AddrPort) {
	changed := o.relay != relay || o.relayAddr != addr
	o.relay, o.relayAddr = relay, addr
	if connected && changed { // those that stay relayed hear of the new name
		for raw, path := range o.t.Paths() {
			if p := o.peers[o.byNode[raw]]; p != nil && path.Kind == Relay {
				path.Relay, path.RelayAddr = relay, addr
				o.t.setPath(raw, path)
				o.tellTunnel(p, path)
			}
		}
	}
	o.handle(path.SetRelay{Up: connected})
}

func (o *owner) traffic(id path.ID) (t path.Traffic) {
	p := o.peers[id]
	if p == nil {
		return t
	}
	t = o.t.cfg.Traffic(p.Node)
	for raw, k := range p.active {
		if raw != p.Node.Raw() {
			a := o.t.cfg.Traffic(k)
			t = path.Traffic{Sent: later(t.Sent, a.Sent), Received: later(t.Received, a.Received), Direct: later(t.Direct, a.Direct)}
		}
	}
	return t
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// packet takes a datagram. Requests are answered here, whatever the core makes of them.
func (o *owner) packet(p packet) {
	m, err := stunmsg.Parse(p.b)
	if err != nil || candidate.Usable(p.remote, o.overlay) != nil || o.inOverlay(p.local) {
		o.t.counters.refused.Add(1)
		return
	}
	at := path.Pair{Local: p.local, Socket: p.socket, Remote: p.remote}
	switch m.Class {
	case stunmsg.Request:
		o.request(m, at)
	case stunmsg.Success:
		o.success(m, at)
	default:
		o.t.counters.refused.Add(1)
	}
}

func (o *owner) request(m *stunmsg.Message, at path.Pair) {
	e, ok := o.table.Lookup(m.Username)
	if !ok || e.Keys.VerifyRequest(m) != nil {
		o.t.counters.refused.Add(1)
		return
	}
	o.t.counters.requests.Add(1)
	if !o.core.Reaches(at.Local, at.Remote.Addr()) {
		return // the answer would take another way than the check, which therefore is none
	}
	if err := o.send(at, e.Keys.Success(m.Tx, at.Remote)); err != nil {
		o.t.counters.sendErrors.Add(1)
	}
	o.handle(path.Request{Peer: e.Peer, Pair: at})
}

func (o *owner) success(m *stunmsg.Message, at path.Pair) {
	id, ok := o.core.Pending(m.Tx, at)
	if ok {
		for _, k := range o.table.Keys(id) {
			if k.VerifySuccess(m) == nil {
				o.t.counters.answers.Add(1)
				o.handle(path.Answer{Peer: id, Pair: at, Tx: m.Tx})
				if p := o.peers[id]; p != nil && o.t.cfg.OnSeen != nil && m.Mapped.IsValid() {
					o.t.cfg.OnSeen(p.Node, at.Remote.Addr(), m.Mapped.Addr())
				}
				return
			}
		}
	}
	o.t.counters.refused.Add(1)
}

func (o *owner) inOverlay(a netip.Addr) bool {
	for _, p := range o.overlay {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func (o *owner) signal(s sealed) {
	p := o.peers[s.from]
	if p == nil || o.boxOf(p) == nil {
		o.t.counters.refused.Add(1)
		return
	}
	m, err := p.box.Open(s.b, o.overlay)
	if errors.Is(err, signal.ErrStart) {
		o.askAgain(s.from, p)
		return
	}
	if err != nil {
		o.t.counters.refused.Add(1)
		o.t.log.Debug("signal refused", "peer", p.Node.Short(), "err", err)
		return
	}
	o.t.cfg.OnRelays(s.from, m.Relays)
	if o.talk(s.from, p, m) {
		return
	}
	o.derive(s.from) // its checks follow
	o.handle(path.Signal{
		Peer: s.from, Candidates: m.Candidates, Call: m.Call,
		NAT: natOf(m), Step: stepOf(m.Step), Lost: m.Lost,
	})
}

// againEvery is how often a peer whose signals are of a start that is not known is asked for them again: whoever carries signals can bring old
// ones as often as it likes.
const againEvery = 100 * time.Millisecond

// askAgain has a peer that seems to have begun anew prove it by what it says next.
func (o *owner) askAgain(id path.ID, p *peer) {
	if now := time.Now(); now.Sub(p.againAt) >= againEvery {
		p.againAt = now
		o.seal(id, p, signal.Signal{Talk: pb.Talk_TALK_AGAIN})
	}
}

// stepOf takes a peer's word; what we do not know counts as none.
func stepOf(s pb.HardNAT_Step) path.Step {
	if s < 0 || s > pb.HardNAT_Step(path.StepTrying) {
		return path.StepNone
	}
	return path.Step(s)
}

// natOf takes a peer's word of its NAT; it counts if the peer takes part in trying ports.
func natOf(m signal.Signal) (n path.NAT) {
	if !m.TriesPorts {
		return n
	}
	n.External = m.External
	switch m.View.Mapping {
	case pb.Mapping_MAPPING_NONE, pb.Mapping_MAPPING_ENDPOINT_INDEPENDENT:
		n.Mapping = path.MappingIndependent
	case pb.Mapping_MAPPING_ADDRESS_DEPENDENT, pb.Mapping_MAPPING_ADDRESS_AND_PORT_DEPENDENT:
		n.Mapping = path.MappingDependent
		if m.Sequential {
			n.Mapping = path.MappingSequential
		}
	}
	return n
}

// mappingFor is what peers are told of a mapping as long as nothing better is known.
func mappingFor(m path.Mapping) pb.Mapping {
	switch m {
	case path.MappingIndependent:
		return pb.Mapping_MAPPING_ENDPOINT_INDEPENDENT
	case path.MappingDependent, path.MappingSequential:
		return pb.Mapping_MAPPING_ADDRESS_AND_PORT_DEPENDENT
	}
	return pb.Mapping_MAPPING_UNSPECIFIED
}
