// Package server is the coordinator: it enrols devices, keeps their records in a store and tells every device what it may know.
//
// Open reads or makes the state directory; Handler and AdminHandler serve the two APIs; Run does what happens by itself, such as
// expiry. The rules are in coord/domain; this package checks who asks, runs one transaction per change, and publishes it.
//
//	network.go    what was drawn at the first start
//	commit.go     one change: transaction, signature, change log, publication
//	hub.go        what has been published, in memory, and who watches; presence.go and starts.go: who is online, and where
//	run.go        expiry and other things that happen by themselves
//	access.go     who may know of whom: the policy in force, compiled
//	plan.go       what a change means to the views of devices
//	publish.go    who is told, and what waits for each
//	policy.go     the policy, set, confirmed and rolled back; examine.go: what a document would do
//	routes.go     what devices offer to carry, and may
//	enrol.go, login.go, apply.go, watch.go   the agents' calls; stream.go: what a Watch sends
//	flows.go      what devices have refused, when an administrator asks
//	admin.go      the administrators' calls
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"warren/coord/domain"
	"warren/coord/policy"
	"warren/coord/reason"
	"warren/coord/statedir"
	"warren/coord/store"
	"warren/coord/store/sqlite"
	"warren/internal/bugreport"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
	"warren/proto/warrenv1/warrenv1connect"
)

// Defaults of Config.
const (
	DefaultMapMaxAge      = 30 * 24 * time.Hour
	DefaultKeepAlive      = 15 * time.Second
	DefaultEphemeralAfter = 30 * time.Minute
)

// Config is what a server is opened with. Zero values mean the defaults.
type Config struct {
	StateDir string
	Log      *slog.Logger
	// LogLevel is that of Log, for administrators to change; nil: it cannot be.
	LogLevel *slog.LevelVar
	// Diagnostics gives files for a report about this process, without secrets; nil: there are none.
	Diagnostics func() []bugreport.Piece
	Now         func() time.Time
	Version     string
	// Prefix4 and Prefix6 are where devices get addresses; zero: drawn at the first start. They cannot be changed later.
	Prefix4, Prefix6 netip.Prefix
	// Endpoints are the URLs in tokens and in map statements.
	Endpoints []*pb.Endpoint
	// Relay describes the relay that runs in the same process; its key is filled in. Nil: there is none.
	Relay *pb.Relay
	// Owner is the user who began the network; the starter policy puts it into group:admins. Empty: nobody.
	Owner string
	// HostAddresses gives the addresses of the coordinator's host, so that no policy locks it out by mistake. Nil: that is not checked.
	HostAddresses func() ([]netip.Addr, error)
	// OnBlocked is told of every device that relays must not serve (true), and of each that may be served again: of those known already
	// when Run begins, of others when it happens, in order. It must not wait for calls of this server.
	OnBlocked func(device key.DevicePublic, blocked bool)
	// MapMaxAge is how long a map on disk may be used.
	MapMaxAge time.Duration
	// KeepAlive is the interval of keep-alives on a Watch.
	KeepAlive time.Duration
	// EphemeralAfter is how long an ephemeral device may be away.
	EphemeralAfter time.Duration
	Registerer     prometheus.Registerer
}

func (c Config) withDefaults() Config {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.OnBlocked == nil {
		c.OnBlocked = func(key.DevicePublic, bool) {}
	}
	if c.MapMaxAge == 0 {
		c.MapMaxAge = DefaultMapMaxAge
	}
	if c.KeepAlive == 0 {
		c.KeepAlive = DefaultKeepAlive
	}
	if c.EphemeralAfter == 0 {
		c.EphemeralAfter = DefaultEphemeralAfter
	}
	if c.Registerer == nil {
		c.Registerer = prometheus.NewRegistry()
	}
	return c
}

// Server is an open coordinator.
type Server struct {
	cfg         Config
	log         *slog.Logger
	id          *statedir.Dir
	store       store.Store
	network     domain.Network
	certificate *pb.Signed // SigningCertificate
	firstStart  bool
	firstPolicy FirstPolicy
	startedAt   time.Time
	hub         *hub
	secret      [32]byte // of challenges and session tokens; drawn at each start
	metrics     *metrics
	limits      *limits
	bounds      bounds
	questions   questions
	stopping    chan struct{}
	stopOnce    sync.Once

	commitMu sync.Mutex // held from a transaction until it is published
}

// Open takes the state directory, which it makes at the first start.
func Open(ctx context.Context, cfg Config) (_ *Server, err error) {
	cfg = cfg.withDefaults()
	id, err := statedir.Open(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			id.Close()
		}
	}()
	st, err := sqlite.Open(ctx, filepath.Join(cfg.StateDir, statedir.Database))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			st.Close()
		}
	}()
	s := &Server{
		cfg: cfg, log: cfg.Log, id: id, store: st, startedAt: cfg.Now(), secret: newSecret(),
		metrics: newMetrics(cfg.Registerer), limits: newLimits(cfg.Now), bounds: defaultBounds(), stopping: make(chan struct{}),
		questions: questions{open: map[rawKey]*question{}},
	}
	if err := s.loadNetwork(ctx); err != nil {
		return nil, err
	}
	if s.certificate, err = record.Certify(id.Authority, s.network.ID, id.Signing.Public(), cfg.Now()); err != nil {
		return nil, err
	}
	if cfg.Relay != nil {
		cfg.Relay.RelayKey = id.Relay.Public().Bytes()
	}
	if err := s.loadHub(ctx); err != nil {
		return nil, err
	}
	return s, statedir.WriteLayout(cfg.StateDir)
}

// loadHub fills the hub from the store, and tells the relay whom not to serve.
func (s *Server) loadHub(ctx context.Context) error {
	p, confirmBy, at, err := s.loadPolicy(ctx)
	if err != nil {
		return err
	}
	h := newHub(s)
	err = s.store.View(ctx, func(tx store.Tx) error {
		devices, err := tx.Devices()
		if err != nil {
			return err
		}
		relays, err := tx.Relays()
		if err != nil {
			return err
		}
		revision, err := tx.Revision()
		if err != nil {
			return err
		}
		s.warnOfClock(devices)
		h.load(p, confirmBy, at, devices, relays, revision)
		return nil
	})
	if err != nil {
		return err
	}
	s.hub = h
	s.metrics.observe(h)
	_, err = s.tendPolicy(ctx)
	return err
}

// clockTolerance is how far the clock may be behind what has happened.
const clockTolerance = 5 * time.Minute

// warnOfClock tells of a clock that was set back. The coordinator serves all the same: revisions order what devices learn. But expiry, tokens and the
// lives of maps go by the clock, and devices of which the clock is right tell their users that theirs is ahead.
func (s *Server) warnOfClock(devices []*store.Device) {
	now := s.cfg.Now()
	if name, at := store.Newest(devices); at.After(now.Add(clockTolerance)) {
		s.log.Warn("this machine's clock is behind what has happened already; set it", "clock", now.UTC().Truncate(time.Second), "device", name, "was_here", at.UTC())
	}
}

// Close ends every Watch and closes the store. Run must have returned, and no call may be in progress.
func (s *Server) Close() error {
	s.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.saveSightings(ctx); err != nil { // a full disk must not make a stop a failure
		s.log.Error("when devices were last seen is not stored", "err", err)
	}
	return errors.Join(s.store.Close(), s.id.Close())
}

// Stop makes every Watch end, so that a graceful shutdown of the HTTP server does not wait for them.
func (s *Server) Stop() { s.stopOnce.Do(func() { close(s.stopping) }) }

// FirstStart reports whether Open made the network.
func (s *Server) FirstStart() bool { return s.firstStart }

// Network is the network's id.
func (s *Server) Network() record.NetworkID { return s.network.ID }

// Prefixes are those from which devices get addresses.
func (s *Server) Prefixes() []netip.Prefix { return s.network.Prefixes }

// Authority is the key that tokens pin.
func (s *Server) Authority() key.AuthorityPublic { return s.id.Authority.Public() }

// RelayKey is the identity of the relay in this process.
func (s *Server) RelayKey() key.DevicePrivate { return s.id.Relay }

// maxRequest bounds what a caller can make the server read, in bytes. A report of flows may be longer.
const maxRequest = 64 << 10

// Handler serves CoordinatorService to agents and relays.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(warrenv1connect.NewCoordinatorServiceHandler(&agents{Server: s}, connect.WithConditionalHandlerOptions(func(call connect.Spec) []connect.HandlerOption {
		most := maxRequest
		if call.Procedure == warrenv1connect.CoordinatorServiceReportFlowsProcedure {
			most += record.MaxFlowReport
		}
		return []connect.HandlerOption{connect.WithReadMaxBytes(most)}
	})))
	return withDeadlines(mux)
}

// AdminHandler serves AdminService. The caller decides who may reach it, and says by WithCaller who does.
func (s *Server) AdminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(warrenv1connect.NewAdminServiceHandler(&admin{Server: s}, connect.WithReadMaxBytes(policy.MaxSize+maxRequest)))
	return mux
}

// statement makes the map statement for d from what the hub published. The device is a member.
func (s *Server) statement(d key.DevicePublic, v view) (*pb.Signed, error) {
	now := s.cfg.Now()
	id, raw, t := s.network.ID, v.digest, v.told
	if !t.fit {
		s.log.Error("the grants that concern a device do not fit into its map, so nothing is allowed there; make the policy shorter", "device", d.Short(), "bytes", t.size())
		t = &told{waiting: t.waiting}
	}
	if t.groupsTooMany {
		s.log.Warn("the groups of users do not fit into a device's map, so it is told of none; make groups smaller", "device", d.Short())
	}
	if t.leftOut > 0 {
		s.log.Error("the routes that concern a device do not all fit into its map; revoke some, or have neighbours joined to wider ones", "device", d.Short(),
			"routes", len(t.routes), "left_out", t.leftOut)
	}
	prefixes := record.PrefixesToProto(s.network.Prefixes)
	return record.SignStatement(s.id.Signing, &pb.MapStatement{
		NetworkId: id[:], DeviceKey: d.Bytes(), Epoch: s.network.Epoch, Revision: v.revision,
		IssuedAt: timestamp(now), GoodUntil: timestamp(now.Add(s.cfg.MapMaxAge)),
		NetworkPrefixes: prefixes, Grants: t.grants, Routes: t.routes, Relays: v.relays, Endpoints: s.cfg.Endpoints, Digest: raw[:],
		WaitingRoutes: t.waiting, Groups: t.users(),
	})
}

// refuse makes the error of a refused call.
func (s *Server) refuse(code connect.Code, why string, err error) *connect.Error {
	s.metrics.refusals.WithLabelValues(why).Inc()
	e := connect.NewError(code, err)
	e.Meta().Set(reason.Header, why)
	return e
}

// internal hides what went wrong inside from the caller, and logs it.
func (s *Server) internal(what string, err error) *connect.Error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return connect.NewError(connect.CodeCanceled, err)
	}
	s.metrics.failures.Inc()
	s.log.Error(what+" failed", "err", err)
	if errors.Is(err, store.ErrDisk) {
		return connect.NewError(connect.CodeUnavailable, fmt.Errorf("%s failed, and nothing was changed: on the coordinator's machine %w; make room there", what, store.ErrDisk))
	}
	return connect.NewError(connect.CodeInternal, fmt.Errorf("%s failed inside the coordinator; its log says why", what))
}
