// Package serve runs a coordinator: one HTTPS port for agents and relayed packets, two UDP ports for STUN, a socket for administrators.
// Run is all there is to call.
package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"warren/cmd/coordinator/internal/config"
	"warren/cmd/coordinator/internal/handover"
	"warren/coord/domain"
	"warren/coord/server"
	"warren/internal/bugreport"
	"warren/internal/buildversion"
	"warren/internal/unixsock"
	"warren/nat/gather"
	"warren/nat/relay"
	"warren/nat/stunserver"
	"warren/proto/key"
	"warren/proto/relayframe"
	"warren/proto/tlsbind"
	pb "warren/proto/warrenv1"
)

// SocketName is the administrators' socket in the state directory.
const SocketName = "admin.sock"

// firstTokenLife is how long the token printed at the first start is good.
const firstTokenLife = 24 * time.Hour

const (
	headerTimeout = 10 * time.Second
	// stopTimeout is how long calls in progress may take at the end. The next process's connections wait as long.
	stopTimeout = 3 * time.Second
)

// Options are where serve speaks.
type Options struct {
	Config config.Config
	Log    *slog.Logger
	// LogLevel is that of Log, for administrators to change; nil: it cannot be.
	LogLevel *slog.LevelVar
	// RecentLog gives the newest lines of Log, for reports; nil: none.
	RecentLog func() []byte
	// Out is for people. Terminal says that it is one: only then a token is printed on it.
	Out      io.Writer
	Terminal bool
	// Ready is called once devices are served; it may be nil.
	Ready func()
	// Read takes the settings anew, whenever Reload calls its argument. Reload returns when its context ends; nil: the settings stay.
	Read   func() (config.Config, error)
	Reload func(context.Context, func()) error
	// Handover has the sockets of the process before, and keeps those of this one for the next.
	Handover handover.Service
}

// Run serves until ctx ends, and then stops gracefully.
func Run(ctx context.Context, o Options) error {
	if err := o.Config.Check(); err != nil {
		return err
	}
	own, err := ownCertificate(o.Config)
	if err != nil {
		return err
	}
	if own != nil {
		checkDates(own.current.Load(), o.Config.TLS, time.Now(), o.Log)
	}
	registry := prometheus.NewRegistry()
	registerProcess(registry, o.Config.State, own)
	socks, err := open(ctx, o.Config, o.Handover, o.Log)
	if err != nil {
		return err
	}
	defer socks.close()
	endpoints, private, err := o.endpoints(socks)
	if err != nil {
		return err
	}
	cfg := o.serverConfig(endpoints, socks, registry)
	blocked := new(blocklist)
	cfg.OnBlocked = blocked.set
	cfg.Diagnostics = func() []bugreport.Piece { return o.diagnostics(registry) }
	srv, err := server.Open(ctx, cfg)
	if err != nil {
		return err
	}
	var relays *relay.Server
	if o.Config.Relay {
		relays = relay.NewServer(relay.ServerConfig{
			Key: srv.RelayKey(), Network: srv.Network(), Authority: srv.Authority(), Log: o.Log, Registerer: registry,
			BytesPerSecond: config.RelayBytes(o.Config.RelayRate),
		})
		blocked.attach(relays)
	}
	socket := filepath.Join(o.Config.State, SocketName)
	if socks.admin, err = unixsock.Listen(socket); err != nil {
		return errors.Join(err, srv.Close())
	}
	defer os.Remove(socket)
	if err := o.greet(ctx, srv, endpoints, private); err != nil {
		return errors.Join(err, srv.Close())
	}
	tlsConfig, err := o.tls(srv, own)
	if err != nil {
		return errors.Join(err, srv.Close())
	}
	err = o.serve(ctx, srv, relays, socks, tlsConfig, registry, own)
	if relays != nil {
		relays.Close()
	}
	return errors.Join(err, srv.Close())
}

// blocklist passes on whom the relay must not serve. The coordinator knows before the relay is there, since it has the relay's key.
type blocklist struct {
	mu      sync.Mutex
	relay   *relay.Server
	waiting []key.DevicePublic
}

func (b *blocklist) set(d key.DevicePublic, blocked bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.relay == nil && blocked:
		b.waiting = append(b.waiting, d)
	case b.relay == nil:
		b.waiting = slices.DeleteFunc(b.waiting, d.Equal)
	case blocked:
		b.relay.Block(d)
	default:
		b.relay.Unblock(d)
	}
}

func (b *blocklist) attach(r *relay.Server) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.relay = r
	for _, d := range b.waiting {
		r.Block(d)
	}
	b.waiting = nil
}

func (o Options) endpoints(s *sockets) ([]*pb.Endpoint, bool, error) {
	host, err := ownAddresses()
	if err != nil {
		return nil, false, err
	}
	return o.Config.Endpoints(host, uint16(s.https.Addr().(*net.TCPAddr).Port))
}

func (o Options) serverConfig(endpoints []*pb.Endpoint, s *sockets, registry prometheus.Registerer) server.Config {
	v4, v6, _ := o.Config.Prefixes() // Check has seen them
	cfg := server.Config{
		StateDir: o.Config.State, Log: o.Log, LogLevel: o.LogLevel, Version: buildversion.Get(), Prefix4: v4, Prefix6: v6,
		Endpoints: endpoints, MapMaxAge: o.Config.MapMaxAge, Registerer: registry,
		Owner: self(), HostAddresses: func() ([]netip.Addr, error) { return gather.HostAddresses("") },
	}
	desc := &pb.Relay{Name: "coordinator", Region: o.Config.Region, TlsMode: endpoints[0].GetTlsMode()}
	var hosts []string
	for _, e := range endpoints {
		if e.GetTlsMode() == desc.TlsMode {
			desc.Urls = append(desc.Urls, e.GetUrl())
		}
		if u, err := url.Parse(e.GetUrl()); err == nil {
			hosts = append(hosts, u.Hostname())
		}
	}
	desc.Stun = config.STUNHosts(hosts, s.stun.ports())
	if o.Config.Relay {
		cfg.Relay = desc
	}
	return cfg
}

// greet says where things stand and, at the first start on a terminal, how to go on. A token goes nowhere else: not into logs, not into files.
func (o Options) greet(ctx context.Context, srv *server.Server, endpoints []*pb.Endpoint, private bool) error {
	fmt.Fprintf(o.Out, "network %s, addresses from %s and %s\n", srv.Network(), srv.Prefixes()[0], srv.Prefixes()[1])
	for _, e := range endpoints {
		fmt.Fprintf(o.Out, "devices find this coordinator at %s\n", e.GetUrl())
	}
	if private {
		fmt.Fprintln(o.Out, "these addresses are private: devices elsewhere will not reach them; if there is a public one, start with --url")
	}
	if err := o.greetPolicy(ctx, srv); err != nil || !srv.FirstStart() {
		return err
	}
	if !o.Terminal {
		_, err := fmt.Fprintf(o.Out, "to add a device, make a token: warren-coordinator token create --state %s\n", o.Config.State)
		return err
	}
	t, text, err := srv.CreateToken(ctx, domain.TokenWish{Reusable: true, Life: firstTokenLife, Owner: self()})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(o.Out, "\nOn each device of %s, until %s, run:\n\n    sudo warren up %s\n\n", t.Owner, t.ExpiresAt.Local().Format("Mon 15:04"), text)
	return err
}

// greetPolicy says which policy is in force, and what is to be known of one that nobody has set.
func (o Options) greetPolicy(ctx context.Context, srv *server.Server) error {
	switch srv.FirstPolicy() {
	case server.StarterPolicy:
		const text = "the devices of each user reach each other, and nothing else is allowed: this is policy 1, to be seen by \"warren-coordinator policy get\""
		_, err := fmt.Fprintln(o.Out, text)
		return err
	case server.BuiltInPolicy:
		const text = "this network had no policy: that all its devices reach each other on everything is written out as policy 1 now"
		o.Log.Warn(text, "see", "warren-coordinator policy get")
		_, err := fmt.Fprintln(o.Out, text+"; make it narrower by \"warren-coordinator policy set FILE\"")
		return err
	}
	p, err := srv.Policy(ctx)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(o.Out, "policy %d is in force, set by %s at %s\n", p.Number, p.Author, p.At.Local().Format(time.DateTime))
	return err
}

// serve runs all tasks until ctx ends or one fails.
func (o Options) serve(ctx context.Context, srv *server.Server, relays *relay.Server, s *sockets, tlsConfig *tls.Config, registry *prometheus.Registry, own *certificate) error {
	mux := http.NewServeMux()
	mux.Handle("/", srv.Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	if relays != nil {
		mux.Handle(relayframe.Path, relays)
	}
	group, ctx := errgroup.WithContext(ctx)
	last, endLast := context.WithCancel(context.WithoutCancel(ctx)) // packets are relayed until nothing else is left to do
	defer endLast()
	public := HTTPServer(mux, tlsConfig, o.Log)
	group.Go(func() error {
		defer endLast()
		defer closeRelay(relays)
		return ServeHTTP(ctx, public, s.https, srv.Stop)
	})
	group.Go(func() error { return unixsock.Serve(ctx, s.admin, admit(srv.AdminHandler())) })
	group.Go(func() error { return srv.Run(ctx) })
	if o.Reload != nil {
		group.Go(func() error { return o.Reload(ctx, newReloader(o, own).reload) })
	}
	s.stun.serve(last, group, stunserver.New(registry, nil), relays, o.Log)
	if s.metrics != nil {
		h := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
		group.Go(func() error { return ServeHTTP(ctx, HTTPServer(h, nil, o.Log), s.metrics, func() {}) })
	}
	o.Log.Info("serving", "listen", s.https.Addr(), "version", buildversion.Get())
	s.keep(o.Log)
	if o.Ready != nil {
		o.Ready()
	}
	err := group.Wait()
	o.Log.Info("stopped")
	return err
}

func closeRelay(r *relay.Server) {
	if r != nil {
		r.Close()
	}
}

// tls is how the public port speaks TLS; nil where a proxy does.
func (o Options) tls(srv *server.Server, own *certificate) (*tls.Config, error) {
	switch mode, _, _, err := o.Config.TLSMode(); {
	case err != nil:
		return nil, err
	case mode == pb.TLSMode_TLS_MODE_OFF:
		return nil, nil
	case mode == pb.TLSMode_TLS_MODE_PUBLIC:
		return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: own.get}, nil
	}
	k, binding, err := srv.TLSKey()
	if err != nil {
		return nil, err
	}
	c, err := tlsbind.Certificate(k, binding)
	if err != nil {
		return nil, err
	}
	return tlsbind.ServerConfig(c), nil
}

// admit lets root and the user that the coordinator runs as use the administrators' API.
func admit(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := unixsock.CallerFrom(r.Context())
		if !ok || !c.Administrator() {
			http.Error(w, "only root and the coordinator's own user may do this", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r.WithContext(server.WithCaller(r.Context(), personOf(c))))
	})
}
