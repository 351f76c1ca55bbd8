package bind

import "sync/atomic"

// Stats counts what did not go its usual way since New, in packets unless told otherwise.
type Stats struct {
	UnknownIndex  uint64 // messages for a session that we do not have
	BadInitiation uint64 // initiations that do not open: not made for our key, or damaged
	UnknownPeer   uint64 // initiations of keys that are not in the map
	Limited       uint64 // initiations beyond the rate limit
	Replayed      uint64 // initiations not newer than the peer's last
	InjectDropped uint64 // packets from relays that WireGuard did not take in time
	RelayOther    uint64 // packets from relays that are not WireGuard
	ReceiveErrors uint64 // failed reads of a socket
	SendErrors    uint64 // failed sends of a batch
	Long          uint64 // packets too long for their direct path, which a relay carried
	// Bytes of WireGuard's messages that were to be sent, and that came for a session, by the way they took.
	SentDirect, SentRelay, ReceivedDirect, ReceivedRelay uint64
	// GSO and GRO tell for the IPv4 and the IPv6 socket whether the offload is in use.
	GSO4, GSO6, GRO4, GRO6 bool
}

type counters struct {
	unknownIndex, badInitiation, unknownPeer, limited, replayed atomic.Uint64
	injectDropped, relayOther, receiveErrors, sendErrors, long  atomic.Uint64
	sentDirect, sentRelay, receivedDirect, receivedRelay        atomic.Uint64
}

// Stats gives the counts so far.
func (b *Bind) Stats() Stats {
	c := &b.counters
	s := Stats{
		UnknownIndex: c.unknownIndex.Load(), BadInitiation: c.badInitiation.Load(), UnknownPeer: c.unknownPeer.Load(),
		Limited: c.limited.Load(), Replayed: c.replayed.Load(), InjectDropped: c.injectDropped.Load(), RelayOther: c.relayOther.Load(),
		ReceiveErrors: c.receiveErrors.Load(), SendErrors: c.sendErrors.Load(), Long: c.long.Load(),
		SentDirect: c.sentDirect.Load(), SentRelay: c.sentRelay.Load(),
		ReceivedDirect: c.receivedDirect.Load(), ReceivedRelay: c.receivedRelay.Load(),
	}
	if v4 := b.v4.Load(); v4 != nil {
		s.GSO4, s.GRO4 = v4.Offloads()
	}
	if v6 := b.v6.Load(); v6 != nil {
		s.GSO6, s.GRO6 = v6.Offloads()
	}
	return s
}
