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
//	  | opens 256 sockets           |                              |
//	  |--- a check from each -------+--------------------x NAT     |
//	  |--- signal: ready ---------->|----------------------------->|
//	  |     NAT x-------------------+---- checks of random ports --|
//	  |<----------------------------+------------- one hits -------|
//	  |--- answer, check of its own from that socket ------------->|
//	  | closes the others           |                              |
//
// It costs the NAT a table entry a socket, so it is done only for traffic, for one peer at a time, and after a failure not for hours. A NAT
// that gives ports out in sequence is hit at once, if one begins where its last port was.

// Bounds of an attempt.
const (
	huntSockets  = 256
	huntProbes   = 1100
	huntRate     = 100                     // probes in a second, unless Config.BirthdayRate says otherwise
	huntPace     = 2 * time.Millisecond    // between two sockets' checks on the hard side
	huntPatience = 1500 * time.Millisecond // ordinary checks come first
	huntLinger   = 3 * time.Second         // for the answer to the last probe
	huntSequence = 300                     // ports tried in sequence, where the peer says that its NAT works so
	huntRetry    = time.Hour               // after a failure; doubles
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

func (m Mapping) hard() bool { return m == MappingDependent || m == MappingSequential }

// hunt is an attempt in progress. A Core has one at a time.
type hunt struct {
	s       *session
	hard    bool // our side's role
	target  netip.AddrPort
	sockets []uint16
	sent    int
	next    time.Time // when to send again
	end     time.Time
	tried   map[uint16]bool
}

func (e SetMapping) apply(c *Core) { c.mapping = e.Mapping }

func (e SocketsOpened) apply(c *Core) {
	h := c.hunt
	if h == nil || !h.hard || h.s.id != e.Peer || h.sockets != nil {
		if len(e.Sockets) > 0 {
			c.emit(CloseSockets(e))
		}
		return
	}
	h.sockets, h.next = e.Sockets[:min(len(e.Sockets), huntSockets)], c.now
	h.end = c.now.Add(huntPace*time.Duration(len(h.sockets)) + huntProbes*time.Second/time.Duration(c.cfg.BirthdayRate) + huntLinger)
	if len(h.sockets) == 0 {
		c.endHunt(false)
		return
	}
	c.touch(h.s)
}

// wantsHunt reports whether the hard side should begin.
func (s *session) wantsHunt() bool {
	c := s.c
	return c.hunt == nil && c.cfg.BirthdayRate > 0 && c.mapping.hard() && s.mapping == MappingIndependent && s.current == nil && s.relayed() &&
		s.used() && s.within(later(s.sent, s.received), huntTraffic) && !c.now.Before(s.huntAfter) && c.now.Sub(s.lackSince) >= huntPatience
}

// reflexive4 is the peer's address outside, as its servers see it.
func (s *session) reflexive4() netip.AddrPort {
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

// runHunt goes on with the attempt of this session, or begins one, and says when it wants to be called again.
func (s *session) runHunt() time.Time {
	c := s.c
	if s.current != nil || !s.used() {
		s.lackSince = time.Time{}
	} else if s.lackSince.IsZero() {
		s.lackSince = c.now
	}
	if c.hunt == nil && s.wantsHunt() {
		if to := s.reflexive4(); to.IsValid() {
			c.hunt = &hunt{s: s, hard: true, target: to, end: c.now.Add(huntLinger)}
			c.emit(OpenSockets{Peer: s.id, Count: huntSockets})
		}
	}
	h := c.hunt
	if h == nil || h.s != s {
		return time.Time{}
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

// stepHard sends the next socket's check, and at last tells the peer.
func (h *hunt) stepHard() {
	c := h.s.c
	if h.sent < len(h.sockets) {
		h.s.sendFrom(Pair{Local: h.s.oneLocal(h.target.Addr()), Socket: h.sockets[h.sent], Remote: h.target})
		h.sent++
		h.next = h.next.Add(huntPace)
		return
	}
	h.next = time.Time{}
	c.emit(SendSignal{Peer: h.s.id, Candidates: c.local, Mapping: c.mapping, Ready: true})
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
	if h.s.mapping == MappingSequential && h.sent < huntSequence {
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

// ready takes the peer's word that its sockets are open. Whoever lies gets no more than huntProbes small datagrams sent to an address of its
// choice, once in huntRetry.
func (s *session) ready() {
	c := s.c
	if c.hunt != nil || c.cfg.BirthdayRate <= 0 || s.current != nil || !s.awake || c.mapping != MappingIndependent || !s.mapping.hard() || c.now.Before(s.huntAfter) {
		return
	}
	to := s.reflexive4()
	if !to.IsValid() {
		return
	}
	c.hunt = &hunt{s: s, target: to, next: c.now, tried: map[uint16]bool{}}
	c.hunt.end = c.now.Add(huntProbes*time.Second/time.Duration(c.cfg.BirthdayRate) + huntLinger)
}

// endHunt ends the attempt in progress. After a success the socket of the path stays.
func (c *Core) endHunt(won bool) {
	h := c.hunt
	c.hunt = nil
	s := h.s
	switch {
	case won:
		s.huntFailed, s.huntAfter = 0, c.now.Add(huntAgain)
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
