package server

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"warren/coord/domain"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// routePolicy lets ann reach the office, whose gateways may carry it without approval if they have the tag, and use exit nodes.
const routePolicy = `{
	"tagOwners": {"tag:gate": ["ann"], "tag:exit": ["ann"]},
	"autoApprovers": {"routes": {"10.9.0.0/16": ["tag:gate"]}, "exitNode": ["tag:exit"]},
	"grants": [
		{"name": "office", "src": ["ann"], "dst": ["10.1.0.0/16", "10.9.0.0/16"], "ip": ["*"]},
		{"name": "out", "src": ["ann"], "dst": ["autogroup:internet"], "ip": ["*"]},
	],
}`

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func prefixMessages(texts ...string) (out []*pb.Prefix) {
	for _, s := range texts {
		out = append(out, record.PrefixToProto(prefix(s)))
	}
	return out
}

// advertise makes the change that says that the device carries CIDRs; "site:" and "N@" before one say how, and "=" behind it translates.
func advertise(texts ...string) *pb.ApplyBody {
	m := &pb.Advertise{}
	for _, s := range texts {
		r := &pb.AdvertisedRoute{}
		if before, after, ok := strings.Cut(s, "@"); ok {
			fmt.Sscan(before, &r.Priority)
			s = after
		}
		s, r.Site = strings.CutPrefix(s, "site:")
		if lan, prefix, ok := strings.Cut(s, "="); ok {
			r.Lan, s = prefixMessages(lan)[0], prefix
		}
		r.Prefix = prefixMessages(s)[0]
		m.Routes = append(m.Routes, r)
	}
	return &pb.ApplyBody{Change: &pb.ApplyBody_Advertise{Advertise: m}}
}

func (d *device) advertise(texts ...string) *record.Device {
	d.c.Helper()
	r, err := d.apply(advertise(texts...))
	d.c.must(err)
	return r
}

func (c *coordinator) approveRoutes(device string, prefixes ...string) []*pb.Route {
	c.Helper()
	r, err := c.admin.ApproveRoutes(c.Context(), connect.NewRequest(&pb.ApproveRoutesRequest{Device: device, Prefixes: prefixMessages(prefixes...)}))
	c.must(err)
	return r.Msg.GetRoutes()
}

func (c *coordinator) revokeRoutes(device string, prefixes ...string) []*pb.Route {
	c.Helper()
	r, err := c.admin.RevokeRoutes(c.Context(), connect.NewRequest(&pb.RevokeRoutesRequest{Device: device, Prefixes: prefixMessages(prefixes...)}))
	c.must(err)
	return r.Msg.GetRoutes()
}

func prefixText(m *pb.Prefix) string {
	p, err := record.PrefixFromProto(m)
	if err != nil {
		return err.Error()
	}
	return p.String()
}

// routes tells each route in one line, as "gw 10.1.0.0/16 approved by root".
func (c *coordinator) routes(device string) string {
	c.Helper()
	r, err := c.admin.ListRoutes(c.Context(), connect.NewRequest(&pb.ListRoutesRequest{Device: device}))
	c.must(err)
	return routeTexts(r.Msg.GetRoutes())
}

func routeTexts(routes []*pb.Route) string {
	var out []string
	for _, r := range routes {
		text := fmt.Sprintf("%s %s %s", r.GetDevice(), prefixText(r.GetPrefix()), r.GetState())
		if r.GetBy() != "" {
			text += " by " + r.GetBy()
		}
		if !r.GetAdvertised() {
			text += ", not advertised"
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

func (c *coordinator) hasRoutes(want string) {
	c.Helper()
	if got := c.routes(""); got != want {
		c.Errorf("routes: %s\nwant: %s", got, want)
	}
}

// mapRoutes tells the routes of the newest statement, as "10.1.0.0/16 gw 100".
func (f *follower) mapRoutes() string {
	var out []string
	for _, r := range f.statement.GetRoutes() {
		name := "?"
		if d := f.peers[rawKey(r.GetGatewayKey())]; d != nil {
			name = d.Name
		}
		out = append(out, fmt.Sprintf("%s %s %d", prefixText(r.GetPrefix()), name, r.GetPriority()))
	}
	return strings.Join(out, "; ")
}

func (f *follower) waiting() string {
	var out []string
	for _, p := range f.statement.GetWaitingRoutes() {
		out = append(out, prefixText(p))
	}
	return strings.Join(out, " ")
}

func (f *follower) usesRoutes(want string) {
	f.d.c.Helper()
	f.until("using the routes "+want, func() bool {
		return f.statement != nil && f.statement.GetRevision() == f.revision && f.mapRoutes() == want
	})
}

func (f *follower) waitsFor(want string) {
	f.d.c.Helper()
	f.until("waiting for "+want, func() bool { return f.statement != nil && f.waiting() == want })
}

// What a device advertises waits until somebody approves it, and is then in the maps of those who may use it.
func TestRoutes(t *testing.T) {
	c := start(t, nil)
	c.set(routePolicy)
	ann, bob := c.member(c.token(domain.TokenWish{Owner: "ann"}), "laptop"), c.member(c.token(domain.TokenWish{Owner: "bob"}), "gw")
	user, gate := ann.watch(0, 0), bob.watch(0, 0)
	user.sees("laptop")
	gate.sees("gw")

	first := bob.advertise("10.1.0.0/16", "site:10.2.0.0/16")
	gate.waitsFor("10.1.0.0/16 10.2.0.0/16")
	if len(first.Routes) > 0 || first.Version != bob.record.Version {
		t.Errorf("unapproved routes are in the record: %+v", first)
	}
	c.hasRoutes("gw 10.1.0.0/16 waiting; gw 10.2.0.0/16 waiting")
	if got := routeTexts(c.approveRoutes("gw", "10.1.0.0/16")); got != "gw 10.1.0.0/16 approved by root" {
		t.Errorf("approved: %s", got)
	}
	user.sees("gw", "laptop")
	user.usesRoutes("10.1.0.0/16 gw 100")
	gate.sees("gw", "laptop")
	gate.waitsFor("10.2.0.0/16")
	if got := user.peers[bob.key.Public().Raw()].Routes; !slices.Equal(got, []netip.Prefix{prefix("10.1.0.0/16")}) {
		t.Errorf("the record has routes %v", got)
	}
	if same := bob.advertise("site:10.2.0.0/16", "10.1.0.0/16"); same.Version != gate.peers[bob.key.Public().Raw()].Version {
		t.Errorf("told again: version %v", same.Version)
	}
	bob.advertise("200@10.1.0.0/16")
	user.usesRoutes("10.1.0.0/16 gw 200")
	gate.waitsFor("")
	c.revokeRoutes("gw")
	user.sees("laptop")
	gate.waitsFor("10.1.0.0/16")
	c.hasRoutes("gw 10.1.0.0/16 revoked by root")
	c.approveRoutes("gw", "10.1.0.0/16")
	user.usesRoutes("10.1.0.0/16 gw 200")
	bob.advertise()
	user.sees("laptop")
	c.hasRoutes("gw 10.1.0.0/16 approved by root, not advertised")
}
