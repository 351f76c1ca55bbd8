package daemon

import (
	"net/netip"

	"warren/coord/client"
	"warren/nat/candidate"
	"warren/nat/gather"
	"warren/nat/netmon"
	"warren/nat/path"
	"warren/nat/traversal"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
	"warren/tunnel/bind"
)

// known is an immutable index of the map, read on the packet path.
type known struct {
	m        *client.Map
	byDevice map[[key.Size]byte]*record.Device
	byNode   map[[key.Size]byte]*record.Device // current and next keys
}

func newKnown(m *client.Map) *known {
	k := &known{m: m, byDevice: map[[key.Size]byte]*record.Device{}, byNode: map[[key.Size]byte]*record.Device{}}
	if m == nil {
		return k
	}
	for _, p := range m.Peers {
		k.byDevice[p.Key.Raw()] = p
		k.byNode[p.NodeKey.Raw()] = p
		if !p.NextNodeKey.IsZero() {
			k.byNode[p.NextNodeKey.Raw()] = p
		}
	}
	return k
}

func (k *known) hasNode(n key.NodePublic) bool {
	_, ok := k.byNode[n.Raw()]
	return ok
}

// applyMap brings every part into line with a new map. The client calls it from one goroutine.
func (s *session) applyMap(m *client.Map) {
	var before []*record.Device
	if old := s.known.Load().m; old != nil {
		before = old.Peers
	}
	gone, put := changed(before, m.Peers)
	s.former.add(gone)
	k := newKnown(m)
	s.known.Store(k)
	self := s.self
	if m.Self != nil {
		self = m.Self
	}
	s.relays.set(m.Statement.GetRelays())
	s.forget(gone)
	s.gatherer.SetServers(stunServers(m.Statement))
	s.gatherer.SetOverlay(m.Statement.Prefixes)
	s.traversal.SetOverlay(m.Statement.Prefixes)
	var reachable []traversal.Peer
	for _, p := range m.Peers {
		reachable = append(reachable, traversal.Peer{Device: p.Key, Node: p.NodeKey, NextNode: p.NextNodeKey})
	}
	s.traversal.SetPeers(reachable)
	for _, p := range put {
		s.relays.add(p.Key.Raw())
	}
	mtu := defaultMTU
	if m.Statement.GetMtu() != 0 {
		mtu = int(min(max(m.Statement.GetMtu(), 1280), 65535))
	}
	s.traversal.SetMTU(mtu)
	s.networks.setMap(k, self, mtu, gone, put)
	s.changed.Wake()
}

func stunServers(st *record.Statement) []string {
	var out []string
	for _, r := range st.GetRelays() {
		out = append(out, r.GetStun()...)
	}
	return out
}

// changed says what makes the second of two lists of peers out of the first. Records do not change: one that has is another.
func changed(before, after []*record.Device) (gone, put []*record.Device) {
	for len(before) > 0 && len(after) > 0 && before[0] == after[0] {
		before, after = before[1:], after[1:]
	}
	for len(before) > 0 && len(after) > 0 && before[len(before)-1] == after[len(after)-1] {
		before, after = before[:len(before)-1], after[:len(after)-1]
	}
	had, has := make(map[[key.Size]byte]*record.Device, len(before)), make(map[[key.Size]byte]bool, len(after))
	for _, p := range before {
		had[p.Key.Raw()] = p
	}
	for _, p := range after {
		has[p.Key.Raw()] = true
		if had[p.Key.Raw()] != p {
			put = append(put, p)
		}
	}
	for _, p := range before {
		if !has[p.Key.Raw()] {
			gone = append(gone, p)
		}
	}
	return gone, put
}

// forget drops what is known of peers that have left the map.
func (s *session) forget(gone []*record.Device) {
	for _, p := range gone {
		s.relays.forget(p.Key.Raw())
		s.online.Delete(p.Key.Raw())
	}
}

func (s *session) onPresence(device [key.Size]byte, online bool) {
	s.networks.presence(device, online)
	if online {
		if _, ok := s.known.Load().byDevice[device]; ok {
			s.online.Store(device, struct{}{})
		}
	} else {
		s.online.Delete(device)
	}
}

func (s *session) onClientState(st client.State) {
	old := s.control.Swap(&st)
	if old.Connected && !st.Connected {
		s.online.Clear() // presence is soft: nobody vouches for it now
	}
	s.changed.Wake()
}

func (s *session) ticket() (ticket, certificate *pb.Signed) {
	if m := s.client.Map(); m != nil {
		return m.Ticket, m.SigningCert
	}
	return nil, nil
}

// onPacket takes what came to the UDP sockets and is not WireGuard. Peers go on sending to the port of a daemon that was started again, before
// there is anybody who could take it.
func (s *session) onPacket(local netip.Addr, remote netip.AddrPort, b []byte) {
	if !s.listens.Load() {
		return
	}
	if !s.gatherer.HandlePacket(local, remote, b) {
		s.traversal.HandlePacket(local, remote, b)
	}
}

// sequenceStep is how far apart two ports of a NAT that gives them out in sequence may be.
const sequenceStep = 16

// mappingFor tells path choice what it needs to know of the NAT's behaviour.
func mappingFor(m gather.Mapping) traversal.Mapping {
	switch {
	case m.Behaviour == gather.NoNAT, m.Behaviour == gather.EndpointIndependent:
		return traversal.MappingIndependent
	case !m.Behaviour.Dependent():
		return traversal.MappingUnknown
	}
	for i := 1; i < len(m.External); i++ {
		if d := int(m.External[i].Port()) - int(m.External[i-1].Port()); d == 0 || d > sequenceStep || d < -sequenceStep {
			return traversal.MappingDependent
		}
	}
	return traversal.MappingSequential
}

// externalOf is one of the addresses outside.
func externalOf(m gather.Mapping) (at netip.AddrPort) {
	if len(m.External) > 0 {
		at = m.External[0]
	}
	return at
}

// onExtra is onPacket for the sockets that are open for one peer only.
func (s *session) onExtra(socket uint16, local netip.Addr, remote netip.AddrPort, b []byte) {
	s.traversal.HandleExtra(socket, local, remote, b)
}

func (s *session) traffic(peer key.NodePublic) path.Traffic {
	sent, received := s.bind.Traffic(peer)
	return path.Traffic{Sent: sent, Received: received, Direct: s.bind.LastDirect(peer)}
}

func (s *session) sendRelay(peer key.NodePublic, bufs [][]byte) error {
	d, ok := s.known.Load().byNode[peer.Raw()]
	if !ok {
		return errNoRelay
	}
	return s.relays.sendData(d.Key.Raw(), bufs)
}

func (s *session) onRelayData(from [key.Size]byte, packets [][]byte) {
	if d, ok := s.known.Load().byDevice[from]; ok {
		s.bind.InjectRelay(d.NodeKey, packets)
	}
}

func (s *session) onRelaySignal(from [key.Size]byte, b []byte) {
	if _, ok := s.known.Load().byDevice[from]; ok {
		s.traversal.HandleSignal(from, b)
	}
}

func (s *session) onRelayGone(peer [key.Size]byte) {
	if d, ok := s.known.Load().byDevice[peer]; ok {
		s.traversal.PeerGone(d.Key)
	}
}

func (s *session) relaysChanged() {
	name, addr, ok := s.relays.first()
	s.traversal.SetRelay(ok, name, addr)
	if ok {
		s.bind.Reconnected()
	}
	s.changed.Wake()
}

// onPath publishes a peer's path to the Bind.
func (s *session) onPath(peer key.NodePublic, p traversal.Path) {
	out := bind.Path{Local: p.Local.Addr(), Remote: p.Remote, MTU: p.MTU, Socket: p.Socket, RelayAddr: p.RelayAddr}
	switch p.Kind {
	case traversal.Direct:
		out.Kind = bind.Direct
	case traversal.Relay:
		out.Kind = bind.Relay
	}
	s.bind.SetPath(peer, out)
	s.engine.SetPeerMTU(peer, p.MTU)
}

// onNetworkEvent makes everything that rests on the old network start anew.
func (s *session) onNetworkEvent(e netmon.Event) {
	s.log.Info("network changed", "event", e)
	s.findUplinks()
	s.gatherer.Trigger()
	if s.mapper != nil {
		s.mapper.Trigger()
	}
	s.traversal.NetworkChanged()
	s.networks.networkChanged(e.Woke)
	s.relays.reset()
	s.client.Reset()
}

// onCandidates tells path choice of this device's addresses, and which of them reach only a part of the world.
func (s *session) onCandidates(c []candidate.Candidate) {
	confined, err := gather.Confined(s.router.Name())
	if err != nil {
		s.log.Warn("the host's addresses could not be read", "err", err)
	}
	s.traversal.SetCandidates(c, confined)
}

// findUplinks has what a path pins to an address leave by the interface of that address.
func (s *session) findUplinks() {
	uplinks, err := gather.Uplinks(s.router.Name())
	if err != nil {
		s.log.Warn("the host's addresses could not be read", "err", err)
		return
	}
	s.bind.SetUplinks(uplinks)
}
