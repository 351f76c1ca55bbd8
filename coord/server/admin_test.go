package server

import (
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/coord/domain"
	"warren/proto/token"
	pb "warren/proto/warrenv1"
)

func TestAdminTokens(t *testing.T) {
	c := start(t, nil)
	create := func(m *pb.CreateTokenRequest) (*pb.CreateTokenResponse, error) {
		r, err := c.admin.CreateToken(t.Context(), connect.NewRequest(m))
		if err != nil {
			return nil, err
		}
		return r.Msg, nil
	}
	r, err := create(&pb.CreateTokenRequest{Reusable: true, Owner: "ann", Tags: []string{"web"}, ExpiresIn: durationpb.New(time.Hour)})
	c.must(err)
	parsed, err := token.Parse(r.GetText())
	c.must(err)
	if parsed.Network != c.srv.Network() || !parsed.Authority.Equal(c.srv.Authority()) || len(parsed.Endpoints) != 1 {
		t.Errorf("token %v", parsed)
	}
	if k := r.GetToken(); !k.GetReusable() || k.GetOwner() != "ann" || k.GetExpiresAt().AsTime().Sub(k.GetCreatedAt().AsTime()) != time.Hour {
		t.Errorf("described as %v", k)
	}
	for name, m := range map[string]*pb.CreateTokenRequest{
		"no life": {ExpiresIn: durationpb.New(0)}, "past": {ExpiresIn: durationpb.New(-1)}, "unreadable": {ExpiresIn: &durationpb.Duration{Nanos: -5, Seconds: 1}},
		"bad tag": {Tags: []string{"no label"}}, "a relay with tags": {Relay: true, Tags: []string{"web"}}, "hostile owner": {Owner: "a\x1b[2J"},
	} {
		if r, err := create(m); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	list, err := c.admin.ListTokens(t.Context(), connect.NewRequest(&pb.ListTokensRequest{}))
	c.must(err)
	if l := list.Msg.GetTokens(); len(l) != 1 || l[0].GetId() != r.GetToken().GetId() {
		t.Errorf("list %v", l)
	}
	_, err = c.admin.RevokeToken(t.Context(), connect.NewRequest(&pb.RevokeTokenRequest{Id: "nonsense"}))
	if connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("revoking nothing: %v", err)
	}
}

func TestAdminDevices(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	d := c.member(tok, "a")
	c.member(tok, "b")
	for i, which := range []string{"a", d.record.Addresses[0].String(), d.record.Addresses[1].String(), d.key.Public().String()} {
		name := fmt.Sprintf("n%d", i)
		c.rename(which, name)
		if c.list()[name] == nil {
			t.Errorf("%s: renamed to %v", which, c.list())
		}
	}
	for _, name := range []string{"b", "", "Not a label"} {
		_, err := c.admin.RenameDevice(t.Context(), connect.NewRequest(&pb.RenameDeviceRequest{Device: "n3", Name: name}))
		if code := connect.CodeOf(err); code != connect.CodeAlreadyExists && code != connect.CodeInvalidArgument {
			t.Errorf("renamed to %q: %v", name, err)
		}
	}
	_, err := c.admin.ExpireDevice(t.Context(), connect.NewRequest(&pb.ExpireDeviceRequest{Device: "b", At: &timestamppb.Timestamp{Nanos: -1}}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("expiry at no time: %v", err)
	}
	c.remove("n3")
	for _, which := range []string{"n3", "", "nobody", "192.0.2.1", d.key.Public().String(), d.record.Addresses[0].String()} {
		_, err := c.admin.RemoveDevice(t.Context(), connect.NewRequest(&pb.RemoveDeviceRequest{Device: which}))
		if connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("removing %q: %v", which, err)
		}
	}
	status, err := c.admin.ServerStatus(t.Context(), connect.NewRequest(&pb.ServerStatusRequest{}))
	c.must(err)
	if m := status.Msg; m.GetDevices() != 1 || m.GetDevicesOnline() != 0 || m.GetRevision() != c.srv.hub.newest() || m.GetEpoch() != c.srv.network.Epoch {
		t.Errorf("status %v", m)
	}
	_, err = c.admin.RemoveRelay(t.Context(), connect.NewRequest(&pb.RemoveRelayRequest{Name: "coordinator"}))
	if connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("removing the built-in relay: %v", err)
	}
}

// The table of strangers stays small, and one site is one stranger.
func TestLimits(t *testing.T) {
	l := newLimits(func() time.Time { return time.Unix(1, 0) })
	for i := range 3 * maxRemotes {
		if err := l.allow(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		if len(l.by) > maxRemotes {
			t.Fatalf("%d strangers are remembered", len(l.by))
		}
	}
	for remote, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "::ffff:192.0.2.1", "2001:db8::1": "2001:db8::/64", "2001:db8::ffff:0:1": "2001:db8::/64",
		"fe80::1%eth0": "fe80::/64", "nonsense": "nonsense",
	} {
		if got := site(remote); got != want {
			t.Errorf("%s is of %s, want %s", remote, got, want)
		}
	}
}
