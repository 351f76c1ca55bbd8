package path

import (
	"time"

	"warren/nat/candidate"
)

// restoredMax bounds the peers of Restore that have no session yet.
const restoredMax = 16384

// Restore says how a process before this one reached a peer. When the peer gets a session, its packets take that path at once, which has to
// answer within the third of a second that is given to any path in doubt. A path from an extra socket is none any more.
type Restore struct {
	Peer       ID
	Candidates []candidate.Candidate
	// Pair is that of the direct path; its Remote is zero if there was none.
	Pair
	// RTT and MTU are as in Path; 0 if they are not known.
	RTT time.Duration
	MTU int
}

// Restorable gives what the core of the process that takes over is to be told of a peer by Restore. It reports whether that is anything.
func (c *Core) Restorable(id ID) (r Restore, ok bool) {
	s := c.sessions[id]
	if s == nil || !s.awake {
		return r, false
	}
	r = Restore{Peer: id, Candidates: s.remote}
	if p := s.current; p != nil && p.Socket == 0 && !s.doubt {
		r.Pair, r.RTT, r.MTU = p.Pair, p.rtt, s.mtu()
	}
	return r, len(r.Candidates) > 0 || r.Remote.IsValid()
}

func (e Restore) apply(c *Core) {
	if c.sessions[e.Peer] == nil && len(c.restored) < restoredMax {
		c.restored[e.Peer] = e
	}
}

// restore gives a new session what a process before this one knew.
func (c *Core) restore(s *session) {
	r, ok := c.restored[s.id]
	if !ok {
		return
	}
	delete(c.restored, s.id)
	s.remote = candidate.Sort(r.Candidates)
	s.remote = s.remote[:min(len(s.remote), candidate.Max)]
	if !r.Remote.IsValid() || r.Socket != 0 || !c.Reaches(r.Local, r.Remote.Addr()) {
		return
	}
	p := &pair{Pair: r.Pair, worked: true, heardAt: c.now, rtt: min(max(r.RTT, 0), timeoutMax), lastAnswer: c.now.Add(-freshFor)}
	if r.MTU >= smallest && r.MTU < c.mtu {
		p.long.mtu, p.long.limit = r.MTU, r.MTU
	}
	s.pairs = []*pair{p}
	s.current, s.since, s.lastGood, s.doubt = p, c.now, r.Pair, true
	s.spreadConsent()
}
