// Package path chooses how the packets of each peer travel: through a relay at once, and directly as soon as a pair of addresses is
// found that works both ways.
//
// It is a pure core. Make one with New and tell it everything by Core.Handle: an event, or nil for the passing of time. Handle gives back
// what is to be done and when to call again. It opens no socket, starts no goroutine and reads no clock; warren/nat/traversal owns one and
// does the I/O.
//
// The rules, which follow ICE (RFC 8445, RFC 7675) where they can:
//
//   - Relay first. Checks run from each local address to each candidate of the peer, paced and retransmitted; the first pair that answers
//     carries the traffic, and a clearly better one later takes over. Each side chooses for what it sends: nomination is continuous.
//   - A check can promote a path but not demote one. A path is given up for three reasons only: data goes out, nothing comes back, and
//     quick checks of the path go unanswered (distress); no check of it was answered for too long (consent); or the peer says that it has
//     just given up its own, and no check has been answered since. A side that only answers has no other way to learn of a fault in time.
//   - A session without traffic sleeps and sends nothing. Traffic or a call of the peer wakes it.
//   - A peer that the relay does not have is called ever more seldom; every goneRetry as long as there is data for it, within a rate for
//     all such peers together; and at once when anything of it is heard.
//   - A process that takes over from another is told by Restore of the paths of the one before, which are in doubt until they answer.
//   - Whatever a peer can make grow is bounded: candidates, pairs, peer-reflexive addresses, transactions, and packets in a second.
package path

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"warren/nat/candidate"
	"warren/nat/stunmsg"
	"warren/proto/key"
)

// ID names a peer: its device key, raw.
type ID = [key.Size]byte

// Kind is how a peer is reached.
type Kind uint8

// The kinds of path.
const (
	None Kind = iota
	Relay
	Direct
)

// String is as in the JSON of status.
func (k Kind) String() string {
	switch k {
	case Relay:
		return "relay"
	case Direct:
		return "direct"
	}
	return "none"
}

// Pair is the two ends of a direct path as this device sees them. Local is zero where the kernel is to choose. Socket is 0 for the tunnel's
// own socket, else one that SocketsOpened told of.
type Pair struct {
	Local  netip.Addr
	Socket uint16
	Remote netip.AddrPort
}

// Path is how a peer's packets travel.
type Path struct {
	Kind Kind
	// Pair is set on a direct path.
	Pair
	// RTT is the last measured round trip; 0 while unknown.
	RTT time.Duration
	// MTU is the largest packet inside the tunnel that a direct path carries, in bytes; 0 on a relay.
	MTU   int
	Since time.Time
}

// Traffic tells when packets of the tunnel last went to a peer and came from it; zero is never.
type Traffic struct {
	// Sent is when data was sent, Received when anything came, Direct when anything came without a relay.
	Sent, Received, Direct time.Time
}

// Config is what a Core needs from outside.
type Config struct {
	// Traffic tells of a peer's packets. It is asked often and must not block. Nil: there never were any.
	Traffic func(ID) Traffic
	// NewTx draws transaction ids, which nobody must be able to guess. Nil: from crypto/rand.
	NewTx func() stunmsg.TxID
	// BirthdayRate is how many ports of a hard NAT are tried in a second; 0: 100. Negative: none are.
	BirthdayRate int
	// Rand spreads periodic checks. Nil: seeded at random.
	Rand *rand.Rand
}

// Event is something that happened. The types that follow are all there are.
type Event interface{ apply(*Core) }

// Events.
type (
	// Activate says that the tunnel has the peer configured.
	Activate struct{ Peer ID }
	// Deactivate says that it no longer has.
	Deactivate struct{ Peer ID }
	// Forget says that the peer has left the network: nothing of it is kept.
	Forget struct{ Peer ID }
	// SetLocal gives all candidates of this device. Addresses of hosts among them are those that checks are sent from.
	// Confined are those of them whose link leads to these prefixes only: what is sent from there to elsewhere would leave by another link, and
	// a NAT on that way would give the port of the tunnel's socket to an address that no answer comes back to.
	SetLocal struct {
		Candidates []candidate.Candidate
		Confined   map[netip.Addr][]netip.Prefix
	}
	// SetRelay tells whether a relay is connected.
	SetRelay struct{ Up bool }
	// SetMapping tells of the NAT before this device, through which leaves what is sent without a local address.
	SetMapping struct{ NAT }
	// SocketsOpened answers OpenSockets: ids of as many sockets as could be opened, none of them 0.
	SocketsOpened struct {
		Peer    ID
		Sockets []uint16
	}
	// InterfaceMTU tells the MTU of the tunnel's interface, which is DefaultMTU before. Less than 1280 is ignored.
	InterfaceMTU struct{ MTU int }
	// NetworkChanged says that nothing known of the local network need be true any more.
	NetworkChanged struct{}
	// PeerGone says that the relay has no connection to the peer.
	PeerGone struct{ Peer ID }
	// Signal is what the peer told over the relay, authenticated.
	Signal struct {
		Peer       ID
		Candidates []candidate.Candidate
		Call       bool
		// NAT is the peer's.
		NAT
		Step Step
		// Lost says that the peer has just given its direct path up, so that nothing of ours need have reached it.
		Lost bool
	}
	// Again says that the peer could make nothing of our last signal, and wants it once more.
	Again struct{ Peer ID }
	// Request is an authenticated check of the peer. Whoever runs the core has answered it already.
	Request struct {
		Peer ID
		Pair
	}
	// Answer is an authenticated answer to a check.
	Answer struct {
		Peer ID
		Pair
		Tx stunmsg.TxID
	}
)

// Action is something to be done. The types that follow are all there are.
type Action interface{ action() }

// Actions.
type (
	// SendCheck is to send a check.
	SendCheck struct {
		Peer ID
		Pair
		Tx stunmsg.TxID
		// Size is how long the message is to be, in bytes; 0: no longer than need be. It must not be fragmented.
		Size int
	}
	// SendSignal is to send this device's candidates over the relay.
	SendSignal struct {
		Peer       ID
		Candidates []candidate.Candidate
		Call       bool
		NAT
		Step Step
		Lost bool
	}
	// OpenSockets asks for extra sockets, told of by SocketsOpened; CloseSockets is to close some.
	OpenSockets struct {
		Peer  ID
		Count int
	}
	CloseSockets struct {
		Peer    ID
		Sockets []uint16
	}
	// SetPath is to publish a path. Reason is for a person, Cause its class.
	SetPath struct {
		Peer   ID
		Path   Path
		Cause  Cause
		Reason string
	}
	// SetRTT tells a newer round trip of the path that is published.
	SetRTT struct {
		Peer ID
		RTT  time.Duration
	}
	// SetMTU tells that the path that is published carries packets of another size.
	SetMTU struct {
		Peer   ID
		MTU    int
		Reason string
	}
	// Wanted says that a peer which is not configured calls.
	Wanted struct{ Peer ID }
	// Ended says that nothing more is known of a peer.
	Ended struct{ Peer ID }
)

func (SendCheck) action()    {}
func (SendSignal) action()   {}
func (SetPath) action()      {}
func (OpenSockets) action()  {}
func (CloseSockets) action() {}
func (SetRTT) action()       {}
func (SetMTU) action()       {}
func (Wanted) action()       {}
func (Ended) action()        {}
