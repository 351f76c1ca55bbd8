package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/coord/client"
	"warren/coord/domain"
	"warren/coord/reason"
	"warren/coord/server"
	"warren/internal/broadcast"
	"warren/proto/key"
	"warren/proto/tlsbind"
	"warren/proto/token"
	pb "warren/proto/warrenv1"
	"warren/proto/warrenv1/warrenv1connect"
)

// network is a real coordinator on loopback.
type network struct {
	t     *testing.T
	dir   string
	addr  string
	srv   *server.Server
	admin warrenv1connect.AdminServiceClient
	stop  func()
	ahead atomic.Int64 // time.Duration, of the coordinator's clock
	// wrap, if set, stands before the coordinator.
	wrap func(http.Handler) http.Handler
}

func startNetwork(t *testing.T) *network {
	n := &network{t: t, dir: t.TempDir(), addr: "127.0.0.1:0"}
	n.start()
	t.Cleanup(func() { n.stop() })
	return n
}

func (n *network) start() {
	t := n.t
	l, err := net.Listen("tcp", n.addr)
	if err != nil {
		t.Fatal(err)
	}
	n.addr = l.Addr().String()
	n.srv, err = server.Open(t.Context(), server.Config{
		StateDir: n.dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), KeepAlive: time.Second,
		Now:       func() time.Time { return time.Now().Add(time.Duration(n.ahead.Load())) },
		Endpoints: []*pb.Endpoint{{Url: "https://" + n.addr, TlsMode: pb.TLSMode_TLS_MODE_SELF}},
		Relay:     &pb.Relay{Name: "coordinator", Urls: []string{"https://" + n.addr}, TlsMode: pb.TLSMode_TLS_MODE_SELF},
	})
	if err != nil {
		t.Fatal(err)
	}
	k, binding, err := n.srv.TLSKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tlsbind.Certificate(k, binding)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	agentsHandler := n.srv.Handler()
	if n.wrap != nil {
		agentsHandler = n.wrap(agentsHandler)
	}
	mux.Handle("/", agentsHandler)
	adminMux := http.NewServeMux()
	adminMux.Handle("/", n.srv.AdminHandler())
	adminListener, err := net.Listen("unix", filepath.Join(t.TempDir(), "admin"))
	if err != nil {
		t.Fatal(err)
	}
	agents := &http.Server{Handler: mux, TLSConfig: tlsbind.ServerConfig(cert)}
	admins := &http.Server{Handler: adminMux}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { agents.ServeTLS(l, "", "") })
	group.Go(func() { admins.Serve(adminListener) })
	group.Go(func() { n.srv.Run(ctx) })
	n.admin = warrenv1connect.NewAdminServiceClient(&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return net.Dial("unix", adminListener.Addr().String())
		},
	}}, "http://admin")
	n.stop = func() {
		n.srv.Stop()
		agents.Close()
		admins.Close()
		cancel()
		group.Wait()
		if err := n.srv.Close(); err != nil {
			t.Error(err)
		}
	}
}

func (n *network) token(w domain.TokenWish) *token.Token {
	if !w.Relay {
		w.Owner = "ann" // whose devices reach each other by the starter policy
	}
	n.t.Helper()
	_, text, err := n.srv.CreateToken(n.t.Context(), w)
	if err != nil {
		n.t.Fatal(err)
	}
	parsed, err := token.Parse(text)
	if err != nil {
		n.t.Fatal(err)
	}
	return parsed
}

// device is an agent as far as coordination goes.
type device struct {
	t      *testing.T
	client *client.Client
	key    key.DevicePrivate
	node   key.NodePrivate
	self   *client.Enrolled

	changed broadcast.Broadcast
	mu      sync.Mutex
	m       *client.Map
	state   client.State
	online  map[[key.Size]byte]bool
	blocked map[[key.Size]byte]bool // of a relay
}

func (n *network) enrol(tok *token.Token, name string) (*device, error) {
	d := &device{t: n.t, key: key.NewDevice(), node: key.NewNode(), online: map[[key.Size]byte]bool{}}
	var err error
	d.self, err = client.Enrol(n.t.Context(), client.EnrolConfig{Token: tok, Device: d.key, Node: d.node.Public(), Hostname: name + ".example", OS: "linux"})
	return d, err
}

// watch starts the client until the test ends or stop is called.
func (d *device) watch(tok *token.Token, mapFile string) (stop func()) {
	d.t.Helper()
	return d.follow(client.Config{
		Network: tok.Network, Authority: tok.Authority, Device: d.key, Node: d.node.Public, Endpoints: tok.Endpoints,
		MapFile: mapFile, Hostname: "host", Log: slog.New(slog.NewTextHandler(d.t.Output(), nil)),
		OnMap:      func(m *client.Map) { d.update(func() { d.m = m }) },
		OnPresence: func(k [key.Size]byte, on bool) { d.update(func() { d.online[k] = on }) },
		OnState:    func(s client.State) { d.update(func() { d.state = s }) },
	})
}

// follow is watch with any configuration.
func (d *device) follow(cfg client.Config) (stop func()) {
	d.t.Helper()
	var err error
	if d.client, err = client.New(cfg); err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		d.client.Run(ctx)
		close(done)
	}()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			<-done
		})
	}
	d.t.Cleanup(stop)
	return stop
}

func (d *device) update(f func()) {
	d.mu.Lock()
	f()
	d.mu.Unlock()
	d.changed.Wake()
}

// await waits until ok holds.
func (d *device) await(what string, ok func() bool) {
	d.t.Helper()
	deadline := time.After(15 * time.Second)
	for {
		next := d.changed.Next()
		d.mu.Lock()
		done := ok()
		d.mu.Unlock()
		if done {
			return
		}
		select {
		case <-next:
		case <-deadline:
			d.mu.Lock()
			defer d.mu.Unlock()
			d.t.Fatalf("still not: %s; map %+v, state %+v", what, d.m, d.state)
		}
	}
}

func (d *device) peers() []string {
	if d.m == nil {
		return nil
	}
	var out []string
	for _, p := range d.m.Peers {
		out = append(out, p.Name)
	}
	return out
}

func (d *device) awaitPeers(want ...string) {
	d.t.Helper()
	d.await("peers "+strings.Join(want, " "), func() bool { return d.m != nil && slices.Equal(d.peers(), want) })
}

func TestLife(t *testing.T) {
	n := startNetwork(t)
	tok := n.token(domain.TokenWish{Reusable: true})
	a, err := n.enrol(tok, "alpha")
	if err != nil {
		t.Fatal(err)
	}
	mapFile := filepath.Join(t.TempDir(), "map")
	stopA := a.watch(tok, mapFile)
	a.await("own record, statement and ticket", func() bool {
		return a.m != nil && a.m.Self != nil && a.m.Self.Name == "alpha" && a.m.Ticket != nil && len(a.m.Statement.GetRelays()) == 1
	})
	b, err := n.enrol(tok, "beta")
	if err != nil {
		t.Fatal(err)
	}
	a.awaitPeers("beta")
	b.watch(tok, "")
	b.awaitPeers("alpha")
	a.await("beta online", func() bool { return a.online[b.key.Public().Raw()] })
	b.await("alpha online", func() bool { return b.online[a.key.Public().Raw()] })

	if err := b.client.SetName(t.Context(), "gamma"); err != nil {
		t.Fatal(err)
	}
	a.awaitPeers("gamma")
	b.await("its own new name", func() bool { return b.m.Self.Name == "gamma" })
	if err := b.client.SetName(t.Context(), "alpha"); client.Reason(err) != reason.Name {
		t.Errorf("a taken name: %v", err)
	}

	// The coordinator restarts; nobody has to do anything.
	n.stop()
	a.await("the loss", func() bool { return !a.state.Connected })
	if _, err := n.enrol(tok, "late"); !errors.Is(err, client.ErrUnreachable) {
		t.Fatalf("enrolment while the coordinator is away: %v", err)
	}
	n.start()
	a.client.Reset()
	a.await("the connection", func() bool { return a.state.Connected })
	if _, err = n.enrol(tok, "charlie"); err != nil {
		t.Fatal(err)
	}
	a.awaitPeers("charlie", "gamma")

	// A device that was away resumes from its map on disk.
	stopA()
	if _, err := n.admin.RemoveDevice(t.Context(), connect.NewRequest(&pb.RemoveDeviceRequest{Device: "charlie"})); err != nil {
		t.Fatal(err)
	}
	a.m = nil
	a.watch(tok, mapFile)
	if m := a.client.Map(); m == nil || len(m.Peers) != 2 {
		t.Fatalf("map on disk: %+v", m)
	}
	a.awaitPeers("gamma")

	// Expiry, and coming back by a token.
	if _, err := n.admin.ExpireDevice(t.Context(), connect.NewRequest(&pb.ExpireDeviceRequest{Device: "gamma"})); err != nil {
		t.Fatal(err)
	}
	a.awaitPeers()
	b.await("its rejection", func() bool { return b.state.Rejected && b.state.Reason == reason.Expired })
	renewed, err := client.Enrol(t.Context(), client.EnrolConfig{Token: tok, Device: b.key, Node: b.node.Public()})
	if err != nil || !renewed.Renewed || renewed.Record.Name != "gamma" {
		t.Fatalf("renewal: %+v, %v", renewed, err)
	}
	a.awaitPeers("gamma")
	b.client.Reset()
	b.await("being back", func() bool { return b.state.Connected })

	// A timed expiry runs out by itself.
	soon := timestamppb.New(time.Now().Add(50 * time.Millisecond))
	if _, err := n.admin.ExpireDevice(t.Context(), connect.NewRequest(&pb.ExpireDeviceRequest{Device: "gamma", At: soon})); err != nil {
		t.Fatal(err)
	}
	a.awaitPeers()

	if err := a.client.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.await("its removal", func() bool { return a.state.Rejected && a.state.Reason == reason.Removed })
	if err := a.client.Leave(t.Context()); err != nil {
		t.Errorf("leaving twice: %v", err)
	}
}

func TestTokens(t *testing.T) {
	n := startNetwork(t)
	once := n.token(domain.TokenWish{})
	first, err := n.enrol(once, "one")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.enrol(once, "two"); client.Reason(err) != reason.TokenUsed {
		t.Errorf("a used-up token: %v", err)
	}
	again, err := client.Enrol(t.Context(), client.EnrolConfig{Token: once, Device: first.key, Node: first.node.Public()})
	if err != nil || !again.Renewed {
		t.Errorf("the same device again: %+v, %v", again, err)
	}
	unknown := *once
	unknown.Secret[0] ^= 1
	if _, err := n.enrol(&unknown, "x"); client.Reason(err) != reason.TokenUnknown {
		t.Errorf("an unknown token: %v", err)
	}
	relay := n.token(domain.TokenWish{Relay: true})
	if _, err := n.enrol(relay, "x"); client.Reason(err) != reason.TokenRole {
		t.Errorf("a relay's token: %v", err)
	}
	revoked := n.token(domain.TokenWish{})
	list, err := n.admin.ListTokens(t.Context(), connect.NewRequest(&pb.ListTokensRequest{}))
	if err != nil || len(list.Msg.GetTokens()) != 3 {
		t.Fatalf("token list: %v, %v", list, err)
	}
	for _, k := range list.Msg.GetTokens() {
		if k.GetUses() == 0 && !k.GetRelay() {
			if _, err := n.admin.RevokeToken(t.Context(), connect.NewRequest(&pb.RevokeTokenRequest{Id: k.GetId()})); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := n.enrol(revoked, "x"); client.Reason(err) != reason.TokenRevoked {
		t.Errorf("a revoked token: %v", err)
	}
	expired := n.token(domain.TokenWish{Life: time.Second})
	n.ahead.Store(int64(time.Hour))
	if _, err := n.enrol(expired, "x"); client.Reason(err) != reason.TokenExpired {
		t.Errorf("an expired token: %v", err)
	}
	if d, err := n.enrol(n.token(domain.TokenWish{}), "skewed"); err != nil || d.self.ClockSkew > -50*time.Minute {
		t.Errorf("a clock that is an hour behind: %+v, %v", d.self, err)
	}
}

// One token for one device admits one of many who try at once.
func TestOneOffTokenConcurrently(t *testing.T) {
	n := startNetwork(t)
	tok := n.token(domain.TokenWish{})
	const many = 8
	results := make(chan error, many)
	for range many {
		go func() {
			_, err := n.enrol(tok, "racer")
			results <- err
		}()
	}
	admitted := 0
	for range many {
		switch err := <-results; {
		case err == nil:
			admitted++
		case client.Reason(err) != reason.TokenUsed:
			t.Error(err)
		}
	}
	if admitted != 1 {
		t.Errorf("%d were admitted", admitted)
	}
}

func TestWrongCoordinator(t *testing.T) {
	n, other := startNetwork(t), startNetwork(t)
	tok := n.token(domain.TokenWish{})
	tok.Endpoints[0].URL = "https://" + other.addr
	if _, err := n.enrol(tok, "x"); !errors.Is(err, tlsbind.ErrWrongCoordinator) || !strings.Contains(err.Error(), other.addr) {
		t.Errorf("another network's coordinator: %v", err)
	}
	// A server with a public certificate, or any other, is not it either.
	plain, err := tls.Listen("tcp", "127.0.0.1:0", tlsbind.ServerConfig(foreignCertificate(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	go http.Serve(plain, http.NotFoundHandler())
	tok.Endpoints[0].URL = "https://" + plain.Addr().String()
	if _, err := n.enrol(tok, "x"); !errors.Is(err, tlsbind.ErrWrongCoordinator) {
		t.Errorf("a stranger: %v", err)
	}
	// One that leads nowhere does not hide one that works.
	tok.Endpoints = []token.Endpoint{tok.Endpoints[0], {URL: "https://" + n.addr, Mode: pb.TLSMode_TLS_MODE_SELF}}
	if _, err := n.enrol(tok, "x"); err != nil {
		t.Errorf("second address: %v", err)
	}
}

func foreignCertificate(t *testing.T) tls.Certificate {
	k, err := tlsbind.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	c, err := tlsbind.Certificate(k, &pb.Signed{Payload: []byte("x"), Signature: make([]byte, 64)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A copied state directory makes two machines one device. The newer one takes over; when the older one comes back it is told.
func TestDuplicateDeviceKey(t *testing.T) {
	n := startNetwork(t)
	tok := n.token(domain.TokenWish{})
	a, err := n.enrol(tok, "original")
	if err != nil {
		t.Fatal(err)
	}
	a.watch(tok, "")
	a.await("the connection", func() bool { return a.state.Connected })
	b := &device{t: t, key: a.key, node: a.node, online: map[[key.Size]byte]bool{}}
	b.watch(tok, "")
	b.await("taking over", func() bool { return b.state.Connected })
	a.await("being told", func() bool { return a.state.Rejected && a.state.Reason == reason.Duplicate })
	if text := a.state.Err.Error(); !strings.Contains(text, "another machine") || !strings.Contains(text, "127.0.0.1") {
		t.Errorf("the refusal does not name the other machine: %s", text)
	}
	list, err := n.admin.ListDevices(t.Context(), connect.NewRequest(&pb.ListDevicesRequest{}))
	if err != nil || !strings.Contains(list.Msg.GetDevices()[0].GetDuplicate(), "two machines") {
		t.Errorf("device list: %v, %v", list, err)
	}
}

func TestMapOfNewerProgram(t *testing.T) {
	n := startNetwork(t)
	tok := n.token(domain.TokenWish{})
	file := filepath.Join(t.TempDir(), "map")
	cfg := client.Config{Network: tok.Network, Authority: tok.Authority, Device: key.NewDevice(), Endpoints: tok.Endpoints, MapFile: file}
	if err := os.WriteFile(file, []byte{8, 99}, 0o600); err != nil { // layout 99
		t.Fatal(err)
	}
	if _, err := client.New(cfg); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("a map of a newer program: %v", err)
	}
	if err := os.WriteFile(file, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := client.New(cfg); err != nil || c.Map() != nil {
		t.Errorf("garbage: %v", err)
	}
}
