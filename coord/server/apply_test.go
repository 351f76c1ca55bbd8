package server

import (
	"math"
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

func TestApply(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	a, _ := c.member(tok, "a"), c.member(tok, "b")
	r, err := a.apply(setName("c"))
	c.must(err)
	if r.Name != "c" || r.Version.Compare(a.record.Version) <= 0 {
		t.Errorf("renamed: %+v", r)
	}
	same, err := a.apply(setName("c"))
	c.must(err)
	if same.Version != r.Version {
		t.Errorf("no change gave version %v after %v", same.Version, r.Version)
	}
	_, err = a.apply(setName("b"))
	c.refused("a taken name", err, reason.Name, connect.CodeAlreadyExists)
	for _, name := range []string{"", "-", "A b", "é", "a.b"} {
		_, err = a.apply(setName(name))
		c.refused(name, err, reason.Name, connect.CodeInvalidArgument)
	}
	if r, err = a.apply(leave()); err != nil || !r.Removed {
		t.Errorf("left: %+v, %v", r, err)
	}
	if again, err := a.apply(leave()); err != nil || again.Version != r.Version {
		t.Errorf("left again: %+v, %v", again, err)
	}
	if l := c.list(); len(l) != 1 || l["b"] == nil {
		t.Errorf("the list shows %v", l)
	}
}

// An expired device can leave, and nothing else.
func TestApplyExpired(t *testing.T) {
	c := start(t, nil)
	a := c.member(c.token(domain.TokenWish{}), "a")
	c.expire("a", nil)
	_, err := a.apply(setName("b"))
	c.refused("rename", err, reason.Expired, connect.CodePermissionDenied)
	_, err = a.apply(setNode(key.NewNode().Public()))
	c.refused("rotation", err, reason.Expired, connect.CodePermissionDenied)
	if r, err := a.apply(leave()); err != nil || !r.Removed {
		t.Errorf("leave: %+v, %v", r, err)
	}
}

// A change counts once: neither a copy of it, nor one that was refused, nor an older one can be played later.
func TestSequence(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	a, _ := c.member(tok, "a"), c.member(tok, "taken")
	numbered := func(name string, n uint64) error {
		m := setName(name)
		m.Sequence = n
		_, err := a.sendApply(m)
		return err
	}
	c.must(numbered("b", 5))
	for name, err := range map[string]error{"the same": numbered("b", 5), "an older": numbered("x", 4), "none": numbered("x", 0)} {
		c.refused(name, err, reason.Sequence, connect.CodeAborted)
	}
	c.refused("a taken name", numbered("taken", 6), reason.Name, connect.CodeAlreadyExists)
	c.remove("taken")
	c.refused("the refused change again", numbered("taken", 6), reason.Sequence, connect.CodeAborted)
	c.refused("beyond the database", numbered("x", math.MaxInt64+1), whyMalformed, connect.CodeInvalidArgument)
	c.must(numbered("c", math.MaxInt64))
	c.refused("after the last", numbered("x", math.MaxInt64), reason.Sequence, connect.CodeAborted)
	c.restart()
	c.refused("after a restart", numbered("b", 5), reason.Sequence, connect.CodeAborted)
	if c.list()["c"] == nil {
		t.Errorf("the list shows %v", c.list())
	}
}

func TestForgedApply(t *testing.T) {
	c, other := start(t, nil), start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	a, b := c.member(tok, "a"), c.member(tok, "b")
	n, foreign := c.srv.Network(), other.srv.Network()
	good := func() *pb.ApplyBody {
		m := setName("x")
		m.NetworkId, m.CoordinatorKey, m.DeviceKey, m.Sequence = n[:], c.srv.id.Signing.Public().Bytes(), a.key.Public().Bytes(), 1
		return m
	}
	send := func(k key.DevicePrivate, context record.Context, m *pb.ApplyBody) error {
		signed, err := record.Sign(k, context, m)
		c.must(err)
		_, err = c.calls.Apply(t.Context(), connect.NewRequest(&pb.ApplyRequest{Apply: signed}))
		return err
	}
	for name, change := range map[string]func(*pb.ApplyBody){
		"another network":     func(m *pb.ApplyBody) { m.NetworkId = foreign[:] },
		"another coordinator": func(m *pb.ApplyBody) { m.CoordinatorKey = other.srv.id.Signing.Public().Bytes() },
		"another device":      func(m *pb.ApplyBody) { m.DeviceKey = b.key.Public().Bytes() },
		"no device":           func(m *pb.ApplyBody) { m.DeviceKey = nil },
		"no change":           func(m *pb.ApplyBody) { m.Change = nil },
		"short node key": func(m *pb.ApplyBody) {
			m.Change = &pb.ApplyBody_SetNodeKey{SetNodeKey: &pb.SetNodeKey{NodeKey: []byte{1}}}
		},
	} {
		m := good()
		change(m)
		c.refused(name, send(a.key, record.ContextApply, m), whyMalformed, connect.CodeInvalidArgument)
	}
	c.refused("another's signature", send(b.key, record.ContextApply, good()), whyMalformed, connect.CodeInvalidArgument)
	c.refused("a login's signature", send(a.key, record.ContextLogin, good()), whyMalformed, connect.CodeInvalidArgument)
	_, err := c.calls.Apply(t.Context(), connect.NewRequest(&pb.ApplyRequest{}))
	c.refused("nothing", err, whyMalformed, connect.CodeInvalidArgument)
	stranger := c.device("s")
	_, err = stranger.apply(setName("x"))
	c.refused("a stranger", err, reason.NotMember, connect.CodePermissionDenied)

	// A session token alone changes nothing: there is no place for one in a change, whatever else is right.
	session, err := a.login()
	c.must(err)
	payload, err := proto.Marshal(good())
	c.must(err)
	req := connect.NewRequest(&pb.ApplyRequest{Apply: &pb.Signed{Payload: payload, Signature: []byte(session.GetSessionToken())}})
	req.Header().Set("Authorization", "Bearer "+session.GetSessionToken())
	_, err = c.calls.Apply(t.Context(), req)
	c.refused("a session token", err, whyMalformed, connect.CodeInvalidArgument)
	if l := c.list(); l["a"] == nil || l["b"] == nil || l["a"].GetVersion().GetCounter() != a.record.Version.Counter {
		t.Errorf("a forged change took effect: %v", l)
	}
	c.must(send(a.key, record.ContextApply, good()))
}

// One device key on two machines: the one that was superseded comes back, which a start that ended never does.
func TestTwoMachines(t *testing.T) {
	c := start(t, nil)
	d := c.member(c.token(domain.TokenWish{}), "a")
	copied := d.copy("other-host")
	first := d.watch(0, 0)
	first.sees("a")
	second := copied.watch(0, 0)
	c.refused("the first", first.end(), reason.Superseded, connect.CodeAborted)
	second.sees("a")
	if text := c.list()["a"].GetDuplicate(); text != "" {
		t.Errorf("a restart was taken for a duplicate: %s", text)
	}
	_, err := d.login()
	c.refused("the first again", err, reason.Duplicate, connect.CodeFailedPrecondition)
	text := c.list()["a"].GetDuplicate()
	for _, want := range []string{`"a"`, `"other-host"`, "127.0.0.1"} {
		if !strings.Contains(text, want) || !strings.Contains(err.Error(), `"other-host"`) {
			t.Errorf("list %q, error %v: neither may lack %s", text, err, want)
		}
	}
	c.advance(duplicateLife)
	if text := c.list()["a"].GetDuplicate(); text != "" {
		t.Errorf("still told: %s", text)
	}
	// Once the second is gone the first may come back; the list tells of both all the same.
	second.close()
	d.watch(0, 0).sees("a")
	if text := c.list()["a"].GetDuplicate(); text == "" {
		t.Error("nothing told after a change of machines and back")
	}
}

func TestStarts(t *testing.T) {
	at := time.Unix(1e9, 0)
	start := func(n byte) instance { return instance{id: [16]byte{n}, hostname: string('a' + rune(n))} }
	p := new(starts)
	for n := range byte(40) { // one start after the other
		if p.refuses(start(n), n%2 == 0, at) {
			t.Fatalf("start %d refused", n)
		}
		p.take(start(n), at)
		if p.warning(at) != "" {
			t.Fatalf("start %d: %s", n, p.warning(at))
		}
	}
	if len(p.superseded) != maxSuperseded {
		t.Errorf("%d superseded starts are remembered, want %d", len(p.superseded), maxSuperseded)
	}
	if p.refuses(start(39), true, at) {
		t.Error("the running start itself is refused")
	}
	if !p.refuses(start(35), true, at) || p.warning(at) == "" {
		t.Error("a superseded start came back unnoticed")
	}
	if p.refuses(start(35), false, at) {
		t.Error("refused though the other is offline")
	}
	if later := at.Add(supersededLife + 1); p.refuses(start(35), true, later) || p.warning(later) != "" {
		t.Error("remembered for too long")
	}
}
