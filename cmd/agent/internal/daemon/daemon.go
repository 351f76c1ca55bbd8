// Package daemon is the agent itself: it owns the state directory, answers the local API, and, while the tunnel is wanted, runs a
// session that joins the coordinator's client, NAT traversal and the WireGuard engine. Run is all there is to call.
//
//	daemon.go   the long-lived part: state, local API, at most one session
//	api.go      the local API's calls
//	session.go  one session: what is made, in which order, and how it ends
//	wire.go     how the parts of a session feed one another
//	relays.go   connections to the relays of the map; relayroutes.go which of them carries what to which peer
//	takeover.go one daemon taking over from another
//	status.go   what status shows; metrics.go: what is exported to Prometheus
//	why.go      why a path is as it is; grants.go: which grants allow a flow
//	whois.go    who is behind an address
//	flows.go    records of flows; refused.go: what the coordinator is told of them
//	loglevel.go how much is logged
//	netcheck.go what the network here lets through; sitecheck.go: whether a gateway does its work
//	managed.go  settings that the configuration makes; joining.go: enrolment without anybody there
//	host.go     where a session's tunnel ends; userspace.go, overlay.go: in this process, and how others use it then
//	killswitch.go what keeps the kill switch set; exitdns.go: names for users of this exit node
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"warren/cmd/agent/internal/handover"
	"warren/cmd/agent/internal/local"
	"warren/cmd/agent/internal/names"
	"warren/cmd/agent/internal/state"
	"warren/internal/buildversion"
	"warren/internal/connectproxy"
	"warren/internal/freebind"
	"warren/internal/unixsock"
	"warren/nat/portmap"
	"warren/nat/portmapper"
	"warren/proto/warrenv1/warrenv1connect"
	"warren/tunnel/flowlog"
)

// Config is what a daemon is started with.
type Config struct {
	StateDir  string
	Socket    string
	Interface string
	// Port is the UDP port; 0 keeps the one of the last run.
	Port uint16
	// Metrics is the address for Prometheus, or empty.
	Metrics string
	// Proxy is the URL of the HTTP proxy for coordinator and relays; "off" for none, empty for what the environment says.
	Proxy string
	// Endpoints are fixed ones, host:port, at which peers reach this device too.
	Endpoints []string
	// PortMapping are the protocols by which the gateway is asked to map the port; empty: none.
	PortMapping []portmap.Protocol
	// DisableGSO and DisableGRO turn off UDP offloads where a kernel gets them wrong.
	DisableGSO, DisableGRO bool
	// HardNATRate is how many ports of a peer's hard NAT are tried in a second; 0: 100. Negative: none are.
	HardNATRate int
	// MaxFlows bounds the flows that the packet filter knows; 0: filter.DefaultMaxFlows.
	MaxFlows int
	// NoFlowRecords keeps no records of flows, and no state of those between devices that may send each other anything.
	NoFlowRecords bool
	// FlowExports are where flow records go, as flowsink.Open takes them; FlowFileSize bounds a file, in bytes.
	FlowExports  []string
	FlowFileSize int64
	// Userspace has the tunnel end in this process, without an interface; nil: in Interface.
	Userspace *Userspace
	// WhoIsGroup may ask who is behind an address, and nothing else, on a socket beside Socket; empty: there is none.
	WhoIsGroup string
	// Managed are settings that go before the stored ones, Join is where a token is found, and Options are what "warren config" shows besides.
	Managed Managed
	Join    Join
	Options []Option
	// Changes are taken over while the daemon runs; nil: none come.
	Changes <-chan Change
	Log     *slog.Logger
	// LogLevel is that of Log, for the local API to change; nil: it cannot.
	LogLevel *slog.LevelVar
	// RecentLog gives the newest lines of Log, for reports; nil: none.
	RecentLog func() []byte
	// Now is this machine's clock; nil: the real one.
	Now func() time.Time

	// Inherited are files of a daemon before this one, which Run closes if they are of no use.
	Inherited handover.Files
	// Keeper keeps files for the next one; nil: nobody does.
	Keeper Keeper
	// Restarts tells, when ctx has ended, whether the service manager starts the daemon again at once; nil: it does not.
	Restarts func(ctx context.Context) (bool, error)
	// Check tells the version of the program that is installed now, once that is found able to take over from this one; nil: none is.
	Check func(ctx context.Context) (version string, err error)
	// Replace has the daemon replaced by that program, as the local API has; nil: never.
	Replace <-chan os.Signal
}

// daemon is the long-lived part. mu guards what follows it and is held while a session starts or stops, so that calls to the
// local API come one after the other.
type daemon struct {
	cfg      Config
	log      *slog.Logger
	dir      *state.Dir
	registry *prometheus.Registry
	ctx      context.Context // of Run: sessions outlive the calls that start them
	names    *names.Book
	dial     connectproxy.DialFunc
	mapping  *portmapper.Metrics
	flows    *flowlog.Log // outlives sessions
	joiner   *joiner
	store    *store
	// stopFlows ends the export of flow records, and apis is done when nobody serves calls any more.
	stopFlows func()
	apis      sync.WaitGroup
	began     time.Time
	end       context.CancelCauseFunc // has Run end
	services  *userspace              // outlives sessions; nil where the tunnel has an interface

	mu       sync.Mutex
	stored   *state.State // as it is on disk
	state    *state.State // with what is managed over it: what counts
	session  *session
	inherits *inheritance // for the first session
	handed   *HandedOver  // what Run gives back in place of nil
	lastErr  error        // why there is no session though the tunnel is wanted
	killErr  error        // why the kill switch is not set though it is wanted
	operator local.Operator
}

// Run serves until ctx ends, or until it is to be replaced, when its error is *HandedOver. It calls ready once the socket answers. A directory or
// socket that another daemon has, or a state that cannot be read, is an error before anything is changed.
func Run(ctx context.Context, cfg Config, ready func()) error {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	dir, err := state.Open(cfg.StateDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	d, err := newDaemon(cfg, dir)
	if err != nil {
		return err
	}
	d.takeHost()
	defer func() {
		if d.inherits != nil {
			d.disinherit(d.inherits)
		}
	}()
	listener, err := unixsock.Listen(cfg.Socket)
	if err != nil {
		return fmt.Errorf("%w; run as root, or choose another with --socket", err)
	}
	defer os.Remove(cfg.Socket)
	stopFlows, err := d.openFlows()
	if err != nil {
		return err
	}
	d.stopFlows = sync.OnceFunc(stopFlows)
	defer d.stopFlows()
	d.mapping = registerMetrics(d.registry, cfg.StateDir, d.figures, d.flows.Stats)
	d.applyOperator()
	d.log.Info("daemon started", "version", buildversion.Get(), "network", d.networkName())
	if err := d.serve(ctx, listener, ready); err != nil || d.handed == nil {
		return err
	}
	return d.handed
}

// networkName is for the log.
func (d *daemon) networkName() string {
	if d.state.Membership == nil {
		return "none"
	}
	return d.state.Membership.Network.String()
}

// newDaemon reads the state. It changes nothing.
func newDaemon(cfg Config, dir *state.Dir) (*daemon, error) {
	d := &daemon{
		cfg: cfg, log: cfg.Log, dir: dir, registry: prometheus.NewRegistry(), began: time.Now(),
		store: &store{keeper: cfg.Keeper, warn: cfg.Log.Warn, kept: map[string]bool{}},
	}
	dialer, err := connectproxy.New(cfg.Proxy, func(ctx context.Context, network, address string) (net.Conn, error) {
		return d.names.DialContext(ctx, network, address)
	})
	if err != nil {
		return nil, err
	}
	d.dial = dialer.DialContext
	marked := markedDialer(cfg.Log, cfg.mark())
	d.names = names.Open(names.Config{File: dir.AddressFile(), Resolve: marked.resolve, Dial: marked.DialContext, Log: cfg.Log})
	st, err := dir.Load()
	if err != nil {
		return nil, err
	}
	d.stored, d.state = st, st
	d.state = d.effective(st)
	d.joiner = newJoiner(d)
	return d, nil
}

// takeHost sets or lifts the kill switch, as the state says, and takes over or takes back what a daemon before this one has left.
func (d *daemon) takeHost() {
	if d.stored.Routing.KillSwitch && !d.state.Routing.KillSwitch {
		if err := d.liftKillSwitch(); err != nil {
			d.log.Error("kill switch not lifted, as the configuration says", "err", err)
		}
	}
	d.keepKillSwitch() // before anything else: the host may have been without it since it started
	if d.inherits = d.inherit(); d.inherits == nil {
		d.cleanUp() // the tunnel may not be wanted any more, so that nobody else would do it
	}
}

// serve runs everything until ctx ends, or until another daemon is to take over.
func (d *daemon) serve(ctx context.Context, listener *net.UnixListener, ready func()) error {
	ctx, d.end = context.WithCancelCause(ctx)
	defer d.end(nil)
	group, ctx := errgroup.WithContext(ctx)
	d.ctx = ctx
	if d.cfg.Userspace != nil {
		services, err := openUserspaceServices(ctx, d.cfg.Userspace, d.current, d.cfg.Log)
		if err != nil {
			return err
		}
		d.services = services
	}
	d.apis.Add(1)
	group.Go(func() error {
		defer d.apis.Done()
		return unixsock.Serve(ctx, listener, d.handler())
	})
	if d.cfg.WhoIsGroup != "" {
		if err := d.serveWhoIs(ctx, group); err != nil {
			return err
		}
	}
	if d.cfg.Metrics != "" {
		if err := d.serveMetrics(ctx, group); err != nil {
			return err
		}
	}
	group.Go(func() error { return d.awaitReplace(ctx) })
	if d.services != nil {
		group.Go(func() error { return d.services.run(ctx) })
	}
	group.Go(func() error { return d.keepUp(ctx) })
	group.Go(func() error { return d.joiner.run(ctx) })
	group.Go(func() error { return d.takeOver(ctx) })
	ready()
	return group.Wait()
}

func (d *daemon) handler() http.Handler {
	mux := http.NewServeMux()
	path, h := warrenv1connect.NewLocalServiceHandler(&api{d: d})
	mux.Handle(path, h)
	return mux
}

// applyOperator opens the socket to the operator of the state. An operator who is gone from the machine is nobody.
func (d *daemon) applyOperator() {
	o, err := local.LookUpOperator(d.state.Operator)
	if err != nil {
		d.log.Warn("operator ignored", "err", err)
		o = local.Operator{}
	}
	if err := local.Grant(d.cfg.Socket, o); err != nil {
		d.log.Warn("socket stays root's alone", "err", err)
	}
	d.operator = o
}

func (d *daemon) serveMetrics(ctx context.Context, group *errgroup.Group) error {
	l, err := freebind.Listen(ctx, d.cfg.Metrics) // it may be one of the network's
	if err != nil {
		return fmt.Errorf("metrics address %s: %w; choose another with --metrics", d.cfg.Metrics, err)
	}
	if freebind.Missing(l.Addr()) {
		d.log.Info("metrics are for an address that this host does not have yet", "address", l.Addr())
	}
	s := &http.Server{Handler: promhttp.HandlerFor(d.registry, promhttp.HandlerOpts{}), ReadHeaderTimeout: 10 * time.Second}
	group.Go(func() error {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		return s.Close()
	})
	return nil
}

// restartPause is how long keepUp waits before it tries again to start a session that failed.
const restartPause = 5 * time.Second

// keepUp starts the wanted session, again whenever it failed, until ctx ends; then it stops it.
func (d *daemon) keepUp(ctx context.Context) error {
	tick := time.NewTicker(restartPause)
	defer tick.Stop()
	for {
		d.mu.Lock()
		d.keepKillSwitch()
		before := d.lastErr
		if err := d.ensureSession(); err != nil && (before == nil || before.Error() != err.Error()) {
			d.log.Error("tunnel could not be brought up", "err", err)
		}
		d.mu.Unlock()
		select {
		case <-ctx.Done():
			d.apis.Wait() // calls in progress get a moment, in which the tunnel works
			d.mu.Lock()
			defer d.mu.Unlock()
			d.finish(context.Cause(ctx))
			return nil
		case <-tick.C:
		}
	}
}

// ensureSession brings the session into line with the state. The caller holds mu.
func (d *daemon) ensureSession() error {
	if d.session != nil && d.session.ended() {
		d.lastErr = d.session.stop()
		d.session = nil
		d.log.Error("tunnel went down by itself", "err", d.lastErr)
	}
	if !d.state.Up || d.state.Membership == nil || d.session != nil || d.ctx.Err() != nil {
		return nil
	}
	in := d.inherits
	d.inherits = nil
	c := sessionConfig{
		store: d.store, inherits: in, services: d.services, Config: d.cfg, state: *d.state, mapFile: d.dir.MapFile(), registry: d.registry, names: d.names, dial: d.dial, mapping: d.mapping, flows: d.flows,
	}
	s, err := startSession(context.WithoutCancel(d.ctx), c) // it is finish that ends it
	if err != nil && in != nil {
		d.disinherit(in)
		c.inherits = nil
	}
	if errors.Is(err, syscall.EADDRINUSE) && d.cfg.Port == 0 && c.state.Port != 0 {
		d.log.Warn("another program has taken the UDP port of the last run; taking another", "port", c.state.Port)
		c.state.Port = 0
		s, err = startSession(context.WithoutCancel(d.ctx), c)
	}
	d.lastErr = err
	if err != nil {
		return err
	}
	d.session = s
	if port := s.bind.LocalPort(); port != 0 && port != d.state.Port && d.cfg.Port == 0 {
		next := *d.state
		next.Port = port
		return d.save(&next)
	}
	return nil
}

// stopSession ends the session if there is one. The caller holds mu.
func (d *daemon) stopSession() {
	if d.session == nil {
		return
	}
	if err := d.session.stop(); err != nil {
		d.log.Warn("tunnel stopped with an error", "err", err)
	}
	d.session = nil
}

// save makes next the state, on disk first, where what is managed stays as it was. The caller holds mu.
func (d *daemon) save(next *state.State) error {
	stored := d.cfg.Managed.under(next, d.stored)
	if err := d.dir.Save(stored); err != nil {
		return err
	}
	d.stored, d.state = stored, next
	return nil
}
