package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"warren/cmd/agent/internal/handover"
	"warren/cmd/agent/internal/names"
	"warren/cmd/agent/internal/state"
	"warren/coord/client"
	"warren/internal/broadcast"
	"warren/internal/buildversion"
	"warren/internal/connectproxy"
	"warren/internal/osversion"
	"warren/internal/udpbatch"
	"warren/nat/gather"
	"warren/nat/home"
	"warren/nat/netmon"
	"warren/nat/portmapper"
	"warren/nat/relay"
	"warren/nat/traversal"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
	"warren/tunnel/bind"
	"warren/tunnel/dnsforward"
	"warren/tunnel/engine"
	"warren/tunnel/filter"
	"warren/tunnel/flowlog"
	"warren/tunnel/router"
)

// defaultMTU leaves room for WireGuard's 80 bytes over IPv6 on a link of 1500.
const defaultMTU = 1420

type sessionConfig struct {
	Config
	state    state.State
	mapFile  string
	registry *prometheus.Registry
	names    *names.Book
	dial     connectproxy.DialFunc
	mapping  *portmapper.Metrics
	flows    *flowlog.Log
	store    *store
	inherits *inheritance // nil: the session begins anew
	services *userspace   // nil where the tunnel has an interface
}

// session is one stretch of the tunnel being up. Everything in it is made by startSession, runs as one errgroup, and is gone after stop.
type session struct {
	cfg  sessionConfig
	log  *slog.Logger
	self *record.Device // as enrolled; the map's may be newer

	router    tunnelHost
	links     networkLinks
	bind      *bind.Bind
	engine    *engine.Engine
	traversal *traversal.Traversal
	gatherer  *gather.Gatherer
	mapper    *portmapper.Mapper // nil if it was turned off
	monitor   *netmon.Monitor
	relays    *relays
	client    *client.Client
	networks  *networks
	dns       *dnsforward.Forwarder
	advertise *advertiser

	checks  siteChecks
	listens atomic.Bool // gatherer and traversal are there
	leaves  atomic.Bool // another daemon takes over: the host stays as it is
	sockets sync.Map    // the tunnel's, by the names of package handover -> syscall.Conn
	known   atomic.Pointer[known]
	former  former
	control atomic.Pointer[client.State]
	online  sync.Map // [32]byte device key -> struct{}
	changed broadcast.Broadcast

	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	err    error // after done
}

// startSession makes and starts everything. After an error nothing is left.
func startSession(ctx context.Context, cfg sessionConfig) (_ *session, err error) {
	m := cfg.state.Membership
	self, err := record.OpenDevice(m.Authority, m.Network, m.Record)
	if err != nil {
		return nil, fmt.Errorf("the stored device record is damaged: %w; join again with \"warren up TOKEN\"", err)
	}
	s := &session{cfg: cfg, log: cfg.Log, self: self, done: make(chan struct{})}
	s.known.Store(newKnown(nil))
	s.control.Store(new(client.State))
	s.ctx, s.cancel = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			s.cancel()
			s.closeTunnel()
		}
	}()
	if err := s.makeTunnel(); err != nil {
		return nil, err
	}
	s.networks = newNetworks(self, cfg.state.Routing, s.engine, s.router, s.links, time.Now, s.log)
	s.dns = s.exitDNS()
	s.networks.forwardDNS = s.dns.Set
	s.networks.vrrp = newVRRP(state.VRRPFile(cfg.StateDir), s.log)
	if err := s.makeNAT(); err != nil {
		return nil, err
	}
	if err := s.makeClient(); err != nil {
		return nil, err
	}
	s.advertise = newAdvertiser(s)
	var before *handover.State
	if in := cfg.inherits; in != nil && in.state != nil {
		before = in.state
		s.networks.restore(before.Choices)
	}
	if m := s.client.Map(); m != nil {
		s.applyMap(m)
		s.resume(before)
	} else {
		s.networks.begin()
	}
	s.run()
	return s, nil
}

func (s *session) makeTunnel() (err error) {
	if err := s.openHost(); err != nil {
		return err
	}
	port := s.cfg.Port
	if port == 0 {
		port = s.cfg.state.Port
	}
	s.bind = bind.New(bind.Config{
		Port: port, Mark: s.cfg.mark(), Log: s.log, Private: s.cfg.state.Node,
		DisableGSO: s.cfg.DisableGSO, DisableGRO: s.cfg.DisableGRO,
		Inherited: s.inheritedSockets(), OnSocket: s.onSocket,
		OnPacket:     s.onPacket,
		OnExtra:      s.onExtra,
		SendRelay:    s.sendRelay,
		OnInitiation: func(peer key.NodePublic) { s.engine.Want(peer) },
		OnCrossed:    func(peer key.NodePublic) { s.engine.Recall(peer) },
		Allowed:      func(peer key.NodePublic) bool { return s.known.Load().hasNode(peer) },
	})
	s.engine, err = engine.New(engine.Config{
		TUN: guarded(s.router.TUN(), s.bind.LocalPort), Name: s.interfaceName(), Bind: s.bind, Private: s.cfg.state.Node, Log: s.log,
		Filter:   filter.Config{MaxFlows: s.cfg.MaxFlows, Records: !s.cfg.NoFlowRecords},
		OnWord:   func(from key.DevicePublic, payload []byte) { s.networks.onWord(from, payload) },
		OnProbe:  s.onProbe,
		OnUse:    func() { s.networks.onUse() },
		OnActive: func(peer key.NodePublic) { s.traversal.Active(peer) },
		OnIdle:   func(peer key.NodePublic) { s.traversal.Idle(peer) },
	})
	return err
}

// openRouter takes over the interface of the daemon before, or makes one. One that is taken over keeps what it has until there is a map.
func (s *session) openRouter() error {
	c := router.Config{Name: s.cfg.Interface, MTU: defaultMTU, Log: s.log, Journal: state.JournalFile(s.cfg.StateDir)}
	if in := s.cfg.inherits; in != nil {
		c.TUN = in.files[handover.TUN]
		delete(in.files, handover.TUN)
		r, err := router.Open(c)
		if err == nil {
			s.useRouter(r)
			return nil
		}
		s.log.Warn("the interface of the daemon before is not taken over", "err", err)
		s.cfg.store.forget(handover.TUN) // it may have the name
		c.TUN = nil
	}
	r, err := router.Open(c)
	if err != nil {
		return err
	}
	s.useRouter(r)
	return r.Apply(router.State{Addresses: hostPrefixes(s.self.Addresses), MTU: defaultMTU})
}

// inheritedSockets are those of the daemon before, by network. The Bind closes them.
func (s *session) inheritedSockets() map[string]*os.File {
	out := map[string]*os.File{}
	if in := s.cfg.inherits; in != nil {
		for network, name := range socketNames {
			if f := in.files[name]; f != nil {
				out[network] = f
				delete(in.files, name)
			}
		}
	}
	return out
}

func (s *session) makeNAT() error {
	s.relays = &relays{
		wake: make(chan struct{}, 1), homes: func(ids []home.ID) { s.traversal.SetHomes(ids) },
		log: s.log, ctx: s.ctx, changed: s.relaysChanged, client: s.newRelayClient,
		on: relayEvents{data: s.onRelayData, signal: s.onRelaySignal, gone: s.onRelayGone},
	}
	s.traversal = traversal.New(traversal.Config{
		Self: s.cfg.state.Node, Log: s.log,
		Send:       s.bind.WriteTo,
		SendSignal: s.relays.sendSignal,
		OnRelays:   s.relays.reachedAt,
		Traffic:    s.traffic,
		OnPath:     s.onPath,
		OnSeen:     s.networks.onSeen,
		Wanted:     func(peer key.NodePublic) { s.engine.Want(peer) },
		Extra:      s.bind, BirthdayRate: s.cfg.HardNATRate,
	})
	s.gatherer = gather.New(gather.Config{
		Resolve: s.cfg.names.Lookup,
		Log:     s.log, Interface: s.router.Name(), Port: s.bind.LocalPort, Send: s.bind.WriteTo,
		Endpoints: s.cfg.Endpoints, OnCandidates: s.onCandidates,
		OnReport: func(r gather.Report) {
			s.traversal.SetView(ownView(r))
			s.traversal.SetMapping(mappingFor(r.IPv4), externalOf(r.IPv4))
		},
	})
	s.listens.Store(true)
	s.makeMapper()
	s.findUplinks()
	s.monitor = netmon.New(netmon.Config{Log: s.log, Ignore: s.router.Name(), OnEvent: s.onNetworkEvent})
	return nil
}

func (s *session) newRelayClient(r *pb.Relay, on relayEvents) (relayClient, error) {
	m := s.cfg.state.Membership
	return relay.NewClient(relay.ClientConfig{
		Relay: r, Network: m.Network, Authority: m.Authority, Device: s.cfg.state.Device, Log: s.log,
		Ticket: s.ticket, Dial: s.cfg.dial, Resolve: s.cfg.names.Lookup, Tune: hasten,
		ListenUDP: s.listenRelayUDP, LongestUDP: defaultMTU + wireGuardOverhead,
		Known:  func(device [key.Size]byte) bool { _, ok := s.known.Load().byDevice[device]; return ok },
		OnData: on.data, OnSignal: on.signal, OnGone: on.gone, OnState: on.state, OnRTT: on.rtt,
	})
}

// wireGuardOverhead is what WireGuard adds to a packet, in bytes.
const wireGuardOverhead = 32

// listenRelayUDP opens a socket of its own for a relay's datagrams: what the tunnel's sockets receive is told apart by WireGuard's shape.
func (s *session) listenRelayUDP() (*udpbatch.Conn, error) {
	return udpbatch.Listen("udp", ":0", udpbatch.Options{
		Mark: s.cfg.mark(), GSO: !s.cfg.DisableGSO, GRO: !s.cfg.DisableGRO, Log: s.log,
	})
}

// clientConfig is also what leave uses while no session runs.
func clientConfig(cfg sessionConfig) client.Config {
	m := cfg.state.Membership
	hostname, _ := os.Hostname()
	node := cfg.state.Node.Public()
	return client.Config{
		Network: m.Network, Authority: m.Authority, Device: cfg.state.Device,
		Node:     func() key.NodePublic { return node },
		Hostname: hostname, OS: runtime.GOOS, OSVersion: osversion.Get(), Version: buildversion.Get(),
		Endpoints: m.Endpoints, MapFile: cfg.mapFile, Now: cfg.Now, Dial: client.DialFunc(cfg.dial), Log: cfg.Log,
	}
}

func (s *session) makeClient() (err error) {
	c := clientConfig(s.cfg)
	c.OnMap, c.OnPresence, c.OnState, c.OnFlowsWanted = s.applyMap, s.onPresence, s.onClientState, s.refusedFlows
	s.client, err = client.New(c)
	return err
}

// run starts every task. The first that fails ends the others.
func (s *session) run() {
	group, ctx := errgroup.WithContext(s.ctx)
	for _, task := range []func(context.Context) error{
		s.runMapper, s.engine.Run, s.collector().Run, s.traversal.Run, s.gatherer.Run, s.monitor.Run, s.relays.run, s.client.Run, s.networks.run, s.advertise.run, s.watchHost,
		s.dns.Run,
	} {
		group.Go(func() error {
			err := task(ctx)
			if err == nil && ctx.Err() == nil {
				err = errors.New("a part of the tunnel ended by itself")
			}
			if ctx.Err() != nil {
				return nil
			}
			return err
		})
	}
	go func() {
		s.err = group.Wait()
		s.closeTunnel()
		close(s.done)
		s.changed.Wake()
	}()
}

// watchHost puts back at once what another program has removed from the host's firewall.
func (s *session) watchHost(ctx context.Context) error {
	err := s.router.Watch(ctx, func() {
		s.log.Warn("another program has changed routes or firewall tables of this one; putting them back")
		s.networks.reapply()
	})
	if err != nil {
		s.log.Warn("what other programs change of routes and the firewall is put back only now and then", "err", err)
		<-ctx.Done()
	}
	return nil
}

func (s *session) closeTunnel() {
	if s.engine != nil {
		s.engine.Close()
	}
	if s.router != nil {
		shut := s.router.Close
		if s.leaves.Load() {
			shut = s.router.Leave
		}
		if s.networks != nil { // somebody may be about to change settings
			inner := shut
			shut = func() error { return s.networks.close(inner) }
		}
		if err := shut(); err != nil {
			s.log.Warn("interface not removed", "err", err)
		}
	}
	if !s.leaves.Load() {
		s.cfg.store.forget(handover.TUN, handover.UDP4, handover.UDP6)
	}
}

func (s *session) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// name is the device's name by the newest map.
func (s *session) name() string {
	if m := s.known.Load().m; m != nil && m.Self != nil {
		return m.Self.Name
	}
	return s.self.Name
}

// askAgain makes the client log in again at once, and forgets what the coordinator answered last.
func (s *session) askAgain() {
	s.control.Store(new(client.State))
	s.client.Reset()
}

// leaveGrace is how long the farewell of a gateway may take.
const leaveGrace = 50 * time.Millisecond

// stop ends the session and gives what had ended it before, if anything.
func (s *session) stop() error {
	if s.networks.leave() {
		select { // the word goes through the tunnel's queues; what does not make it is found out by those who use us
		case <-s.done:
		case <-time.After(leaveGrace):
		}
	}
	s.cancel()
	<-s.done
	return s.err
}

func hostPrefixes(addrs []netip.Addr) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}
