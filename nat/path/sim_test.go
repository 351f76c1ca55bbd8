package path_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"warren/internal/agenda"
	"warren/nat/candidate"
	"warren/nat/path"
	"warren/nat/path/pathtest"
	"warren/nat/stunmsg"
	pb "warren/proto/warrenv1"
)

const (
	host      = pb.CandidateKind_CANDIDATE_KIND_HOST
	reflexive = pb.CandidateKind_CANDIDATE_KIND_SERVER_REFLEXIVE
)

var stunServer = netip.MustParseAddrPort("198.51.100.1:3478")

// sim runs cores against the model of the internet and, with every packet, against what they must not do.
type sim struct {
	t     testing.TB
	now   time.Time
	begin time.Time
	plans agenda.Agenda
	net   *pathtest.Net
	nodes []*node
	relay time.Duration // one way
	seed  uint64
	rand  *rand.Rand
	trace bool
	// lenient switches off the rule of one second, where a test makes it impossible.
	lenient bool
}

// node is one device.
type node struct {
	sim      *sim
	id       path.ID
	host     *pathtest.Host
	core     *path.Core
	next     time.Time
	relayUp  bool
	relaySet time.Time // when relayUp or whether the host is up last changed
	local    []candidate.Candidate
	links    map[path.ID]*link
	sockets  uint16 // opened so far
	txs      uint64
	checks   int // sent, in all
	second   int64
	inSecond int
	idleRuns int // Handle without event in this second
	mayHunt  int // checks more in a second
	// loses, if set, says whether a signal gets lost.
	loses func(path.SendSignal) bool
}

// link is what a node knows of a peer's traffic, and what really became of it.
type link struct {
	path           path.Path
	sent, received time.Time
	direct         time.Time // received without a relay
	flowing        int
	lostSince      time.Time // the first packet of an unbroken row lost to a fault
	delivered      int
	changes        int
	signals        int
	wanted         bool
	history        []string
}

func newSim(t testing.TB, seed uint64) *sim {
	r := rand.New(rand.NewPCG(seed, 1))
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := &sim{t: t, now: begin, begin: begin, seed: seed, rand: r, relay: 10 * time.Millisecond, trace: testing.Verbose()}
	s.net = &pathtest.Net{Rand: r, Delay: 5 * time.Millisecond}
	return s
}

func (s *sim) logf(format string, args ...any) {
	if s.trace {
		s.t.Logf("%9.3f "+format, append([]any{s.now.Sub(s.begin).Seconds()}, args...)...)
	}
}

// add makes a device behind a box of a kind.
func (s *sim) add(kind pathtest.NAT) *node {
	i := byte(len(s.nodes) + 1)
	box := pathtest.NewBox(kind, netip.AddrFrom4([4]byte{203, 0, 113, i}), s.seed<<8|uint64(i))
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, i, 2}), 4000+uint16(i))
	if kind == pathtest.Public {
		at = netip.AddrPortFrom(box.External(), at.Port())
	}
	n := &node{sim: s, id: path.ID{i}, relayUp: true, relaySet: s.now, links: map[path.ID]*link{}}
	n.host = &pathtest.Host{Name: fmt.Sprintf("%c", 'a'+i-1), At: at, Box: box}
	s.net.Hosts = append(s.net.Hosts, n.host)
	s.nodes = append(s.nodes, n)
	n.start()
	return n
}

// start makes the core, as a start of the daemon does.
func (n *node) start() {
	n.core = path.New(n.sim.now, path.Config{Traffic: n.traffic, NewTx: n.newTx, Rand: rand.New(rand.NewPCG(n.sim.rand.Uint64(), 2))})
	n.links = map[path.ID]*link{}
	n.next = time.Time{}
	n.handle(path.SetRelay{Up: n.relayUp})
	n.gather()
}

// gather tells the core the host's address now, and the address that a STUN server sees a little later, and then every so often.
func (n *node) gather() {
	at, core := n.host.At, n.core
	n.local = []candidate.Candidate{{Kind: host, Addr: at}}
	n.handle(path.SetLocal{Candidates: n.local})
	var ask func()
	ask = func() {
		if n.core != core || n.host.At != at {
			return
		}
		if mapped, ok := n.sim.net.Mapped(n.sim.now, n.host, stunServer); ok && mapped != at {
			n.local = append(n.local[:1:1], candidate.Candidate{Kind: reflexive, Addr: mapped})
			n.handle(path.SetLocal{Candidates: n.local})
		}
		n.sim.after(25*time.Second, ask)
	}
	n.sim.after(2*n.sim.net.Delay, ask)
}

func (n *node) link(id path.ID) *link {
	l := n.links[id]
	if l == nil {
		l = &link{}
		n.links[id] = l
	}
	return l
}

func (n *node) traffic(id path.ID) path.Traffic {
	l := n.link(id)
	return path.Traffic{Sent: l.sent, Received: l.received, Direct: l.direct}
}

func (n *node) newTx() (tx stunmsg.TxID) {
	n.txs++
	tx[0] = n.id[0]
	binary.BigEndian.PutUint64(tx[4:], n.txs)
	return tx
}

func (s *sim) after(d time.Duration, do func()) {
	s.plans.Plan(s.now.Add(d), do)
}

// run lets time pass.
func (s *sim) run(d time.Duration) {
	end := s.now.Add(d)
	for {
		at := end
		var due *node
		for _, n := range s.nodes {
			if !n.next.IsZero() && !n.host.Down && n.next.Before(at) {
				at, due = n.next, n
			}
		}
		if planned, do, ok := s.plans.Next(at); ok {
			s.now = planned
			do()
			continue
		}
		if due == nil {
			s.now = end
			return
		}
		s.now = at
		due.handle(nil)
	}
}

func (n *node) handle(ev path.Event) {
	if n.host.Down {
		return
	}
	s := n.sim
	if second := s.now.Unix(); second != n.second {
		n.second, n.inSecond, n.idleRuns = second, 0, 0
	}
	if ev == nil {
		if n.idleRuns++; n.idleRuns > 600*len(s.nodes) {
			s.t.Fatalf("%s: called %d times in a second: a busy loop", n.host.Name, n.idleRuns)
		}
	}
	actions, next := n.core.Handle(s.now, ev)
	if !next.IsZero() && !next.After(s.now) {
		s.t.Fatalf("%s: deadline %s is not after now", n.host.Name, next.Sub(s.now))
	}
	n.next = next
	for _, a := range actions {
		n.do(a)
	}
}

func (n *node) do(a path.Action) {
	s := n.sim
	switch a := a.(type) {
	case path.SendCheck:
		n.countCheck()
		s.logf("%s -> %s check of %d from %s", n.host.Name, a.Remote, a.Size, a.Local)
		n.fly(a.Pair, a.Size, func(to *node, at path.Pair) { to.request(n, at, a.Tx) }, nil)
	case path.SendSignal:
		n.link(a.Peer).signals++
		s.logf("%s => signal, call %v", n.host.Name, a.Call)
		n.signal(a)
	case path.SetPath:
		l := n.link(a.Peer)
		l.path = a.Path
		l.changes++
		l.history = append(l.history, a.Path.Kind.String())
		s.logf("%s PATH %s %s (%s)", n.host.Name, a.Path.Kind, a.Path.Remote, a.Reason)
	case path.OpenSockets:
		n.open(a)
	case path.CloseSockets:
		for _, id := range a.Sockets {
			delete(n.host.Extra, id)
		}
	case path.SetMTU:
		n.link(a.Peer).path.MTU = a.MTU
		s.logf("%s MTU %d (%s)", n.host.Name, a.MTU, a.Reason)
	case path.SetRTT:
		n.link(a.Peer).path.RTT = a.RTT
	case path.Wanted:
		n.link(a.Peer).wanted = true
		if s.find(a.Peer) != nil { // the tunnel configures it, a moment later
			s.after(time.Millisecond, func() { n.handle(path.Activate(a)) })
		}
	case path.Ended:
		n.link(a.Peer).path = path.Path{}
	}
}

// perSecond is what nobody may send more of: the peer's budget, the path in use, and what requests earn.
const perSecond = 64 + 40 + 20 + 20 + 50

func (n *node) countCheck() {
	n.checks++
	if n.inSecond++; n.inSecond > perSecond*max(len(n.links), 1)+n.mayHunt {
		n.sim.t.Fatalf("%s: %d checks in a second", n.host.Name, n.inSecond)
	}
}

// fly sends a datagram. lost, if set, hears of its fate when it does not arrive.
func (n *node) fly(from path.Pair, size int, arrive func(*node, path.Pair), lost func(pathtest.Fate)) {
	s := n.sim
	f := s.net.Send(s.now, n.host, from.Socket, from.Local, from.Remote, size)
	s.after(f.At.Sub(s.now), func() {
		h, socket, fate := s.net.Arrive(f)
		if fate != pathtest.Arrived {
			if lost != nil {
				lost(fate)
			}
			return
		}
		for _, to := range s.nodes {
			if to.host == h {
				arrive(to, path.Pair{Local: h.At.Addr(), Socket: socket, Remote: f.Src})
			}
		}
	})
}

// request answers and then tells the core, as the shell does.
func (n *node) request(from *node, at path.Pair, tx stunmsg.TxID) {
	n.fly(at, 0, func(to *node, back path.Pair) {
		if id, ok := to.core.Pending(tx, back); ok && id == n.id {
			to.handle(path.Answer{Peer: id, Pair: back, Tx: tx})
		}
	}, nil)
	n.handle(path.Request{Peer: from.id, Pair: at})
}

// open opens extra sockets, a moment later.
func (n *node) open(a path.OpenSockets) {
	n.sim.after(10*time.Millisecond, func() {
		var ids []uint16
		if n.host.Extra == nil {
			n.host.Extra = map[uint16]uint16{}
		}
		for range a.Count {
			n.sockets++
			n.host.Extra[n.sockets] = 10000 + n.sockets
			ids = append(ids, n.sockets)
		}
		n.handle(path.SocketsOpened{Peer: a.Peer, Sockets: ids})
	})
}

func (s *sim) find(id path.ID) *node {
	for _, n := range s.nodes {
		if n.id == id {
			return n
		}
	}
	return nil
}

func (n *node) signal(a path.SendSignal) {
	to := n.sim.find(a.Peer)
	if !n.relayUp || n.loses != nil && n.loses(a) {
		return
	}
	n.sim.after(n.sim.relay, func() {
		if to.relayUp && !to.host.Down {
			n.sim.after(n.sim.relay, func() {
				to.handle(path.Signal{
					Peer: n.id, Candidates: a.Candidates, Call: a.Call, NAT: a.NAT, Step: a.Step, Lost: a.Lost,
				})
			})
			return
		}
		n.sim.after(n.sim.relay, func() { n.handle(path.PeerGone{Peer: a.Peer}) })
	})
}
