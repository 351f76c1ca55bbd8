// Package handover is what an agent's process gives to the one that takes over from it: open files by name, and a State, of which Encode makes bytes
// and Decode a State again. Seal puts the bytes into a file that is on no disk, and Open reads it.
//
// The files go through the service manager, which keeps them while the program is away, or stay open while the process becomes another program by
// Replace, which finds them by Inherited. Who takes over believes nothing unseen: Take sorts the files by name and closes those that nobody wants, whoever
// uses one looks what it is, and of a State each part that makes no sense is left out.
//
//	handover.go     State and its bytes
//	flows.go        the flows in it
//	files.go        names of files, and the way to another program
//	sealed_linux.go the file with the State
package handover

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"warren/nat/candidate"
	"warren/nat/signal"
	"warren/nat/traversal"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
	"warren/tunnel/bind"
	"warren/tunnel/filter"
)

// layout is that of the bytes. A greater one is not read: the restart then costs what it would without a State.
const layout = 1

// Bounds of a State.
const (
	// MaxPeers is how many peers are called at once after a restart. Others are called when there is a packet for them.
	MaxPeers = 1024
	// maxSize is far above what MaxPeers, a timestamp for each of a hundred thousand peers and a full table of flows take, in bytes.
	maxSize = 64 << 20
	// MaxAge is how long a State is good: then its peers have found out by themselves.
	MaxAge = time.Minute
)

// State is what the process knew.
type State struct {
	// Network and Device say whose it is.
	Network record.NetworkID
	Device  key.DevicePublic
	// Peers are those with which a session went on, the last used first.
	Peers []Peer
	// Stamps are those of the peers' last initiations, by node key.
	Stamps map[[key.Size]byte][bind.StampSize]byte
	Flows  []filter.Kept
	// Choices say which gateway each CIDR used, by device key.
	Choices map[netip.Prefix][key.Size]byte
}

// Peer is how a peer was reached.
type Peer struct {
	traversal.Kept
	// Node is the node key in use.
	Node key.NodePublic
	// Relays are those at which it is reached, its home first.
	Relays [][key.Size]byte
}

// Moment is a time on a host: Boot tells one start of the host from others, and At is how long ago it was.
type Moment struct {
	Boot string
	At   time.Duration
}

// Errors of Decode; all mean that there is nothing to go on with.
var (
	ErrDamaged = errors.New("damaged")
	ErrNewer   = errors.New("written by a newer warren")
	ErrOld     = errors.New("too old")
)

// Encode gives the bytes of s, written now.
func Encode(s *State, now Moment) ([]byte, error) {
	m := &pb.Handover{Layout: layout, At: uint64(max(now.At, 0)), Boot: now.Boot, Network: s.Network[:], Device: s.Device.Bytes()}
	for _, p := range s.Peers[:min(len(s.Peers), MaxPeers)] {
		m.Peers = append(m.Peers, p.encode())
	}
	for raw, stamp := range s.Stamps {
		m.Stamps = append(m.Stamps, &pb.HandoverStamp{Node: raw[:], Stamp: stamp[:]})
	}
	slices.SortFunc(m.Stamps, func(a, b *pb.HandoverStamp) int { return bytes.Compare(a.GetNode(), b.GetNode()) })
	for i := range s.Flows {
		m.Flows = append(m.Flows, encodeFlow(&s.Flows[i]))
	}
	for p, gateway := range s.Choices {
		m.Choices = append(m.Choices, &pb.HandoverChoice{Address: p.Addr().AsSlice(), Bits: uint32(p.Bits()), Gateway: gateway[:]})
	}
	slices.SortFunc(m.Choices, func(a, b *pb.HandoverChoice) int {
		return bytes.Compare(append(a.GetAddress(), byte(a.GetBits())), append(b.GetAddress(), byte(b.GetBits())))
	})
	b, err := proto.Marshal(m)
	if err == nil && len(b) > maxSize {
		err = fmt.Errorf("%d bytes, more than %d", len(b), maxSize)
	}
	return b, err
}

func (p *Peer) encode() *pb.HandoverPeer {
	out := &pb.HandoverPeer{Device: p.Device.Bytes(), Node: p.Node.Bytes(), Candidates: candidate.ToProto(p.Candidates)}
	for _, r := range p.Relays {
		out.Relays = append(out.Relays, r[:])
	}
	if d := p.Path; d.Kind == traversal.Direct {
		out.Local, out.Remote, out.RemotePort = d.Local.Addr().AsSlice(), d.Remote.Addr().AsSlice(), uint32(d.Remote.Port())
		out.Mtu, out.Rtt = uint32(max(d.MTU, 0)), durationpb.New(d.RTT)
	}
	return out
}

// Decode reads what Encode has written a short while before now, on the same start of the host. Parts that make no sense are left out, and counted.
func Decode(b []byte, now Moment) (s *State, omitted int, err error) {
	if len(b) > maxSize {
		return nil, 0, fmt.Errorf("%d bytes, more than %d: %w", len(b), maxSize, ErrDamaged)
	}
	var m pb.Handover
	if err := proto.Unmarshal(b, &m); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if m.GetLayout() != layout {
		if m.GetLayout() > layout {
			err = fmt.Errorf("layout %d, this one knows %d: %w", m.GetLayout(), layout, ErrNewer)
		} else {
			err = fmt.Errorf("layout %d: %w", m.GetLayout(), ErrDamaged)
		}
		return nil, 0, err
	}
	if age := int64(now.At) - int64(m.GetAt()); m.GetBoot() != now.Boot || age < 0 || age > int64(MaxAge) {
		return nil, 0, fmt.Errorf("written %s ago, or before the host's last start: %w", time.Duration(age), ErrOld)
	}
	s = &State{Stamps: map[[key.Size]byte][bind.StampSize]byte{}, Choices: map[netip.Prefix][key.Size]byte{}}
	if s.Network, err = record.NetworkIDFromBytes(m.GetNetwork()); err == nil {
		s.Device, err = key.DevicePublicFromBytes(m.GetDevice())
	}
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return s, s.decode(&m), nil
}

// decode takes the parts, and tells how many it has left out.
func (s *State) decode(m *pb.Handover) (omitted int) {
	for _, p := range m.GetPeers() {
		if out, ok := decodePeer(p); ok && len(s.Peers) < MaxPeers {
			s.Peers = append(s.Peers, out)
		} else {
			omitted++
		}
	}
	for _, t := range m.GetStamps() {
		if len(t.GetNode()) == key.Size && len(t.GetStamp()) == bind.StampSize {
			s.Stamps[[key.Size]byte(t.GetNode())] = [bind.StampSize]byte(t.GetStamp())
		} else {
			omitted++
		}
	}
	for _, f := range m.GetFlows() {
		if k, ok := decodeFlow(f); ok {
			s.Flows = append(s.Flows, k)
		} else {
			omitted++
		}
	}
	for _, c := range m.GetChoices() {
		a, ok := netip.AddrFromSlice(c.GetAddress())
		p := netip.PrefixFrom(a, int(min(c.GetBits(), 129)))
		if ok && p.IsValid() && p == p.Masked() && len(c.GetGateway()) == key.Size {
			s.Choices[p] = [key.Size]byte(c.GetGateway())
		} else {
			omitted++
		}
	}
	return omitted
}

// decodePeer takes a peer without its path if that makes no sense. What addresses may be sent to is for others to say: they know the network.
func decodePeer(m *pb.HandoverPeer) (p Peer, ok bool) {
	var err error
	if p.Device, err = key.DevicePublicFromBytes(m.GetDevice()); err != nil {
		return p, false
	}
	if p.Node, err = key.NodePublicFromBytes(m.GetNode()); err != nil {
		return p, false
	}
	if p.Candidates, err = candidate.FromProto(m.GetCandidates(), nil); err != nil {
		return p, false
	}
	for _, r := range m.GetRelays()[:min(len(m.GetRelays()), signal.MaxRelays)] {
		if len(r) == key.Size {
			p.Relays = append(p.Relays, [key.Size]byte(r))
		}
	}
	p.Path = decodePath(m)
	return p, true
}

// maxRTT and maxMTU are more than any path has.
const maxRTT, maxMTU = 10 * time.Second, 65535

func decodePath(m *pb.HandoverPeer) traversal.Path {
	remote, ok := netip.AddrFromSlice(m.GetRemote())
	rtt := m.GetRtt().AsDuration()
	if !ok || m.GetRemotePort() == 0 || m.GetRemotePort() > 65535 || m.GetMtu() > maxMTU || rtt < 0 || rtt > maxRTT {
		return traversal.Path{}
	}
	p := traversal.Path{Kind: traversal.Direct, Remote: netip.AddrPortFrom(remote, uint16(m.GetRemotePort())), RTT: rtt, MTU: int(m.GetMtu())}
	if len(m.GetLocal()) > 0 {
		local, ok := netip.AddrFromSlice(m.GetLocal())
		if !ok || local.Is4() != remote.Is4() {
			return traversal.Path{}
		}
		p.Local = netip.AddrPortFrom(local, 0)
	}
	return p
}
