package server

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/coord/domain"
	"warren/coord/reason"
	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/token"
	pb "warren/proto/warrenv1"
	"warren/proto/warrenv1/warrenv1connect"
)

// patience is how long a test waits for what ought to come at once, on a machine that has much else to do.
const patience = time.Minute

// coordinator is a server on loopback, with its own clock.
type coordinator struct {
	*testing.T
	cfg    Config
	ahead  atomic.Int64 // how far its clock is ahead
	srv    *Server
	calls  warrenv1connect.CoordinatorServiceClient
	admin  warrenv1connect.AdminServiceClient
	stop   func()
	remote string // what a reverse proxy says of callers, if set
	piped  bool   // no sockets, so that time in a testing/synctest bubble runs

	mu      sync.Mutex
	blocked map[rawKey]bool
}

func start(t *testing.T, change func(*Config)) *coordinator {
	t.Helper()
	return (&coordinator{T: t}).begin(change)
}

// startPiped is start for virtual time.
func startPiped(t *testing.T, change func(*Config)) *coordinator {
	t.Helper()
	return (&coordinator{T: t, piped: true}).begin(change)
}

func (c *coordinator) begin(change func(*Config)) *coordinator {
	t := c.T
	c.blocked = map[rawKey]bool{}
	c.cfg = Config{
		StateDir: t.TempDir(), Log: slog.New(slog.NewTextHandler(t.Output(), nil)), KeepAlive: time.Minute, Now: c.now,
		Endpoints: []*pb.Endpoint{{Url: "https://coordinator.example", TlsMode: pb.TLSMode_TLS_MODE_SELF}},
		Relay:     &pb.Relay{Name: "coordinator", Urls: []string{"https://coordinator.example"}, TlsMode: pb.TLSMode_TLS_MODE_SELF},
		OnBlocked: func(k key.DevicePublic, b bool) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.blocked[k.Raw()] = b
		},
	}
	if change != nil {
		change(&c.cfg)
	}
	c.start()
	t.Cleanup(func() { c.stop() })
	return c
}

func (c *coordinator) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// advance sets the clock ahead and has Run notice.
func (c *coordinator) advance(d time.Duration) {
	c.ahead.Add(int64(d))
	c.srv.hub.changed.Wake()
}

func (c *coordinator) start() {
	c.Helper()
	var err error
	if c.srv, err = Open(c.Context(), c.cfg); err != nil {
		c.Fatal(err)
	}
	c.serve()
}

func (c *coordinator) serve() {
	ctx, cancel := context.WithCancel(context.Background())
	admins := c.srv.AdminHandler()
	public, private := c.listen(c.srv.Handler()), c.listen(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		admins.ServeHTTP(w, r.WithContext(WithCaller(r.Context(), "root")))
	}))
	var run sync.WaitGroup
	run.Go(func() {
		if err := c.srv.Run(ctx); err != nil {
			c.Error(err)
		}
	})
	c.calls = warrenv1connect.NewCoordinatorServiceClient(public.client, public.url, connect.WithInterceptors(proxied{c}))
	c.admin = warrenv1connect.NewAdminServiceClient(private.client, private.url)
	c.stop = sync.OnceFunc(func() {
		c.srv.Stop()
		public.close()
		private.close()
		cancel()
		run.Wait()
		if err := c.srv.Close(); err != nil {
			c.Error(err)
		}
	})
}

func (c *coordinator) restart() {
	c.Helper()
	c.stop()
	c.start()
}

// proxied makes calls come from elsewhere, as a reverse proxy on this host would say.
type proxied struct{ c *coordinator }

func (p proxied) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		if p.c.remote != "" {
			r.Header().Set("X-Forwarded-For", p.c.remote)
		}
		return next(ctx, r)
	}
}

func (p proxied) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		if p.c.remote != "" {
			conn.RequestHeader().Set("X-Forwarded-For", p.c.remote)
		}
		return conn
	}
}

func (p proxied) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// token makes a join token and gives its key. Its devices are of one user, and so reach each other by the starter policy, unless the wish says
// whose they are.
func (c *coordinator) token(w domain.TokenWish) key.TokenPrivate {
	c.Helper()
	if w.Owner == "" && len(w.Tags) == 0 && !w.Relay {
		w.Owner = "ann"
	}
	_, text, err := c.srv.CreateToken(c.Context(), w)
	if err != nil {
		c.Fatal(err)
	}
	t, err := token.Parse(text)
	if err != nil {
		c.Fatal(err)
	}
	k, err := t.Secret.Key()
	if err != nil {
		c.Fatal(err)
	}
	return k
}

// device is an agent's keys.
type device struct {
	c        *coordinator
	key      key.DevicePrivate
	node     key.NodePrivate
	instance [16]byte
	hostname string
	system   string // its version
	role     pb.Role
	sequence uint64
	record   *record.Device
	// grantPeers says that it knows grants that name peers.
	grantPeers bool
}

func (c *coordinator) device(hostname string) *device {
	d := &device{c: c, key: key.NewDevice(), node: key.NewNode(), hostname: hostname, role: pb.Role_ROLE_DEVICE}
	rand.Read(d.instance[:])
	return d
}

// copy is the same state directory on another machine.
func (d *device) copy(hostname string) *device {
	other := *d
	other.hostname = hostname
	rand.Read(other.instance[:])
	return &other
}

// enrolBody is what the device asks for; change alters it before it is signed.
func (d *device) enrolBody(tok key.TokenPrivate) *pb.EnrolBody {
	n := d.c.srv.Network()
	return &pb.EnrolBody{
		NetworkId: n[:], TokenKey: tok.Public().Bytes(), DeviceKey: d.key.Public().Bytes(), Role: d.role,
		NodeKey: d.node.Public().Bytes(), Hostname: d.hostname, Os: "linux", OsVersion: d.system, AgentVersion: "test", Time: timestamppb.Now(),
	}
}

func (d *device) signEnrol(tok key.TokenPrivate, m *pb.EnrolBody) *pb.EnrolRequest {
	payload, err := proto.Marshal(m)
	if err != nil {
		d.c.Fatal(err)
	}
	return &pb.EnrolRequest{
		Payload:         payload,
		TokenSignature:  tok.Sign(record.Message(record.ContextEnrolToken, payload)),
		DeviceSignature: d.key.Sign(record.Message(record.ContextEnrolDevice, payload)),
	}
}

func (d *device) send(r *pb.EnrolRequest) (*pb.EnrolResponse, error) {
	out, err := d.c.calls.Enrol(d.c.Context(), connect.NewRequest(r))
	if err != nil {
		return nil, err
	}
	if d.role == pb.Role_ROLE_DEVICE {
		if d.record, err = record.OpenDevice(d.c.srv.Authority(), d.c.srv.Network(), out.Msg.GetRecord()); err != nil {
			d.c.Errorf("the record: %v", err)
		}
	}
	return out.Msg, nil
}

func (d *device) enrol(tok key.TokenPrivate) (*pb.EnrolResponse, error) {
	return d.send(d.signEnrol(tok, d.enrolBody(tok)))
}

// member enrols a new device, which must work.
func (c *coordinator) member(tok key.TokenPrivate, hostname string) *device {
	c.Helper()
	d := c.device(hostname)
	if _, err := d.enrol(tok); err != nil {
		c.Fatal(err)
	}
	return d
}

func (c *coordinator) challenge() *pb.ChallengeResponse {
	c.Helper()
	r, err := c.calls.Challenge(c.Context(), connect.NewRequest(&pb.ChallengeRequest{}))
	if err != nil {
		c.Fatal(err)
	}
	return r.Msg
}

func (d *device) loginBody() *pb.LoginBody {
	n := d.c.srv.Network()
	ch := d.c.challenge()
	signing, err := record.OpenCertificate(d.c.srv.Authority(), n, ch.GetSigningCertificate())
	if err != nil {
		d.c.Fatal(err)
	}
	return &pb.LoginBody{
		NetworkId: n[:], CoordinatorKey: signing.Bytes(), Challenge: ch.GetChallenge(), DeviceKey: d.key.Public().Bytes(),
		Role: d.role, NodeKey: d.node.Public().Bytes(), InstanceId: d.instance[:], Hostname: d.hostname, Os: "linux", OsVersion: d.system, AgentVersion: "test",
		Time: timestamppb.Now(),
	}
}

func (d *device) sendLogin(m *pb.LoginBody) (*pb.LoginResponse, error) {
	signed, err := record.Sign(d.key, record.ContextLogin, m)
	if err != nil {
		d.c.Fatal(err)
	}
	r, err := d.c.calls.Login(d.c.Context(), connect.NewRequest(&pb.LoginRequest{Login: signed}))
	if err != nil {
		return nil, err
	}
	return r.Msg, nil
}

func (d *device) login() (*pb.LoginResponse, error) { return d.sendLogin(d.loginBody()) }

// apply sends a change with the next sequence number.
func (d *device) apply(m *pb.ApplyBody) (*record.Device, error) {
	d.sequence++
	m.Sequence = d.sequence
	return d.sendApply(m)
}

func (d *device) sendApply(m *pb.ApplyBody) (*record.Device, error) {
	n := d.c.srv.Network()
	m.NetworkId, m.CoordinatorKey, m.Time = n[:], d.c.srv.id.Signing.Public().Bytes(), timestamppb.Now()
	if m.DeviceKey == nil {
		m.DeviceKey = d.key.Public().Bytes()
	}
	signed, err := record.Sign(d.key, record.ContextApply, m)
	if err != nil {
		d.c.Fatal(err)
	}
	r, err := d.c.calls.Apply(d.c.Context(), connect.NewRequest(&pb.ApplyRequest{Apply: signed}))
	if err != nil {
		return nil, err
	}
	return record.OpenDevice(d.c.srv.Authority(), n, r.Msg.GetRecord())
}

func setName(name string) *pb.ApplyBody {
	return &pb.ApplyBody{Change: &pb.ApplyBody_SetName{SetName: &pb.SetName{Name: name}}}
}

func setNode(k key.NodePublic) *pb.ApplyBody {
	return &pb.ApplyBody{Change: &pb.ApplyBody_SetNodeKey{SetNodeKey: &pb.SetNodeKey{NodeKey: k.Bytes()}}}
}

func leave() *pb.ApplyBody { return &pb.ApplyBody{Change: &pb.ApplyBody_Leave{Leave: &pb.Leave{}}} }

// reasonOf gives the reason of a refusal, or "" if err is none.
func reasonOf(err error) string {
	e, ok := err.(*connect.Error)
	if !ok {
		return ""
	}
	return e.Meta().Get(reason.Header)
}

// refused checks that err is a refusal with this reason and code, whose text says something.
func (c *coordinator) refused(what string, err error, why string, code connect.Code) {
	c.Helper()
	if reasonOf(err) != why || connect.CodeOf(err) != code || len(err.Error()) < 20 {
		c.Errorf("%s: got %v (reason %q), want reason %q, code %v", what, err, reasonOf(err), why, code)
	}
}

func (c *coordinator) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *coordinator) remove(name string) {
	c.Helper()
	_, err := c.admin.RemoveDevice(c.Context(), connect.NewRequest(&pb.RemoveDeviceRequest{Device: name}))
	c.must(err)
}

func (c *coordinator) expire(name string, at *timestamppb.Timestamp) {
	c.Helper()
	_, err := c.admin.ExpireDevice(c.Context(), connect.NewRequest(&pb.ExpireDeviceRequest{Device: name, At: at}))
	c.must(err)
}

func (c *coordinator) rename(from, to string) {
	c.Helper()
	_, err := c.admin.RenameDevice(c.Context(), connect.NewRequest(&pb.RenameDeviceRequest{Device: from, Name: to}))
	c.must(err)
}

func (c *coordinator) list() map[string]*pb.Device {
	c.Helper()
	r, err := c.admin.ListDevices(c.Context(), connect.NewRequest(&pb.ListDevicesRequest{}))
	c.must(err)
	out := map[string]*pb.Device{}
	for _, d := range r.Msg.GetDevices() {
		out[d.GetName()] = d
	}
	return out
}

func (c *coordinator) isBlocked(d *device) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.blocked[d.key.Public().Raw()]
}
