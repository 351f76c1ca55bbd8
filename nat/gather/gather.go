// Package gather finds the addresses at which this device may be reached: those of its interfaces, those that STUN servers see, one that a
// gateway maps (SetMapped) and those that were configured. A Gatherer is a task; it sends through the tunnel's own sockets, since another
// socket would have another mapping in a NAT, and is handed the answers by HandlePacket. OnCandidates gets the whole list whenever it changes.
// By comparing what several servers see it also tells how the NAT maps: Report has that, and all else that was found.
//
//	gather.go       the task
//	servers.go      names of servers and fixed endpoints
//	addresses*.go   the host's addresses, without those of other VPNs
//	report.go       mapping behaviour, and what people see
package gather

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"warren/nat/candidate"
	"warren/nat/stunmsg"
	pb "warren/proto/warrenv1"
)

const (
	// refreshEvery keeps a NAT's mapping alive: many forget after 30 s (RFC 4787 section 4.3 asks for 2 minutes).
	refreshEvery = 25 * time.Second
	// A mapped address that no server confirmed for this long is dropped.
	mappedLife = 3 * refreshEvery
	// Requests go out again until answered, like RFC 8489 section 6.2.1 but sooner: a lost first request delays the first direct path.
	firstRetry = 100 * time.Millisecond
	maxRetry   = 1600 * time.Millisecond
	tries      = 6
	maxServers = 32
	// resolveEvery is how long a server's addresses count as known.
	resolveEvery = 10 * time.Minute
	maxPending   = 4 * maxServers
)

// Config is what a Gatherer is made with.
type Config struct {
	Log *slog.Logger
	// Interface is the tunnel's own, whose addresses are no candidates.
	Interface string
	// Port is the UDP port of the tunnel's sockets.
	Port func() uint16
	// Send sends from the tunnel's sockets; a zero local address leaves the choice to the system.
	Send func(local netip.Addr, remote netip.AddrPort, b []byte) error
	// Endpoints are fixed ones, host:port, at which this device can be reached too: ports that somebody forwards.
	Endpoints []string
	// OnCandidates gets the whole list, in an order of its own. It is called from Run.
	OnCandidates func([]candidate.Candidate)
	// OnReport, if set, is told that Report has changed other than by a round trip. It is called from Run.
	OnReport func(Report)
	// Addresses lists the host's addresses; nil: CandidateAddresses.
	Addresses func(except string) ([]netip.Addr, error)
	// Resolve looks a host name up; nil: the system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Gatherer is the task. Its methods may be called from anywhere.
type Gatherer struct {
	cfg     Config
	trigger chan struct{}
	answers chan answer

	retell chan struct{} // the candidates differ, but nothing needs to be asked
	report atomic.Pointer[Report]

	mu      sync.Mutex
	servers []string
	overlay []netip.Prefix
	gateway netip.AddrPort           // set by SetMapped
	pending map[stunmsg.TxID]request // bounded by maxPending
}

// request is one that has not been answered.
type request struct {
	server netip.AddrPort
	at     time.Time
}

// answer is a server's word about our address.
type answer struct {
	server, mapped netip.AddrPort
	rtt            time.Duration
}

// New makes a Gatherer.
func New(cfg Config) *Gatherer {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Addresses == nil {
		cfg.Addresses = CandidateAddresses
	}
	if cfg.Resolve == nil {
		cfg.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	g := &Gatherer{
		cfg: cfg, trigger: make(chan struct{}, 1), retell: make(chan struct{}, 1),
		answers: make(chan answer, maxPending), pending: map[stunmsg.TxID]request{},
	}
	g.report.Store(new(Report))
	return g
}

// SetServers names the STUN servers, each host:port.
func (g *Gatherer) SetServers(servers []string) {
	g.mu.Lock()
	same := slices.Equal(g.servers, servers)
	g.servers = slices.Clone(servers[:min(len(servers), maxServers)])
	g.mu.Unlock()
	if !same {
		g.Trigger()
	}
}

// SetOverlay names the network's own prefixes, which are never candidates.
func (g *Gatherer) SetOverlay(p []netip.Prefix) {
	g.mu.Lock()
	same := slices.Equal(g.overlay, p)
	g.overlay = slices.Clone(p)
	g.mu.Unlock()
	if !same {
		g.Trigger()
	}
}

// SetMapped names the address outside that a gateway maps to our port; the zero value: there is none any more.
func (g *Gatherer) SetMapped(a netip.AddrPort) {
	g.mu.Lock()
	g.gateway = a
	g.mu.Unlock()
	wake(g.retell)
}

// Trigger gathers anew at once: the host's network changed.
func (g *Gatherer) Trigger() { wake(g.trigger) }

// Report tells what is known now.
func (g *Gatherer) Report() Report { return *g.report.Load() }

func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// HandlePacket takes a datagram from the tunnel's sockets and reports whether it was the answer to a request of the Gatherer's.
func (g *Gatherer) HandlePacket(_ netip.Addr, remote netip.AddrPort, b []byte) bool {
	if !stunmsg.Looks(b) {
		return false
	}
	tx := stunmsg.TxID(b[8:20])
	g.mu.Lock()
	asked, mine := g.pending[tx]
	g.mu.Unlock()
	// Only the server that was asked may answer, and only once.
	if !mine || asked.server != remote {
		return mine
	}
	m, err := stunmsg.Parse(b)
	if err != nil || m.Class != stunmsg.Success {
		return true
	}
	g.mu.Lock()
	delete(g.pending, tx)
	g.mu.Unlock()
	select {
	case g.answers <- answer{asked.server, m.Mapped, time.Since(asked.at)}:
	default: // Run is far behind; the next refresh brings it up to date
	}
	return true
}

// state is what Run's goroutine knows.
type state struct {
	local    []netip.Addr
	targets  []target
	fixed    []netip.AddrPort
	resolved time.Time
	names    []string
	began    time.Time                  // of this round
	mapped   map[netip.AddrPort]mapping // by server
	v4, v6   Mapping                    // of the last whole round
	whole    bool                       // there was one
	told     []candidate.Candidate
	toldOnce bool
}

type mapping struct {
	addr netip.AddrPort
	at   time.Time
	rtt  time.Duration
}

// Run gathers until ctx ends.
func (g *Gatherer) Run(ctx context.Context) error {
	s := &state{mapped: map[netip.AddrPort]mapping{}}
	for ctx.Err() == nil {
		g.round(ctx, s)
	}
	return nil
}

// round asks every server once, with repetitions, and then waits for the next occasion.
func (g *Gatherer) round(ctx context.Context, s *state) {
	s.began = time.Now()
	g.look(s)
	g.tell(s) // looking names up may take long
	g.resolveAll(ctx, s)
	g.tell(s)
	waiting := map[netip.AddrPort]bool{}
	for _, t := range s.targets {
		waiting[t.addr] = true
	}
	g.forgetPending()
	refresh := time.NewTimer(refreshEvery)
	defer refresh.Stop()
	retry := time.NewTimer(0)
	defer retry.Stop()
	wait := firstRetry
	for n := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-g.trigger:
			s.resolved, s.v4, s.v6, s.whole = time.Time{}, Mapping{}, Mapping{}, false
			clear(s.mapped)
			return
		case <-g.retell:
			g.tell(s)
		case a := <-g.answers:
			g.learn(s, a, waiting)
		case <-retry.C:
			if len(waiting) == 0 {
				continue
			}
			if n++; n > tries {
				g.compare(s) // with those that did answer
				continue
			}
			for _, t := range s.targets {
				if waiting[t.addr] {
					g.ask(t.addr)
				}
			}
			retry.Reset(wait)
			wait = min(wait*2, maxRetry)
		case <-refresh.C:
			g.dropOld(s, s.began)
			return
		}
	}
}

// learn takes an answer.
func (g *Gatherer) learn(s *state, a answer, waiting map[netip.AddrPort]bool) {
	if s.mapped[a.server].addr != a.mapped {
		g.cfg.Log.Debug("address seen from outside", "server", a.server, "address", a.mapped)
	}
	s.mapped[a.server] = mapping{a.mapped, time.Now(), a.rtt}
	if delete(waiting, a.server); len(waiting) == 0 {
		g.compare(s)
		return
	}
	g.tell(s)
}

// compare finds the mapping behaviour from this round's answers.
func (g *Gatherer) compare(s *state) {
	port := g.cfg.Port()
	own := func(a netip.AddrPort) bool { return a.Port() == port && slices.Contains(s.local, a.Addr()) }
	var v4, v6 []View
	for _, t := range s.targets {
		switch m := s.mapped[t.addr]; {
		case m.at.Before(s.began) || !m.addr.IsValid():
		case t.addr.Addr().Is4():
			v4 = append(v4, View{t.addr, m.addr})
		default:
			v6 = append(v6, View{t.addr, m.addr})
		}
	}
	s.v4, s.v6, s.whole = Compare(v4, own), Compare(v6, own), true
	g.tell(s)
}

// dropOld forgets what servers said too long ago.
func (g *Gatherer) dropOld(s *state, now time.Time) {
	for server, m := range s.mapped {
		if now.Sub(m.at) > mappedLife {
			delete(s.mapped, server)
		}
	}
}

// look reads the host's addresses.
func (g *Gatherer) look(s *state) {
	local, err := g.cfg.Addresses(g.cfg.Interface)
	if err != nil {
		g.cfg.Log.Warn("the host's addresses could not be read", "err", err)
		return
	}
	s.local = local
}

// ask sends one request.
func (g *Gatherer) ask(server netip.AddrPort) {
	tx := stunmsg.NewTxID()
	g.mu.Lock()
	if len(g.pending) >= maxPending {
		clear(g.pending)
	}
	g.pending[tx] = request{server, time.Now()}
	g.mu.Unlock()
	if err := g.cfg.Send(netip.Addr{}, server, stunmsg.NewRequest(tx, nil, nil)); err != nil {
		g.cfg.Log.Debug("STUN request not sent", "server", server, "err", err)
	}
}

func (g *Gatherer) forgetPending() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.pending)
}

// tell publishes what is known, as far as it changed.
func (g *Gatherer) tell(s *state) {
	list := g.list(s)
	if !s.toldOnce || !slices.Equal(list, s.told) {
		s.told, s.toldOnce = list, true
		g.cfg.OnCandidates(slices.Clone(list))
	}
	g.mu.Lock()
	r := &Report{IPv4: s.v4, IPv6: s.v6, Whole: s.whole, PortMapped: g.gateway, Candidates: list}
	g.mu.Unlock()
	for _, t := range s.targets {
		m := s.mapped[t.addr]
		r.Servers = append(r.Servers, ServerReport{t.name, t.addr, m.addr, m.rtt, m.at})
	}
	if old := g.report.Swap(r); g.cfg.OnReport != nil && !r.same(old) {
		g.cfg.OnReport(*r)
	}
}

// list makes the candidates.
func (g *Gatherer) list(s *state) []candidate.Candidate {
	g.mu.Lock()
	overlay, gateway := g.overlay, g.gateway
	g.mu.Unlock()
	port := g.cfg.Port()
	var list []candidate.Candidate
	add := func(kind pb.CandidateKind, a netip.AddrPort) {
		if candidate.Usable(a, overlay) == nil {
			list = append(list, candidate.Candidate{Kind: kind, Addr: a})
		}
	}
	for _, a := range s.local {
		add(pb.CandidateKind_CANDIDATE_KIND_HOST, netip.AddrPortFrom(a, port))
	}
	// A NAT that maps dependently shows every server another port, none of which a peer can use: one says as much as all.
	var seen []netip.Addr
	for _, t := range s.targets {
		if m := s.mapped[t.addr].addr; m.IsValid() && !slices.Contains(seen, m.Addr()) {
			seen = append(seen, m.Addr())
			add(pb.CandidateKind_CANDIDATE_KIND_SERVER_REFLEXIVE, m)
		}
	}
	for _, a := range append(slices.Clone(s.fixed), gateway) { // somebody forwards these ports, by hand or on request
		add(pb.CandidateKind_CANDIDATE_KIND_PORT_MAPPED, a)
	}
	list = candidate.Sort(list)
	if len(list) > candidate.Max {
		// A host with very many addresses: what servers saw is worth most.
		list = append(list[:candidate.Max/2], list[max(candidate.Max/2, len(list)-candidate.Max/2):]...)
	}
	return list
}
