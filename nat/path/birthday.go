package path

import (
	"net/netip"
	"slices"
	"time"

	pb "warren/proto/warrenv1"
)

// A NAT that maps every destination to another port (the hard side) and one that maps endpoint-independently (the easy side) find no
// direct path by candidates: the easy side does not know to which port of the hard side's NAT to send. But the hard side can have many:
// it sends from up to 256 sockets, each of which gets a port that lets the easy side in, and the easy side tries ports at random. After
// 1,100 of some 64,500 ports the chance of a hit is 1 - (1 - 256/64512)^1100, 98.7 %: the birthday paradox.
//
//	hard                          relay                          easy
//	  |--- signal: wish ----------->|----------------------------->|
//	  |<----------------------------|<------------ signal: agreed -| once it has no other peer to do this with
//	  | opens 256 sockets           |                              |
//	  |--- a check from each -------+--------------------x NAT     |
//	  |--- signal: ready ---------->|----------------------------->|
//	  |<----------------------------|<------------ signal: trying -|
//	  |     NAT x-------------------+---- checks of random ports --|
//	  |<----------------------------+------------- one hits -------|
//	  |--- answer, check of its own from that socket ------------->|
//	  | closes the others           |                              |
//
// It costs the NAT a table entry a socket, so it is done only for traffic, for one peer at a time, and after a failure not for an hour. What leads up
// to it is in agree.go. A NAT that gives ports out in sequence is hit at once, if one begins where its last port was.

// Bounds of an attempt.
const (
	huntSockets  = 256
	huntProbes   = 1100
	huntRate     = 100                  // probes in a second, unless Config.BirthdayRate says otherwise
	huntPace     = 2 * time.Millisecond // between two sockets' checks on the hard side
	huntPatience = time.Second          // ordinary checks come first: six of seven tries
	huntLinger   = 3 * time.Second      // for the answer to the last probe
	huntSequence = 300                  // ports tried in sequence, where the peer says that its NAT works so
	huntRetry    = time.Hour            // after a failure; doubles
	huntRetryMax = 24 * time.Hour
	huntAgain    = time.Minute // after a success: a path lost at once is not worth the NAT's memory
	huntTraffic  = time.Second
	portFirst    = 1024
)

// Mapping is how the NAT before a device maps (RFC 4787 section 4.1).
type Mapping uint8

// The kinds of mapping that matter here.
const (
	MappingUnknown Mapping = iota
	// MappingIndependent: every destination sees the same address; also without any NAT.
	MappingIndependent
	// MappingDependent: every destination sees another port.
	MappingDependent
	// MappingSequential is MappingDependent with ports one after the other.
	MappingSequential
)

// NAT is what is known of a NAT, for IPv4: how it maps, and one of the addresses outside that it gave the tunnel's socket; zero if none is known.
type NAT struct {
	Mapping  Mapping
	External netip.AddrPort
}

func (m Mapping) hard() bool { return m == MappingDependent || m == MappingSequential }

// hunt is an attempt that was agreed on. A Core has one at a time.
type hunt struct {
	s       *session
	hard    bool // our side's role
	target  netip.AddrPort
	sockets []uint16 // on the hard side; nil until they are open
	told    int      // ... how often the peer was told
	begun   bool     // the easy side tries ports
	sent    int
	next    time.Time // when to send again
	end     time.Time
	tried   map[uint16]bool
}

func (e SocketsOpened) apply(c *Core) {
	h := c.hunt
	if h == nil || !h.hard || h.s.id != e.Peer || h.sockets != nil {
		if len(e.Sockets) > 0 {
			c.emit(CloseSockets(e))
		}
		return
	}
	h.sockets, h.next = e.Sockets[:min(len(e.Sockets), huntSockets)], c.now
	h.end = c.now.Add(huntPace*time.Duration(len(h.sockets)) + readyAnswer)
	if len(h.sockets) == 0 {
		c.endHunt(false)
		return
	}
	c.touch(h.s)
}

// reflexive4 is the peer's address outside: by its own word that by which its packets leave, or one of those that its servers see.
func (s *session) reflexive4() netip.AddrPort {
	if a := s.nat.External; a.Addr().Is4() && !a.Addr().IsPrivate() {
		return a
	}
	for _, r := range s.remote {
		if r.Kind == pb.CandidateKind_CANDIDATE_KIND_SERVER_REFLEXIVE && r.Addr.Addr().Is4() && !r.Addr.Addr().IsPrivate() {
			return r.Addr
		}
	}
	for _, r := range s.remote { // without a NAT there is no other address than the host's
		if r.Addr.Addr().Is4() && !r.Addr.Addr().IsPrivate() {
			return r.Addr
		}
	}
	return netip.AddrPort{}
}

// runHunt goes on with the attempt of this session, or wishes for one, and says when it wants to be called again.
func (s *session) runHunt() time.Time {
	c := s.c
	if s.current != nil || !s.used() {
		s.lackSince = time.Time{}
	} else if s.lackSince.IsZero() {
		s.lackSince = c.now
	}
	h := c.hunt
	if h == nil || h.s != s {
		return s.runWish()
	}
	if s.current != nil || !s.awake || !h.end.After(c.now) {
		c.endHunt(s.current != nil)
		return time.Time{}
	}
	for !h.next.IsZero() && !h.next.After(c.now) {
		if h.hard {
			h.stepHard()
		} else {
			h.stepEasy()
		}
	}
	return earlier(h.next, h.end)
}

// stepHard sends the next socket's check, and at last tells the peer, until it takes part.
func (h *hunt) stepHard() {
	c := h.s.c
	if h.sent < len(h.sockets) {
		h.s.sendFrom(Pair{Local: h.s.oneLocal(h.target.Addr()), Socket: h.sockets[h.sent], Remote: h.target})
		h.sent++
		h.next = h.next.Add(huntPace)
		return
	}
	h.next = time.Time{}
	if h.begun || h.told == readyTries {
		return
	}
	h.told++
	h.next = c.now.Add(readyEvery)
	h.s.emitSignal(false, StepReady)
}

// stepEasy tries the next port.
func (h *hunt) stepEasy() {
	c := h.s.c
	if h.sent == huntProbes {
		h.next = time.Time{}
		return
	}
	port := h.port()
	h.tried[port] = true
	h.sent++
	h.next = h.next.Add(time.Second / time.Duration(c.cfg.BirthdayRate))
	h.s.sendFrom(Pair{Local: h.s.oneLocal(h.target.Addr()), Remote: netip.AddrPortFrom(h.target.Addr(), port)})
}

func (h *hunt) port() uint16 {
	if h.s.nat.Mapping == MappingSequential && h.sent < huntSequence {
		if p := int(h.target.Port()) + h.sent + 1; p <= 65535 && !h.tried[uint16(p)] {
			return uint16(p)
		}
	}
	for {
		p := uint16(portFirst + h.s.c.cfg.Rand.IntN(65536-portFirst))
		if !h.tried[p] {
			return p
		}
	}
}

// oneLocal is the address to send from, if there is but one.
func (s *session) oneLocal(remote netip.Addr) netip.Addr {
	if l := s.localsFor(remote); len(l) == 1 {
		return l[0]
	}
	return netip.Addr{}
}

// huntLasts is how long trying ports may take.
func (c *Core) huntLasts() time.Duration {
	return huntProbes*time.Second/time.Duration(c.cfg.BirthdayRate) + huntLinger
}

// endHunt ends the attempt in progress. After a success the socket of the path stays.
func (c *Core) endHunt(won bool) {
	h := c.hunt
	c.hunt = nil
	s := h.s
	switch {
	case won:
		s.huntFailed, s.huntIdle, s.huntAfter = 0, 0, c.now.Add(huntAgain)
	case !h.begun: // the other side did not follow
		s.huntAfter = c.now.Add(min(huntIdle<<min(s.huntIdle, 16), huntRetry))
		s.huntIdle++
	case h.hard && h.end.After(c.now): // given up for another reason
		s.huntAfter = c.now.Add(huntAgain)
	default:
		s.huntAfter = c.now.Add(min(huntRetry<<min(s.huntFailed, 8), huntRetryMax))
		s.huntFailed++
	}
	keep := uint16(0)
	if s.current != nil {
		keep = s.current.Socket
	}
	s.closeSockets(h.sockets, keep)
	c.agreeNext()
}

// closeSockets closes extra sockets of this session but one; 0 keeps none.
func (s *session) closeSockets(open []uint16, keep uint16) {
	var closing []uint16
	for _, id := range open {
		if id != keep {
			closing = append(closing, id)
		}
	}
	if s.socket != 0 && s.socket != keep {
		closing = append(closing, s.socket)
	}
	s.socket = keep
	if len(closing) > 0 {
		s.pairs = slices.DeleteFunc(s.pairs, func(p *pair) bool { return p != s.current && slices.Contains(closing, p.Socket) })
		s.c.emit(CloseSockets{Peer: s.id, Sockets: closing})
	}
}

// settleSocket closes the socket of a path that is no longer used.
func (s *session) settleSocket() {
	if s.c.hunt != nil && s.c.hunt.s == s {
		return
	}
	if s.socket != 0 && (s.current == nil || s.current.Socket != s.socket) {
		s.closeSockets(nil, 0)
	}
}
