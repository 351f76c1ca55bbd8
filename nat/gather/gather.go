// Package gather finds the addresses at which this device may be reached: those of its interfaces, and those that STUN servers see. A
// Gatherer is a task; it sends through the tunnel's own sockets, since another socket would have another mapping in a NAT, and is handed the
// answers by HandlePacket. OnCandidates gets the whole list whenever it changes.
package gather

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
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
	maxServers = 16
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
	// OnCandidates gets the whole list, in an order of its own. It is called from Run.
	OnCandidates func([]candidate.Candidate)
	// Addresses lists the host's addresses; nil: HostAddresses.
	Addresses func(except string) ([]netip.Addr, error)
	// Resolve looks a host name up; nil: the system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Gatherer is the task. Its methods may be called from anywhere.
type Gatherer struct {
	cfg     Config
	trigger chan struct{}
	answers chan answer

	mu      sync.Mutex
	servers []string
	overlay []netip.Prefix
	pending map[stunmsg.TxID]netip.AddrPort // request -> server; bounded by maxPending
}

// answer is a server's word about our address.
type answer struct{ server, mapped netip.AddrPort }

// New makes a Gatherer.
func New(cfg Config) *Gatherer {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Addresses == nil {
		cfg.Addresses = HostAddresses
	}
	if cfg.Resolve == nil {
		cfg.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	return &Gatherer{cfg: cfg, trigger: make(chan struct{}, 1), answers: make(chan answer, maxPending), pending: map[stunmsg.TxID]netip.AddrPort{}}
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

// Trigger gathers anew at once: the host's network changed.
func (g *Gatherer) Trigger() {
	select {
	case g.trigger <- struct{}{}:
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
	server, mine := g.pending[tx]
	g.mu.Unlock()
	// Only the server that was asked may answer, and only once.
	if !mine || server != remote {
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
	case g.answers <- answer{server, m.Mapped}:
	default: // Run is far behind; the next refresh brings it up to date
	}
	return true
}

// state is what Run's goroutine knows.
type state struct {
	local    []netip.Addr
	targets  []netip.AddrPort
	resolved time.Time
	names    []string
	mapped   map[netip.AddrPort]mapping // by server
	told     []candidate.Candidate
	toldOnce bool
}

type mapping struct {
	addr netip.AddrPort
	at   time.Time
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
	began := time.Now()
	g.look(ctx, s)
	g.tell(s)
	waiting := map[netip.AddrPort]bool{}
	for _, t := range s.targets {
		waiting[t] = true
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
			s.resolved = time.Time{}
			clear(s.mapped)
			return
		case a := <-g.answers:
			delete(waiting, a.server)
			if s.mapped[a.server].addr != a.mapped {
				g.cfg.Log.Debug("address seen from outside", "server", a.server, "address", a.mapped)
			}
			s.mapped[a.server] = mapping{a.mapped, time.Now()}
			g.tell(s)
		case <-retry.C:
			if n++; n > tries || len(waiting) == 0 {
				continue
			}
			for t := range waiting {
				g.ask(t)
			}
			retry.Reset(wait)
			wait = min(wait*2, maxRetry)
		case <-refresh.C:
			g.dropOld(s, began)
			return
		}
	}
}

// dropOld forgets what servers said too long ago.
func (g *Gatherer) dropOld(s *state, now time.Time) {
	for server, m := range s.mapped {
		if now.Sub(m.at) > mappedLife {
			delete(s.mapped, server)
		}
	}
}

// look reads the host's addresses and resolves the servers' names.
func (g *Gatherer) look(ctx context.Context, s *state) {
	local, err := g.cfg.Addresses(g.cfg.Interface)
	if err != nil {
		g.cfg.Log.Warn("the host's addresses could not be read", "err", err)
	} else {
		s.local = local
	}
	g.mu.Lock()
	names := g.servers
	g.mu.Unlock()
	if slices.Equal(names, s.names) && time.Since(s.resolved) < resolveEvery {
		return
	}
	s.names, s.resolved, s.targets = names, time.Now(), nil
	for _, name := range names {
		s.targets = append(s.targets, g.resolve(ctx, name)...)
	}
	for server := range s.mapped {
		if !slices.Contains(s.targets, server) {
			delete(s.mapped, server)
		}
	}
}

// resolve gives at most one address of each family of a server.
func (g *Gatherer) resolve(ctx context.Context, server string) []netip.AddrPort {
	if a, err := netip.ParseAddrPort(server); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(a.Addr().Unmap(), a.Port())}
	}
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		g.cfg.Log.Warn("STUN server ignored: not host:port", "server", server)
		return nil
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		g.cfg.Log.Warn("STUN server ignored", "server", server, "err", err)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	addrs, err := g.cfg.Resolve(ctx, host)
	if err != nil {
		g.cfg.Log.Info("STUN server not found", "server", server, "err", err)
		return nil
	}
	var out []netip.AddrPort
	for _, is4 := range []bool{true, false} {
		i := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Unmap().Is4() == is4 })
		if i >= 0 {
			out = append(out, netip.AddrPortFrom(addrs[i].Unmap(), uint16(n)))
		}
	}
	return out
}

// ask sends one request.
func (g *Gatherer) ask(server netip.AddrPort) {
	tx := stunmsg.NewTxID()
	g.mu.Lock()
	if len(g.pending) >= maxPending {
		clear(g.pending)
	}
	g.pending[tx] = server
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

// tell publishes the list if it changed.
func (g *Gatherer) tell(s *state) {
	g.mu.Lock()
	overlay := g.overlay
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
	for _, m := range s.mapped {
		add(pb.CandidateKind_CANDIDATE_KIND_SERVER_REFLEXIVE, m.addr)
	}
	list = candidate.Sort(list)
	if len(list) > candidate.Max {
		// A host with very many addresses: what servers saw is worth most.
		list = append(list[:candidate.Max/2], list[max(candidate.Max/2, len(list)-candidate.Max/2):]...)
	}
	if s.toldOnce && slices.Equal(list, s.told) {
		return
	}
	s.told, s.toldOnce = list, true
	g.cfg.OnCandidates(slices.Clone(list))
}

// HostAddresses lists the addresses of the interfaces that are up, except those of one of them. Deprecated and tentative ones are not told
// apart here: a check that finds no answer harms nobody.
func HostAddresses(except string) ([]netip.Addr, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || i.Name == except {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // the interface went away in between
		}
		for _, a := range addrs {
			if p, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(p.IP); ok {
					out = append(out, ip.Unmap())
				}
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}
