package path

import (
	"bytes"
	"container/heap"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"warren/nat/candidate"
	"warren/nat/stunmsg"
	pb "warren/proto/warrenv1"
)

// Core holds the sessions of all peers that are, or were just now, in use.
type Core struct {
	cfg      Config
	start    time.Time // grids of polling count from here, so that all sessions are polled in one go
	now      time.Time
	out      []Action
	local    []candidate.Candidate
	hosts    []netip.Addr
	confined map[netip.Addr][]netip.Prefix // those of hosts that reach no more
	relayUp  bool
	sessions map[ID]*session
	kept     map[ID]kept      // of sessions that have ended; one entry a peer of the map at most
	restored map[ID]Restore   // what peers without a session were reached by before this process
	quiet    map[ID]time.Time // until when a peer's checks do not ask for it; one entry a peer of the map at most
	timers   timers
	probes   map[stunmsg.TxID]*probe
	budget   bucket
	// goneBudget is for calls to peers that the relay does not have.
	goneBudget bucket
	mtu        int // of the interface
	nat        NAT
	hunt       *hunt // nil while none is in progress
}

// New makes a Core. now is the time that Handle's go on from.
func New(now time.Time, cfg Config) *Core {
	if cfg.Traffic == nil {
		cfg.Traffic = func(ID) (t Traffic) { return }
	}
	if cfg.BirthdayRate == 0 {
		cfg.BirthdayRate = huntRate
	}
	if cfg.NewTx == nil {
		cfg.NewTx = stunmsg.NewTxID
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	return &Core{
		cfg: cfg, start: now, now: now, sessions: map[ID]*session{}, kept: map[ID]kept{}, quiet: map[ID]time.Time{}, restored: map[ID]Restore{}, probes: map[stunmsg.TxID]*probe{},
		budget: newBucket(totalRate, totalBurst, now), goneBudget: newBucket(goneRate, goneBurst, now), mtu: DefaultMTU,
	}
}

// Handle takes an event, or nil, at a time that is never before that of the last call. It gives what is to be done, in order, and when
// Handle must be called again: zero means not before the next event.
func (c *Core) Handle(now time.Time, ev Event) ([]Action, time.Time) {
	if now.After(c.now) {
		c.now = now
	}
	c.out = nil
	if ev != nil {
		ev.apply(c)
	}
	for len(c.timers) > 0 && !c.timers[0].due.After(c.now) {
		c.timers[0].run()
	}
	if len(c.timers) == 0 {
		return c.out, time.Time{}
	}
	return c.out, c.timers[0].due
}

// Pending tells which peer a check was sent to that may still be answered, by what has arrived at that pair.
func (c *Core) Pending(tx stunmsg.TxID, at Pair) (ID, bool) {
	p := c.probes[tx]
	if p == nil || !p.answeredAt(at) {
		return ID{}, false
	}
	return p.session.id, true
}

// Sessions is how many peers the Core spends memory on.
func (c *Core) Sessions() int { return len(c.sessions) }

func (c *Core) emit(a Action) { c.out = append(c.out, a) }

// session gives the session of a peer, and makes it if need be.
func (c *Core) session(id ID) *session {
	s := c.sessions[id]
	if s == nil {
		s = &session{
			c: c, id: id, heapIndex: -1, published: Path{Since: c.now}, mute: mute{},
			budget: newBucket(peerRate, peerBurst, c.now), reflex: newBucket(reflexRate, reflexBurst, c.now),
		}
		c.resume(s)
		c.restore(s)
		c.sessions[id] = s
	}
	return s
}

// each calls f for every session, always in the same order, and has each run afterwards.
func (c *Core) each(f func(*session)) {
	all := make([]*session, 0, len(c.sessions))
	for _, s := range c.sessions {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *session) int { return bytes.Compare(a.id[:], b.id[:]) })
	for _, s := range all {
		f(s)
		c.touch(s)
	}
}

// touch has s run before Handle returns.
func (c *Core) touch(s *session) { c.schedule(s, c.now) }

func (c *Core) schedule(s *session, due time.Time) {
	s.due = due
	if s.heapIndex < 0 {
		heap.Push(&c.timers, s)
	} else {
		heap.Fix(&c.timers, s.heapIndex)
	}
}

// end forgets s.
func (c *Core) end(s *session) {
	s.wishedAt = time.Time{}
	if c.hunt != nil && c.hunt.s == s {
		c.endHunt(false)
	}
	s.closeSockets(nil, 0)
	for _, p := range s.probes {
		delete(c.probes, p.tx)
	}
	if s.heapIndex >= 0 {
		heap.Remove(&c.timers, s.heapIndex)
	}
	delete(c.sessions, s.id)
	c.keep(s)
	c.emit(Ended{s.id})
}

// grid is the next multiple of step.
func (c *Core) grid(step time.Duration) time.Time {
	since := c.now.Sub(c.start)
	return c.start.Add(since - since%step + step)
}

func (e Activate) apply(c *Core) {
	s := c.session(e.Peer)
	s.configured, s.usedAt = true, c.now
	s.announceAgain(InUse)
	c.touch(s)
}

func (e Deactivate) apply(c *Core) {
	if s := c.sessions[e.Peer]; s != nil {
		s.configured = false
		c.quiet[e.Peer] = c.now.Add(restFor)
		c.touch(s)
	}
}

func (e Forget) apply(c *Core) {
	delete(c.quiet, e.Peer)
	delete(c.restored, e.Peer)
	if s := c.sessions[e.Peer]; s != nil {
		c.end(s)
	}
	delete(c.kept, e.Peer)
}

func (e SetLocal) apply(c *Core) {
	local := candidate.Sort(e.Candidates)
	local = local[:min(len(local), candidate.Max)]
	if slices.Equal(local, c.local) && maps.EqualFunc(e.Confined, c.confined, slices.Equal) {
		return
	}
	old := c.hosts
	c.confined = e.Confined
	c.local, c.hosts = local, nil
	for _, l := range local {
		if l.Kind == pb.CandidateKind_CANDIDATE_KIND_HOST && !slices.Contains(c.hosts, l.Addr.Addr()) {
			c.hosts = append(c.hosts, l.Addr.Addr())
		}
	}
	c.each(func(s *session) { s.localChanged(old) })
}

func (e SetRelay) apply(c *Core) {
	if e.Up == c.relayUp {
		return
	}
	c.relayUp = e.Up
	c.each(func(s *session) { s.relayChanged() })
}

func (NetworkChanged) apply(c *Core) {
	c.each((*session).networkChanged)
	clear(c.kept)
	clear(c.restored)
}

func (e PeerGone) apply(c *Core) {
	if s := c.sessions[e.Peer]; s != nil {
		s.peerGone()
		c.touch(s)
	}
}

func (e Signal) apply(c *Core) {
	s := c.sessions[e.Peer]
	if s == nil {
		if !e.Call {
			return // late: nothing of ours asked for it
		}
		s = c.session(e.Peer)
	}
	s.signalled(e)
	c.touch(s)
}

func (e Again) apply(c *Core) {
	if s := c.sessions[e.Peer]; s != nil && s.awake {
		s.again()
		c.touch(s)
	}
}

// A peer checks only what it uses. If the tunnel does not have it, we have lost it, by a restart for one, and it still sends into a session
// that is gone: it is wanted, so that a handshake makes another at once.
func (e Request) apply(c *Core) {
	s := c.sessions[e.Peer]
	if (s == nil || !s.configured) && !c.now.Before(c.quiet[e.Peer]) {
		c.quiet[e.Peer] = c.now.Add(wantEvery)
		c.emit(Wanted{e.Peer})
	}
	if s != nil && s.awake {
		if s.gone {
			s.callGone()
		}
		s.requested(e.Pair)
		c.touch(s)
	}
}

func (e Answer) apply(c *Core) {
	p := c.probes[e.Tx]
	if p == nil || p.session.id != e.Peer {
		return
	}
	delete(c.probes, e.Tx)
	p.session.answered(p, e.Pair)
	c.touch(p.session)
}

// timers is a heap of sessions by when they are due.
type timers []*session

func (t timers) Len() int { return len(t) }
func (t timers) Less(i, j int) bool {
	if !t[i].due.Equal(t[j].due) {
		return t[i].due.Before(t[j].due)
	}
	return bytes.Compare(t[i].id[:], t[j].id[:]) < 0
}
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].heapIndex, t[j].heapIndex = i, j
}
func (t *timers) Push(x any) {
	s := x.(*session)
	s.heapIndex = len(*t)
	*t = append(*t, s)
}
func (t *timers) Pop() any {
	old := *t
	s := old[len(old)-1]
	old[len(old)-1] = nil
	*t = old[:len(old)-1]
	s.heapIndex = -1
	return s
}
