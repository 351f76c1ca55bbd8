package server

import (
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"warren/coord/domain"
	pb "warren/proto/warrenv1"
)

func TestExplainAccess(t *testing.T) {
	c := start(t, nil)
	ann, bob := c.token(domain.TokenWish{Reusable: true}), c.token(domain.TokenWish{Owner: "bob", Reusable: true})
	for _, n := range []string{"a1", "a2", "bob"} {
		c.member(ann, n)
	}
	b := c.member(bob, "b1")
	c.member(c.token(domain.TokenWish{Owner: "bob", Tags: []string{"web"}}), "tagged")
	c.set(annsWeb)
	ask := func(src, dst, flow string) ([]string, error) {
		r, err := c.admin.ExplainAccess(t.Context(), connect.NewRequest(&pb.ExplainAccessRequest{Source: src, Destination: dst, Flow: flow}))
		if err != nil {
			return nil, err
		}
		var out []string
		for _, m := range r.Msg.GetAnswers() {
			text := m.GetSource() + ">" + m.GetDestination()
			if m.GetAllowed() {
				text += " " + m.GetGrant()
			} else if len(m.GetNearest()) > 0 {
				text += " not " + strings.Join(m.GetNearest()[0].GetReasons(), " ")
			}
			if !strings.Contains(m.GetText(), "\n") {
				t.Errorf("text %q", m.GetText())
			}
			out = append(out, text)
		}
		return out, nil
	}
	for _, test := range []struct {
		src, dst, flow string
		want           []string
	}{
		{"a1", "b1", "tcp/80", []string{"a1>b1 web"}},
		{"a1", "b1", "tcp:81", []string{"a1>b1 not flow"}},
		{"a1", b.record.Addresses[1].String(), "80", []string{"a1>b1 web"}},
		{b.key.Public().String(), "a1", "icmp", []string{"b1>a1"}},
		{"ann", "bob@", "tcp/80", []string{"a1>b1 web", "a2>b1 web", "bob>b1 web"}},
		{"ann", "bob", "tcp/80", []string{"a1>bob not destination", "a2>bob not destination"}}, // the device of that name
		{"a1", "tagged", "tcp/80", []string{"a1>tagged not destination"}},
	} {
		got, err := ask(test.src, test.dst, test.flow)
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%s to %s, %s: %q, %v; want %q", test.src, test.dst, test.flow, got, err, test.want)
		}
	}
	for what, code := range map[[3]string]connect.Code{
		{"nobody", "a1", "tcp/80"}: connect.CodeNotFound, {"a1", "", "tcp/80"}: connect.CodeNotFound, {"a1", "b1", "x/80"}: connect.CodeInvalidArgument,
		{"a1", "b1", ""}: connect.CodeInvalidArgument,
	} {
		if got, err := ask(what[0], what[1], what[2]); connect.CodeOf(err) != code {
			t.Errorf("%q: %v, %v", what, got, err)
		}
	}
}

// Whose devices a token's are: the caller's, unless it says otherwise.
func TestOwnersOfTokens(t *testing.T) {
	c := start(t, nil)
	for _, test := range []struct {
		req   *pb.CreateTokenRequest
		owner string
		code  connect.Code
	}{
		{&pb.CreateTokenRequest{}, "root", 0},
		{&pb.CreateTokenRequest{Owner: "ann"}, "ann", 0},
		{&pb.CreateTokenRequest{Owner: "ann@"}, "ann", 0},
		{&pb.CreateTokenRequest{Tags: []string{"web"}}, "", 0},
		{&pb.CreateTokenRequest{Relay: true}, "", 0},
		{&pb.CreateTokenRequest{Owner: "group:x"}, "", connect.CodeInvalidArgument},
	} {
		r, err := c.admin.CreateToken(t.Context(), connect.NewRequest(test.req))
		if test.code != 0 {
			if connect.CodeOf(err) != test.code {
				t.Errorf("%v: %v", test.req, err)
			}
			continue
		}
		if err != nil || r.Msg.GetToken().GetOwner() != test.owner {
			t.Errorf("%v: %v, %v", test.req, r, err)
		}
	}
}
