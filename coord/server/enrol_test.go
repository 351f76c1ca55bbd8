package server

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"warren/coord/domain"
	"warren/coord/reason"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

func TestEnrol(t *testing.T) {
	c := start(t, nil)
	d := c.device("Laptop.example")
	r, err := d.enrol(c.token(domain.TokenWish{Owner: "ann", Tags: []string{"web"}, Ephemeral: true}))
	c.must(err)
	if d.record.Name != "laptop" || d.record.Owner != "ann" || len(d.record.Tags) != 1 || !d.record.Ephemeral || r.GetRenewed() {
		t.Errorf("enrolled as %+v", d.record)
	}
	for i, a := range d.record.Addresses {
		if !c.srv.Prefixes()[i].Contains(a) {
			t.Errorf("address %s is not in %s", a, c.srv.Prefixes()[i])
		}
	}
	if _, err := record.OpenCertificate(c.srv.Authority(), c.srv.Network(), r.GetSigningCertificate()); err != nil {
		t.Error(err)
	}
	if skew := time.Since(r.GetServerTime().AsTime()); skew > time.Minute || skew < -time.Minute {
		t.Errorf("server time is %s off", skew)
	}
}

// A person who was given a bad token is told which kind of bad, except that an unknown one says nothing more.
func TestBadTokens(t *testing.T) {
	c := start(t, nil)
	once := c.token(domain.TokenWish{})
	c.member(once, "first")
	_, err := c.device("second").enrol(once)
	c.refused("used up", err, reason.TokenUsed, connect.CodePermissionDenied)

	_, err = c.device("x").enrol(key.NewToken())
	c.refused("unknown", err, reason.TokenUnknown, connect.CodePermissionDenied)

	revoked := c.token(domain.TokenWish{Reusable: true})
	c.revoke(func(k *pb.Token) bool { return k.GetUses() == 0 })
	_, err = c.device("x").enrol(revoked)
	c.refused("revoked", err, reason.TokenRevoked, connect.CodePermissionDenied)

	_, err = c.device("x").enrol(c.token(domain.TokenWish{Relay: true}))
	c.refused("a relay's", err, reason.TokenRole, connect.CodePermissionDenied)

	expired := c.token(domain.TokenWish{Life: time.Hour})
	c.advance(time.Hour)
	_, err = c.device("x").enrol(expired)
	c.refused("expired", err, reason.TokenExpired, connect.CodePermissionDenied)
	if n := len(c.list()); n != 1 {
		t.Errorf("%d devices, want 1", n)
	}
}

func (c *coordinator) revoke(which func(*pb.Token) bool) {
	c.Helper()
	list, err := c.admin.ListTokens(c.Context(), connect.NewRequest(&pb.ListTokensRequest{}))
	c.must(err)
	for _, k := range list.Msg.GetTokens() {
		if which(k) {
			_, err := c.admin.RevokeToken(c.Context(), connect.NewRequest(&pb.RevokeTokenRequest{Id: k.GetId()}))
			c.must(err)
		}
	}
}

// Every field that is wrong, and every signature that is not its own.
func TestForgedEnrolment(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	for name, change := range map[string]func(d *device, m *pb.EnrolBody, r *pb.EnrolRequest){
		"another network":      func(d *device, m *pb.EnrolBody, _ *pb.EnrolRequest) { m.NetworkId = make([]byte, 16) },
		"no network":           func(d *device, m *pb.EnrolBody, _ *pb.EnrolRequest) { m.NetworkId = nil },
		"no role":              func(d *device, m *pb.EnrolBody, _ *pb.EnrolRequest) { m.Role = 0 },
		"unknown role":         func(d *device, m *pb.EnrolBody, _ *pb.EnrolRequest) { m.Role = 77 },
		"short node key":       func(d *device, m *pb.EnrolBody, _ *pb.EnrolRequest) { m.NodeKey = m.NodeKey[:31] },
		"no node key":          func(d *device, m *pb.EnrolBody, _ *pb.EnrolRequest) { m.NodeKey = nil },
		"another's device key": func(d *device, m *pb.EnrolBody, _ *pb.EnrolRequest) { m.DeviceKey = key.NewDevice().Public().Bytes() },
		"another's token key":  func(d *device, m *pb.EnrolBody, _ *pb.EnrolRequest) { m.TokenKey = key.NewToken().Public().Bytes() },
		"no keys":              func(d *device, m *pb.EnrolBody, _ *pb.EnrolRequest) { m.TokenKey, m.DeviceKey = nil, nil },
		"payload changed":      func(_ *device, _ *pb.EnrolBody, r *pb.EnrolRequest) { r.Payload = append(r.Payload, 0x42, 0) },
		"garbage":              func(_ *device, _ *pb.EnrolBody, r *pb.EnrolRequest) { r.Payload = []byte("garbage") },
		"empty":                func(_ *device, _ *pb.EnrolBody, r *pb.EnrolRequest) { r.Payload = nil },
		"signatures swapped": func(_ *device, _ *pb.EnrolBody, r *pb.EnrolRequest) {
			r.TokenSignature, r.DeviceSignature = r.DeviceSignature, r.TokenSignature
		},
		"no token signature":  func(_ *device, _ *pb.EnrolBody, r *pb.EnrolRequest) { r.TokenSignature = nil },
		"no device signature": func(_ *device, _ *pb.EnrolBody, r *pb.EnrolRequest) { r.DeviceSignature = nil },
		"wrong context": func(d *device, _ *pb.EnrolBody, r *pb.EnrolRequest) {
			r.DeviceSignature = d.key.Sign(record.Message(record.ContextLogin, r.Payload))
		},
	} {
		d := c.device("x")
		m := d.enrolBody(tok)
		change(d, m, &pb.EnrolRequest{})
		r := d.signEnrol(tok, m)
		change(d, m, r)
		_, err := d.send(r)
		c.refused(name, err, whyMalformed, connect.CodeInvalidArgument)
	}
	if n := len(c.list()); n != 0 {
		t.Errorf("%d devices", n)
	}
}

func TestNames(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	for _, want := range []string{"host", "host-2", "host-3"} {
		if d := c.member(tok, "host"); d.record.Name != want {
			t.Errorf("named %q, want %q", d.record.Name, want)
		}
	}
	wish := func(name string) (*device, error) {
		d := c.device("x")
		m := d.enrolBody(tok)
		m.Name = name
		_, err := d.send(d.signEnrol(tok, m))
		return d, err
	}
	d, err := wish("web")
	c.must(err)
	if d.record.Name != "web" {
		t.Errorf("named %q", d.record.Name)
	}
	_, err = wish("web")
	c.refused("taken", err, reason.Name, connect.CodeAlreadyExists)
	if !strings.Contains(err.Error(), `"web"`) || !strings.Contains(err.Error(), "--name") {
		t.Errorf("%v does not say what to do", err)
	}
	_, err = wish("Not a label")
	c.refused("no label", err, reason.Name, connect.CodeInvalidArgument)
	c.remove("web")
	if _, err = wish("web"); err != nil {
		t.Errorf("the name of a removed device: %v", err)
	}
}

func TestNodeKeysAreUnique(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	a, b := c.member(tok, "a"), c.device("b")
	b.node = a.node
	_, err := b.enrol(tok)
	c.refused("another's node key", err, reason.NodeKey, connect.CodeFailedPrecondition)
	b.node = key.NewNode()
	_, err = b.enrol(tok)
	c.must(err)
	_, err = b.apply(setNode(a.node.Public()))
	c.refused("rotation to another's node key", err, reason.NodeKey, connect.CodeFailedPrecondition)
}

// An answer that was lost is asked for again, with the same token, which is used up.
func TestEnrolAgain(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{})
	d := c.device("host")
	r := d.signEnrol(tok, d.enrolBody(tok))
	first, err := d.send(r)
	c.must(err)
	for _, again := range []*pb.EnrolRequest{r, d.signEnrol(tok, d.enrolBody(tok))} {
		second, err := d.send(again)
		c.must(err)
		if !second.GetRenewed() || !proto.Equal(first.GetRecord(), second.GetRecord()) {
			t.Errorf("enrolled again as %+v", d.record)
		}
	}
	// It is no way back: not after expiry, not after removal.
	c.expire("host", nil)
	_, err = d.enrol(tok)
	c.refused("expired, by a used token", err, reason.TokenUsed, connect.CodePermissionDenied)
	_, err = d.send(r)
	c.refused("expired, the same request", err, reason.TokenUsed, connect.CodePermissionDenied)
	if _, err = d.enrol(c.token(domain.TokenWish{})); err != nil {
		t.Errorf("expired, by a new token: %v", err)
	}
	c.remove("host")
	_, err = d.enrol(c.token(domain.TokenWish{}))
	c.refused("removed", err, reason.Removed, connect.CodePermissionDenied)
}

// Who carried an enrolment can play it again, and nothing must change back.
func TestReplayedEnrolment(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	d := c.device("host")
	m := d.enrolBody(tok)
	m.Name = "first"
	old := d.signEnrol(tok, m)
	_, err := d.send(old)
	c.must(err)
	_, err = d.apply(setName("second"))
	c.must(err)
	d.node = key.NewNode()
	_, err = d.enrol(tok)
	c.must(err)
	r, err := d.send(old)
	c.must(err)
	if d.record.Name != "second" || !d.record.NodeKey.Equal(d.node.Public()) || !r.GetRenewed() {
		t.Errorf("an old request made it %+v", d.record)
	}
	c.expire("second", nil)
	_, err = d.send(old)
	c.refused("an expired device's old request", err, reason.TokenUsed, connect.CodePermissionDenied)
	if !c.list()["second"].GetExpired() {
		t.Error("the old request renewed it")
	}
}

func TestOneOffTokenConcurrently(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{})
	const many = 16
	results := make(chan error, many)
	for range many {
		d := c.device("racer")
		go func() {
			_, err := d.enrol(tok)
			results <- err
		}()
	}
	admitted := 0
	for range many {
		if err := <-results; err == nil {
			admitted++
		} else {
			c.refused("a loser", err, reason.TokenUsed, connect.CodePermissionDenied)
		}
	}
	if admitted != 1 || len(c.list()) != 1 {
		t.Errorf("%d admitted, %d devices", admitted, len(c.list()))
	}
}

func (d *device) relayBody(tok key.TokenPrivate, name string) *pb.EnrolBody {
	d.role = pb.Role_ROLE_RELAY
	m := d.enrolBody(tok)
	m.NodeKey = nil
	m.Relay = &pb.Relay{Name: name, Urls: []string{"https://relay.example"}, TlsMode: pb.TLSMode_TLS_MODE_SELF, Stun: []string{"relay.example:3478"}}
	sum := [32]byte{1}
	m.RelaySpkiSha256 = sum[:]
	return m
}

func TestEnrolRelay(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Relay: true, Reusable: true})
	for name, change := range map[string]func(*pb.EnrolBody){
		"no URL":       func(m *pb.EnrolBody) { m.Relay.Urls = nil },
		"bad URL":      func(m *pb.EnrolBody) { m.Relay.Urls = []string{"http://x/y?z"} },
		"no TLS mode":  func(m *pb.EnrolBody) { m.Relay.TlsMode = 0 },
		"bad STUN":     func(m *pb.EnrolBody) { m.Relay.Stun = []string{"nonsense"} },
		"too many":     func(m *pb.EnrolBody) { m.Relay.Stun = make([]string, 99) },
		"nothing said": func(m *pb.EnrolBody) { m.Relay.Urls, m.Relay.Stun, m.Relay.TlsMode = nil, nil, 0 },
	} {
		d := c.device("relay")
		m := d.relayBody(tok, "ams")
		change(m)
		_, err := d.send(d.signEnrol(tok, m))
		c.refused(name, err, whyMalformed, connect.CodeInvalidArgument)
	}
	d := c.device("relay")
	r, err := d.send(d.signEnrol(tok, d.relayBody(tok, "ams")))
	c.must(err)
	if r.GetRecord() != nil || r.GetTlsBinding() == nil {
		t.Errorf("answer %v", r)
	}
	if r, err = d.send(d.signEnrol(tok, d.relayBody(tok, "fra"))); err != nil || !r.GetRenewed() {
		t.Errorf("renewed under another name: %v, %v", r, err)
	}
	for _, name := range []string{"fra", "coordinator"} {
		other := c.device("relay")
		_, err = other.send(other.signEnrol(tok, other.relayBody(tok, name)))
		c.refused("a taken name", err, reason.Name, connect.CodeAlreadyExists)
	}
	other := c.device("relay")
	_, err = other.send(other.signEnrol(tok, other.relayBody(tok, "no label")))
	c.refused("no label", err, reason.Name, connect.CodeInvalidArgument)

	// One key is a relay or a device.
	asDevice := *d
	asDevice.role = pb.Role_ROLE_DEVICE
	_, err = asDevice.enrol(c.token(domain.TokenWish{}))
	c.refused("a relay's key", err, whyMalformed, connect.CodeInvalidArgument)
	member := c.member(c.token(domain.TokenWish{}), "host")
	_, err = member.send(member.signEnrol(tok, member.relayBody(tok, "x")))
	c.refused("a device's key", err, whyMalformed, connect.CodeInvalidArgument)

	_, err = c.admin.RemoveRelay(t.Context(), connect.NewRequest(&pb.RemoveRelayRequest{Name: "fra"}))
	c.must(err)
	_, err = d.send(d.signEnrol(tok, d.relayBody(tok, "fra")))
	c.refused("a removed relay", err, reason.Removed, connect.CodePermissionDenied)
}

func TestRateLimit(t *testing.T) {
	c := start(t, nil)
	c.srv.limits.now = func() time.Time { return time.Unix(1, 0) } // no allowance comes back
	var err error
	for range callsAtOnce + 1 {
		if _, err = c.calls.Challenge(t.Context(), connect.NewRequest(&pb.ChallengeRequest{})); err != nil {
			break
		}
	}
	c.refused("too many calls", err, whyRate, connect.CodeResourceExhausted)
	c.remote = "192.0.2.1"
	if _, err := c.calls.Challenge(t.Context(), connect.NewRequest(&pb.ChallengeRequest{})); err != nil {
		t.Errorf("somebody else: %v", err)
	}
}
