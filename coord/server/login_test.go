package server

import (
	"bytes"
	"context"
	"testing"
	"time"

	"connectrpc.com/connect"

	"warren/coord/domain"
	"warren/coord/reason"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

func TestLogin(t *testing.T) {
	c := start(t, nil)
	d := c.member(c.token(domain.TokenWish{}), "a")
	r, err := d.login()
	c.must(err)
	if r.GetLastSequence() != 0 || !r.GetExpiresAt().AsTime().After(c.now()) {
		t.Errorf("answer %v", r)
	}
	_, err = d.apply(setName("b"))
	c.must(err)
	if r, err = d.login(); err != nil || r.GetLastSequence() != 1 {
		t.Errorf("after a change: %v, %v", r, err)
	}
}

// Every part of a login that another coordinator, network, device or time could have made.
func TestForgedLogin(t *testing.T) {
	c := start(t, nil)
	other := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	d, member := c.member(tok, "a"), c.member(tok, "b")
	stranger := c.device("c")
	for _, test := range []struct {
		name   string
		as     *device
		change func(m *pb.LoginBody)
		reason string
		code   connect.Code
	}{
		{"another network", d, func(m *pb.LoginBody) { n := other.srv.Network(); m.NetworkId = n[:] }, whyMalformed, connect.CodeInvalidArgument},
		{"no network", d, func(m *pb.LoginBody) { m.NetworkId = nil }, whyMalformed, connect.CodeInvalidArgument},
		{"another coordinator", d, func(m *pb.LoginBody) { m.CoordinatorKey = other.srv.id.Signing.Public().Bytes() }, whyMalformed, connect.CodeInvalidArgument},
		{"no coordinator", d, func(m *pb.LoginBody) { m.CoordinatorKey = nil }, whyMalformed, connect.CodeInvalidArgument},
		{"another's key", d, func(m *pb.LoginBody) { m.DeviceKey = member.key.Public().Bytes() }, whyMalformed, connect.CodeInvalidArgument},
		{"no key", d, func(m *pb.LoginBody) { m.DeviceKey = nil }, whyMalformed, connect.CodeInvalidArgument},
		{"no role", d, func(m *pb.LoginBody) { m.Role = 0 }, whyMalformed, connect.CodeInvalidArgument},
		{"unknown role", d, func(m *pb.LoginBody) { m.Role = 3 }, whyMalformed, connect.CodeInvalidArgument},
		{"short instance", d, func(m *pb.LoginBody) { m.InstanceId = m.InstanceId[:15] }, whyMalformed, connect.CodeInvalidArgument},
		{"no node key", d, func(m *pb.LoginBody) { m.NodeKey = nil }, whyMalformed, connect.CodeInvalidArgument},
		{"wrong node key", d, func(m *pb.LoginBody) { m.NodeKey = key.NewNode().Public().Bytes() }, reason.NodeKey, connect.CodeFailedPrecondition},
		{"another's node key", d, func(m *pb.LoginBody) { m.NodeKey = member.node.Public().Bytes() }, reason.NodeKey, connect.CodeFailedPrecondition},
		{"no challenge", d, func(m *pb.LoginBody) { m.Challenge = nil }, whyChallenge, connect.CodeUnauthenticated},
		{"another's challenge", d, func(m *pb.LoginBody) { m.Challenge = other.challenge().GetChallenge() }, whyChallenge, connect.CodeUnauthenticated},
		{"made-up challenge", d, func(m *pb.LoginBody) { m.Challenge[9] ^= 1 }, whyChallenge, connect.CodeUnauthenticated},
		{"challenge of another time", d, func(m *pb.LoginBody) { m.Challenge[0] ^= 1 }, whyChallenge, connect.CodeUnauthenticated},
		{"stranger", stranger, func(*pb.LoginBody) {}, reason.NotMember, connect.CodePermissionDenied},
		{"device as relay", d, func(m *pb.LoginBody) { m.Role = pb.Role_ROLE_RELAY }, reason.NotMember, connect.CodePermissionDenied},
	} {
		m := test.as.loginBody()
		test.change(m)
		_, err := test.as.sendLogin(m)
		c.refused(test.name, err, test.reason, test.code)
	}
	m := d.loginBody()
	signed, err := record.Sign(d.key, record.ContextApply, m)
	c.must(err)
	for name, s := range map[string]*pb.Signed{
		"context": signed, "nothing": nil, "garbage": {Payload: []byte("garbage"), Signature: signed.GetSignature()},
		"no signature": {Payload: signed.GetPayload()}, "bytes added": {Payload: append(bytes.Clone(signed.GetPayload()), 0x7a, 0), Signature: signed.GetSignature()},
	} {
		_, err := c.calls.Login(t.Context(), connect.NewRequest(&pb.LoginRequest{Login: s}))
		c.refused(name, err, whyMalformed, connect.CodeInvalidArgument)
	}
}

func TestChallengesGoStale(t *testing.T) {
	c := start(t, nil)
	d := c.member(c.token(domain.TokenWish{}), "a")
	m := d.loginBody()
	c.advance(challengeLife - 30*time.Second)
	_, err := d.sendLogin(m)
	c.must(err)
	c.advance(time.Minute)
	_, err = d.sendLogin(m)
	c.refused("too old", err, whyChallenge, connect.CodeUnauthenticated)
	c.advance(-2*challengeLife - 2*time.Minute)
	_, err = d.sendLogin(m)
	c.refused("from the future", err, whyChallenge, connect.CodeUnauthenticated)
	c.restart()
	m.CoordinatorKey = c.srv.id.Signing.Public().Bytes()
	_, err = d.sendLogin(m)
	c.refused("from another run", err, whyChallenge, connect.CodeUnauthenticated)
}

// watchError opens a Watch that must be refused.
func (c *coordinator) watchError(session string) error {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	stream, err := c.calls.Watch(ctx, connect.NewRequest(&pb.WatchRequest{SessionToken: session}))
	if err != nil {
		return err
	}
	defer stream.Close()
	for stream.Receive() {
		c.Errorf("a Watch without right gave %v", stream.Msg())
	}
	return stream.Err()
}

func TestSessions(t *testing.T) {
	c := start(t, nil)
	other := start(t, nil)
	d := c.member(c.token(domain.TokenWish{}), "a")
	r, err := d.login()
	c.must(err)
	good := r.GetSessionToken()
	d.follow(good, 0, 0).sees("a")
	b := []byte(good)
	b[3] ^= 1
	foreign, err := other.member(other.token(domain.TokenWish{}), "a").login()
	c.must(err)
	for name, session := range map[string]string{
		"none": "", "garbage": "!", "short": good[:20], "cut": good[:len(good)-2], "changed": string(b), "another coordinator's": foreign.GetSessionToken(),
	} {
		c.refused(name, c.watchError(session), whySession, connect.CodeUnauthenticated)
	}
	c.advance(sessionLife)
	c.refused("old", c.watchError(good), whySession, connect.CodeUnauthenticated)
	r, err = d.login()
	c.must(err)
	c.remove("a")
	c.refused("of a removed device", c.watchError(r.GetSessionToken()), reason.Removed, connect.CodePermissionDenied)
	c.restart()
	c.refused("of another run", c.watchError(r.GetSessionToken()), whySession, connect.CodeUnauthenticated)
}

// What a session says survives the way through its token, at every length of the texts in it.
func TestSessionTokens(t *testing.T) {
	c := start(t, nil)
	for n := range 129 {
		text := string(bytes.Repeat([]byte("x"), n))
		want := session{
			device: key.NewDevice().Public(), role: pb.Role_ROLE_RELAY, me: instance{id: [16]byte{1, 2}, hostname: text},
			expires: c.now().Add(time.Hour), host: domain.Host{Hostname: text, OS: text, OSVersion: "2", AgentVersion: "1"},
		}
		got, err := c.srv.openSession(c.srv.sessionToken(want))
		if err != nil || !got.device.Equal(want.device) || got.role != want.role || got.me != want.me || !got.expires.Equal(want.expires) ||
			got.host != want.host {
			t.Fatalf("%+v, %v from %+v", got, err, want)
		}
	}
}

// The node key of the record may be the current or the announced one; using the announced one ends the rotation.
func TestRotation(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	a, d := c.member(tok, "a"), c.member(tok, "b")
	f := a.watch(0, 0)
	f.sees("a", "b")
	old, next := d.node, key.NewNode()
	r, err := d.apply(setNode(next.Public()))
	c.must(err)
	if !r.NodeKey.Equal(old.Public()) || !r.NextNodeKey.Equal(next.Public()) {
		t.Errorf("announced: %+v", r)
	}
	k := d.key.Public().Raw()
	f.until("both keys", func() bool { return f.peers[k].NextNodeKey.Equal(next.Public()) })
	_, err = d.login()
	c.must(err)
	d.node = next
	_, err = d.login()
	c.must(err)
	f.until("the next key alone", func() bool { return f.peers[k].NextNodeKey.IsZero() && f.peers[k].NodeKey.Equal(next.Public()) })
	d.node = old
	_, err = d.login()
	c.refused("the old key", err, reason.NodeKey, connect.CodeFailedPrecondition)
}
