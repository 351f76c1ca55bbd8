package filter

import (
	"bytes"
	"net/netip"
	"time"
)

// Kept is a flow that passes, as one process hands it to the next, so that answers to what began before still return. It carries no verdict: Restore
// judges it anew.
type Kept struct {
	// Peer is the ID of who is accountable for it.
	Peer [32]byte
	// Direction is that of the first packet, from Src to Dst. The ports of an ICMP echo are its identifier.
	Direction Direction
	Proto     uint8
	Src, Dst  netip.AddrPort
	// Seen is what has been seen of a TCP connection.
	Seen uint8
	// Told says that its begin has been told of.
	Told bool
	// Age is how long ago it began, Idle how long ago its last packet came, Left after how long it is forgotten if nothing more comes.
	Age, Idle, Left time.Duration
	// Traffic is by Direction.
	Traffic [2]Traffic
}

// seenAll are all bits of Kept.Seen.
const seenAll = seenAnswer | seenEnds | seenReset

// maxAge bounds what a successor believes of a flow's age: longer than any host runs.
const maxAge = 100 * 365 * 24 * time.Hour

// Keep gives the flows that pass at present, for Restore. Fragments, refused flows and connections that have ended are not worth it.
func (f *Filter) Keep(now time.Duration) (out []Kept) {
	for i := range f.shards {
		out = f.shards[i].keep(now, out)
	}
	return out
}

func (s *shard) keep(now time.Duration, out []Kept) []Kept {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.heaviest {
		for c := brief; c < classes; c++ {
			for e := a.lists[c].oldest; e != nil; e = e.newer {
				if now >= e.expires || e.closed() {
					continue
				}
				k := Kept{
					Peer: a.peer.ID, Direction: Out, Proto: e.key[keyProto], Seen: e.tcp, Told: e.told != never,
					Age: now - e.began, Idle: now - e.used, Left: e.expires - now, Traffic: e.counts(),
				}
				if k.Src, k.Dst = e.ends(); e.in {
					k.Direction = In
				}
				out = append(out, k)
			}
		}
	}
	return out
}

// Restore takes up flows of a process before this one, each on the account of the peer that find gives for its ID; nil: there is none any more.
// A flow that the rules now in force do not allow, that makes no sense, or that is known already is left out. It tells how many were taken.
func (f *Filter) Restore(flows []Kept, find func(id [32]byte) *Peer, now time.Duration) (taken int) {
	for i := range flows {
		if k := &flows[i]; k.sensible() {
			if p := find(k.Peer); p != nil && f.restore(k, p, now) {
				taken++
			}
		}
	}
	return taken
}

func (f *Filter) restore(k *Kept, p *Peer, now time.Duration) bool {
	e := &Flow{in: k.Direction == In, tcp: k.Seen, began: now - k.Age, used: now - k.Idle, expires: now + k.Left, told: never}
	if k.Told {
		e.told = now
	}
	for d, t := range k.Traffic {
		e.traffic[d].packets.Store(t.Packets)
		e.traffic[d].bytes.Store(t.Bytes)
	}
	if e.class = brief; e.tcp&seenAnswer != 0 {
		e.class = lasting
	}
	e.key, e.flipped = k.key()
	s, hash := f.shard(&e.key)
	defer s.mu.Unlock()
	if p.gone.Load() || s.live(hash, &e.key, now) != nil || !f.rules.Load().renew(e) {
		return false
	}
	s.add(hash, e, p, now)
	return true
}

// key names the flow as its packets do.
func (k *Kept) key() (name key, flipped bool) {
	kind := uint8(kindFlow)
	if k.echo() {
		kind = kindEcho
	}
	name = makeKey(k.Direction, k.Src.Addr(), k.Dst.Addr(), k.Src.Port(), k.Dst.Port(), k.Proto, kind)
	if kind == kindFlow { // of an echo, who asks stands first
		c := bytes.Compare(name[keyA:keyB], name[keyB:keyAPort])
		flipped = c > 0 || c == 0 && k.Src.Port() > k.Dst.Port()
	}
	if flipped {
		name.flip()
	}
	return name, flipped
}

// echo reports whether it is ICMP: of that only echoes are flows.
func (k *Kept) echo() bool { return k.Proto == protoICMP || k.Proto == protoICMPv6 }

// sensible refuses what Keep does not give.
func (k *Kept) sensible() bool {
	a, b := k.Src.Addr(), k.Dst.Addr()
	connected := k.Proto == protoTCP && k.Seen&seenAnswer != 0
	most := idleOther
	switch {
	case connected:
		most = idleTCP
	case k.Proto == protoTCP:
		most = idleTCPBrief
	case k.Proto == protoUDP, k.Proto == protoSCTP:
		most = idleUDP
	}
	switch {
	case !a.IsValid() || !b.IsValid() || a.Is4In6() || b.Is4In6() || a.Zone() != "" || b.Zone() != "" || a.Is4() != b.Is4():
		return false
	case k.Direction > Out || k.Seen&^seenAll != 0 || k.Proto != protoTCP && k.Seen != 0 || (&Flow{tcp: k.Seen}).closed():
		return false
	case k.echo() && k.Src.Port() != k.Dst.Port():
		return false
	}
	return 0 <= k.Idle && k.Idle <= k.Age && k.Age <= maxAge && 0 < k.Left && k.Left <= most
}
