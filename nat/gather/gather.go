// Package gather finds the addresses at which this device may be reached: those of its interfaces, those that STUN servers see, one that a
// gateway maps (SetMapped) and those that were configured. Servers are asked from every uplink of the host. A Gatherer is a task; it sends through the tunnel's own sockets, since another
// socket would have another mapping in a NAT, and is handed the answers by HandlePacket. OnCandidates gets the whole list whenever it changes.
// By comparing what several servers see it also tells how the NAT maps: Report has that, and all else that was found.
//
//	gather.go       the task
//	round.go        one round of questions
//	servers.go      names of servers and fixed endpoints
//	addresses*.go   the host's addresses, without those of other VPNs
//	report.go       mapping behaviour, and what people see
package gather

import (
	"context"
	"log/slog"
	"maps"
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
	maxServers = 32
	maxUplinks = 4
	// resolveEvery is how long a server's addresses count as known.
	resolveEvery = 10 * time.Minute
	notFoundFor  = time.Minute
	maxPending   = tries * (2*maxServers + maxUplinks*uplinkServers)
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
	// Uplinks lists an address of each uplink besides the one that the system prefers: servers are asked from there too. Send must have what it
	// sends from such an address leave by that uplink. Nil: OtherUplinks.
	Uplinks func(except string) ([]netip.Addr, error)
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
	question
	at time.Time
}

// answer is a server's word about our address.
type answer struct {
	question
	mapped netip.AddrPort
	rtt    time.Duration
}

// New makes a Gatherer.
func New(cfg Config) *Gatherer {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Addresses == nil {
		cfg.Addresses = CandidateAddresses
	}
	if cfg.Uplinks == nil {
		cfg.Uplinks = OtherUplinks
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
	case g.answers <- answer{asked.question, m.Mapped, time.Since(asked.at)}:
	default: // Run is far behind; the next refresh brings it up to date
	}
	return true
}

// question is what one server is asked: where it sees what leaves from a local address; the zero one leaves that to the system.
type question struct {
	local  netip.Addr
	server netip.AddrPort
}

// state is what Run's goroutine knows.
type state struct {
	local    []netip.Addr
	uplinks  []netip.Addr // of those that the system does not prefer
	names    []string
	addrs    map[string][]netip.AddrPort // by name, of servers and fixed endpoints
	targets  []target
	fixed    []netip.AddrPort
	resolved time.Time
	began    time.Time // of this round
	mapped   map[question]mapping
	v4, v6   Mapping // as far as it is known
	whole    bool    // a round was
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
	s := &state{mapped: map[question]mapping{}, addrs: map[string][]netip.AddrPort{}}
	for ctx.Err() == nil {
		g.round(ctx, s)
	}
	return nil
}

// round asks every server once, with repetitions, and then waits for the next occasion.
func (g *Gatherer) round(ctx context.Context, s *state) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.began = time.Now()
	g.look(s)
	g.forgetPending()
	r := &round{waiting: map[question]bool{}, retry: time.NewTimer(0), names: make(chan named)}
	defer r.retry.Stop()
	g.lookUp(ctx, s, r)
	g.ask(s, r)
	g.tell(s)
	refresh := time.NewTimer(refreshEvery)
	defer refresh.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.trigger:
			s.resolved, s.v4, s.v6, s.whole = time.Time{}, Mapping{}, Mapping{}, false
			clear(s.mapped)
			return
		case <-g.retell:
			g.tell(s)
		case n := <-r.names:
			r.lookups--
			g.found(s, n)
			g.ask(s, r)
			g.tell(s)
		case a := <-g.answers:
			g.learn(s, r, a)
		case <-r.retry.C:
			g.again(s, r)
		case <-refresh.C:
			g.dropOld(s, s.began)
			return
		}
	}
}

// learn takes an answer.
func (g *Gatherer) learn(s *state, r *round, a answer) {
	if s.mapped[a.question].addr != a.mapped {
		g.cfg.Log.Debug("address seen from outside", "server", a.server, "from", a.local, "address", a.mapped)
	}
	s.mapped[a.question] = mapping{a.mapped, time.Now(), a.rtt}
	delete(r.waiting, a.question)
	g.settle(s, r)
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
	if s.uplinks, err = g.cfg.Uplinks(g.cfg.Interface); err != nil {
		g.cfg.Log.Warn("the host's uplinks could not be read", "err", err)
	}
	s.uplinks = s.uplinks[:min(len(s.uplinks), maxUplinks)]
	maps.DeleteFunc(s.mapped, func(q question, _ mapping) bool { return q.local.IsValid() && !slices.Contains(s.uplinks, q.local) })
}

// send sends one request.
func (g *Gatherer) send(q question) {
	tx := stunmsg.NewTxID()
	g.mu.Lock()
	if len(g.pending) >= maxPending {
		clear(g.pending)
	}
	g.pending[tx] = request{q, time.Now()}
	g.mu.Unlock()
	if err := g.cfg.Send(q.local, q.server, stunmsg.NewRequest(tx, nil, nil)); err != nil {
		g.cfg.Log.Debug("STUN request not sent", "server", q.server, "from", q.local, "err", err)
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
		m := s.mapped[question{server: t.addr}]
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
	type sight struct{ local, outside netip.Addr }
	seen := map[sight]bool{}
	for _, q := range s.questions() {
		m := s.mapped[q].addr
		if at := (sight{q.local, m.Addr()}); m.IsValid() && !seen[at] {
			seen[at] = true
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
