package serve

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"warren/cmd/coordinator/internal/config"
	"warren/cmd/coordinator/internal/handover"
	"warren/coord/client"
	"warren/internal/atomicfile"
	"warren/internal/buildversion"
	"warren/internal/connectproxy"
	"warren/internal/filelock"
	"warren/internal/privatedir"
	"warren/nat/relay"
	"warren/nat/stunserver"
	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/relayframe"
	"warren/proto/tlsbind"
	"warren/proto/token"
	pb "warren/proto/warrenv1"
)

// ErrNoToken says that a relay has joined no network and has no token to join one.
var ErrNoToken = errors.New("this relay has joined no network yet")

// RelayOptions are what a separate relay runs with.
type RelayOptions struct {
	State, Name, Region, Listen, STUN, Metrics string
	// Proxy is the URL of the HTTP proxy for the coordinator; "off" for none, empty for what the environment says.
	Proxy string
	URLs  []string
	// Rate is how much one device may send, in Mbit/s; 0 for any amount.
	Rate  int
	Token *token.Token
	Log   *slog.Logger
	Out   io.Writer
	// Ready is called once devices are served; it may be nil.
	Ready func()
	// Handover has the sockets of the process before, and keeps those of this one for the next.
	Handover handover.Service
}

// relayState is relay.json: all that a separate relay must not lose.
type relayState struct {
	Version   int              `json:"version"`
	Key       []byte           `json:"key"`
	TLSKey    []byte           `json:"tls_key"`
	Network   []byte           `json:"network,omitempty"`
	Authority string           `json:"authority,omitempty"`
	Endpoints []token.Endpoint `json:"endpoints,omitempty"`
	Binding   []byte           `json:"tls_binding,omitempty"`
	Signature []byte           `json:"tls_binding_signature,omitempty"`
}

const (
	relayStateName    = "relay.json"
	relayStateVersion = 1
)

// RunRelay serves a relay of its own until ctx ends.
func RunRelay(ctx context.Context, o RelayOptions) error {
	if err := privatedir.Make(o.State); err != nil {
		return fmt.Errorf("state directory %s cannot be made: %w; choose another with --state", o.State, err)
	}
	unlock, err := filelock.Take(filepath.Join(o.State, "lock"))
	if err != nil {
		return fmt.Errorf("state directory %s: %w", o.State, err)
	}
	defer unlock()
	st, err := loadRelayState(o.State)
	if err != nil {
		return err
	}
	c := config.Config{Listen: o.Listen, STUN: o.STUN, Metrics: o.Metrics, TLS: "self", URLs: o.URLs, Relay: true}
	socks, err := open(ctx, c, o.Handover, o.Log)
	if err != nil {
		return err
	}
	defer socks.close()
	desc, err := o.describe(c, socks)
	if err != nil {
		return err
	}
	dialer, err := connectproxy.New(o.Proxy, new(net.Dialer).DialContext)
	if err != nil {
		return err
	}
	r := &separate{RelayOptions: o, state: st, socks: socks, dial: dialer.DialContext}
	if r.key, err = key.DevicePrivateFromBytes(st.Key); err != nil {
		return fmt.Errorf("relay state: %w", err)
	}
	if r.tls, err = x509.ParseECPrivateKey(st.TLSKey); err != nil {
		return fmt.Errorf("relay state: %w", err)
	}
	if o.Token != nil {
		err := r.enrol(ctx, desc)
		if err != nil && !r.memberOf(o.Token) {
			return err
		}
		if err != nil { // such as by a token that has expired, and is still in the service's settings
			o.Log.Warn("not joined anew by the token; going on with the membership that this relay has", "err", err)
		}
	}
	if len(st.Network) == 0 {
		return ErrNoToken
	}
	return r.serve(ctx)
}

func loadRelayState(dir string) (*relayState, error) {
	path := filepath.Join(dir, relayStateName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		k, err := tlsbind.NewKey()
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalECPrivateKey(k)
		return &relayState{Version: relayStateVersion, Key: key.NewDevice().Bytes(), TLSKey: der}, err
	}
	if err != nil {
		return nil, fmt.Errorf("relay state %s: %w", path, err)
	}
	var st relayState
	if err := json.Unmarshal(b, &st); err != nil {
		return nil, fmt.Errorf("relay state %s is damaged: %w", path, err)
	}
	if st.Version > relayStateVersion {
		return nil, fmt.Errorf("relay state %s was written by a newer warren-coordinator; install that version again", path)
	}
	return &st, nil
}

func (o RelayOptions) describe(c config.Config, s *sockets) (*pb.Relay, error) {
	host, err := ownAddresses()
	if err != nil {
		return nil, err
	}
	endpoints, _, err := c.Endpoints(host, uint16(s.https.Addr().(*net.TCPAddr).Port))
	if err != nil {
		return nil, err
	}
	d := &pb.Relay{Name: o.Name, Region: o.Region, TlsMode: pb.TLSMode_TLS_MODE_SELF}
	if d.Name == "" {
		hostname, _ := os.Hostname()
		d.Name, _, _ = strings.Cut(strings.ToLower(hostname), ".")
	}
	if err := record.CheckLabel(d.GetName()); err != nil {
		return nil, fmt.Errorf("%w; name the relay with --name", err)
	}
	if err := record.CheckRegion(d.GetRegion()); err != nil {
		return nil, err
	}
	var hosts []string
	for _, e := range endpoints {
		d.Urls = append(d.Urls, e.GetUrl())
		if u, err := url.Parse(e.GetUrl()); err == nil {
			hosts = append(hosts, u.Hostname())
		}
	}
	d.Stun = config.STUNHosts(hosts, s.stun.ports())
	return d, nil
}

// separate is a relay that runs alone.
type separate struct {
	RelayOptions
	state *relayState
	socks *sockets
	key   key.DevicePrivate
	tls   *ecdsa.PrivateKey
	dial  client.DialFunc
}

// memberOf tells whether the relay has joined the token's network before.
func (r *separate) memberOf(t *token.Token) bool {
	return bytes.Equal(r.state.Network, t.Network[:]) && r.state.Authority == t.Authority.String()
}

// enrol joins by the token and stores the membership.
func (r *separate) enrol(ctx context.Context, desc *pb.Relay) error {
	spki, err := tlsbind.SPKI(r.tls.Public())
	if err != nil {
		return err
	}
	sum := sha256.Sum256(spki)
	e, err := client.Enrol(ctx, client.EnrolConfig{
		Token: r.Token, Device: r.key, Relay: desc, RelaySPKI: sum[:], Hostname: desc.GetName(), OS: runtime.GOOS, Version: buildversion.Get(),
		Dial: r.dial,
	})
	if err != nil {
		return err
	}
	r.state.Network, r.state.Authority, r.state.Endpoints = r.Token.Network[:], r.Token.Authority.String(), r.Token.Endpoints
	r.state.Binding, r.state.Signature = e.TLSBinding.GetPayload(), e.TLSBinding.GetSignature()
	b, err := json.MarshalIndent(r.state, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(r.State, relayStateName), b)
}

func (r *separate) serve(ctx context.Context) error {
	network, err := record.NetworkIDFromBytes(r.state.Network)
	if err != nil {
		return fmt.Errorf("relay state: %w", err)
	}
	authority, err := key.ParseAuthorityPublic(r.state.Authority)
	if err != nil {
		return fmt.Errorf("relay state: %w", err)
	}
	cert, err := tlsbind.Certificate(r.tls, &pb.Signed{Payload: r.state.Binding, Signature: r.state.Signature})
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	relays := relay.NewServer(relay.ServerConfig{
		Key: r.key, Network: network, Authority: authority, Log: r.Log, Registerer: registry,
		BytesPerSecond: config.RelayBytes(r.Rate),
	})
	follow, err := client.New(client.Config{
		Network: network, Authority: authority, Device: r.key, Role: pb.Role_ROLE_RELAY, Endpoints: r.state.Endpoints, Log: r.Log,
		OS: runtime.GOOS, Version: buildversion.Get(), Dial: r.dial,
		OnBlocked: func(d key.DevicePublic, blocked bool) {
			if blocked {
				relays.Block(d)
			} else {
				relays.Unblock(d)
			}
		},
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle(relayframe.Path, relays)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	group, ctx := errgroup.WithContext(ctx)
	last, endLast := context.WithCancel(context.WithoutCancel(ctx)) // packets are relayed until nothing else is left to do
	defer endLast()
	group.Go(func() error {
		defer endLast()
		defer relays.Close()
		return ServeHTTP(ctx, HTTPServer(mux, tlsbind.ServerConfig(cert), r.Log), r.socks.https, func() {})
	})
	group.Go(func() error { return follow.Run(ctx) })
	r.socks.stun.serve(last, group, stunserver.New(registry, nil), relays, r.Log)
	if r.socks.metrics != nil {
		h := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
		group.Go(func() error { return ServeHTTP(ctx, HTTPServer(h, nil, r.Log), r.socks.metrics, func() {}) })
	}
	r.Log.Info("relay serving", "listen", r.socks.https.Addr(), "network", network)
	r.socks.keep(r.Log)
	if r.Ready != nil {
		r.Ready()
	}
	return group.Wait()
}
