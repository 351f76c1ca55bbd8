package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"warren/coord/domain"
	"warren/coord/policy/compile"
	"warren/proto/cidr"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// Each wrong advertisement is refused with a reason, and what was advertised and approved before stays.
func TestAdvertiseRefused(t *testing.T) {
	c := start(t, func(cfg *Config) { cfg.Prefix4 = prefix("100.70.0.0/16") })
	c.set(routePolicy)
	gw := c.member(c.token(domain.TokenWish{Owner: "bob"}), "gw")
	gw.advertise("10.1.0.0/16", "site:10.2.0.0/16")
	c.approveRoutes("gw", "10.1.0.0/16")
	before, err := gw.apply(setName("gw"))
	c.must(err)
	many := make([]string, cidr.MaxRoutes+1)
	for i := range many {
		many[i] = fmt.Sprintf("10.%d.%d.0/24", i>>8, i&0xff)
	}
	v6 := c.srv.Prefixes()[1]
	raw := func(address []byte, bits uint32) *pb.ApplyBody {
		return &pb.ApplyBody{Change: &pb.ApplyBody_Advertise{Advertise: &pb.Advertise{Routes: []*pb.AdvertisedRoute{{Prefix: &pb.Prefix{Address: address, Bits: bits}}}}}}
	}
	change := func(m *pb.ApplyBody, f func(*pb.AdvertisedRoute)) *pb.ApplyBody {
		f(m.GetAdvertise().GetRoutes()[0])
		return m
	}
	for name, x := range map[string]struct {
		body *pb.ApplyBody
		why  string
		says string
	}{
		"no prefix":             {&pb.ApplyBody{Change: &pb.ApplyBody_Advertise{Advertise: &pb.Advertise{Routes: []*pb.AdvertisedRoute{{}}}}}, whyMalformed, "malformed"},
		"five bytes":            {raw([]byte{1, 2, 3, 4, 5}, 8), whyMalformed, "malformed"},
		"33 bits":               {raw([]byte{10, 0, 0, 0}, 33), whyMalformed, "malformed"},
		"host bits":             {raw([]byte{10, 1, 2, 3}, 16), whyMalformed, "10.1.2.3/16 has bits set beyond its length"},
		"IPv4 in IPv6":          {raw(netip.MustParseAddr("::ffff:10.0.0.0").AsSlice(), 104), whyMalformed, "malformed"},
		"priority 256":          {change(advertise("10.3.0.0/16"), func(r *pb.AdvertisedRoute) { r.Priority = 256 }), whyMalformed, "priority 256"},
		"site and translated":   {change(advertise("10.3.0.0/16"), func(r *pb.AdvertisedRoute) { r.Site, r.Lan = true, prefixMessages("10.4.0.0/16")[0] }), whyMalformed, "cannot be translated"},
		"malformed LAN":         {change(advertise("10.3.0.0/16"), func(r *pb.AdvertisedRoute) { r.Lan = &pb.Prefix{} }), whyMalformed, "LAN of 10.3.0.0/16"},
		"too many":              {advertise(many...), whyMalformed, "1025 CIDRs"},
		"in the overlay":        {advertise("100.70.8.0/24"), whyRoute, "100.70.8.0/24 is in the network's own prefix 100.70.0.0/16"},
		"around the overlay":    {advertise("100.64.0.0/10"), whyRoute, "holds the network's own prefix"},
		"in the IPv6 overlay":   {advertise(netip.PrefixFrom(v6.Addr(), 64).String()), whyRoute, "the network's own prefix"},
		"too wide":              {advertise("10.0.0.0/7"), whyRoute, "too wide"},
		"IPv6 too wide":         {advertise("2000::/3"), whyRoute, "too wide"},
		"loopback":              {advertise("127.0.0.0/8"), whyRoute, "loopback"},
		"twice":                 {advertise("10.3.0.0/16", "10.3.0.0/16"), whyRoute, "twice"},
		"overlapping":           {advertise("10.3.0.0/16", "10.3.4.0/24"), whyRoute, "10.3.4.0/24"},
		"site in advertised":    {advertise("10.3.0.0/16", "site:10.3.4.0/24"), whyRoute, "10.3.4.0/24"},
		"other length":          {advertise("192.168.1.0/24=10.77.0.0/16"), whyRoute, "one length"},
		"other family":          {advertise("192.168.1.0/24=fd77::/24"), whyRoute, "IPv4 and IPv6"},
		"translated to overlay": {advertise("192.168.1.0/24=100.70.1.0/24"), whyRoute, "the network's own prefix"},
		"one good, one bad":     {advertise("10.9.0.0/16", "10.0.0.0/7"), whyRoute, "too wide"},
	} {
		_, err := gw.apply(x.body)
		c.refused(name, err, x.why, connect.CodeInvalidArgument)
		if err == nil || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: %v, want it to say %q", name, err, x.says)
		}
	}
	after, err := gw.apply(setName("gw"))
	c.must(err)
	if after.Version != before.Version {
		t.Errorf("refused advertisements made version %v of %v", after.Version, before.Version)
	}
	c.hasRoutes("gw 10.1.0.0/16 approved by root; gw 10.2.0.0/16 waiting")
	// A refusal by the domain uses its number up, as any change does.
	bad := advertise("10.0.0.0/7")
	bad.Sequence = gw.sequence + 1
	_, err = gw.sendApply(bad)
	c.refused("too wide", err, whyRoute, connect.CodeInvalidArgument)
	good := advertise()
	good.Sequence = bad.Sequence
	_, err = gw.sendApply(good)
	c.refused("the same number", err, "sequence", connect.CodeAborted)
	gw.sequence++
	c.expire("gw", nil)
	_, err = gw.apply(advertise())
	c.refused("an expired device", err, "expired", connect.CodePermissionDenied)
	c.remove("gw")
	_, err = gw.apply(advertise())
	c.refused("a removed device", err, "removed", connect.CodePermissionDenied)
	c.hasRoutes("")
}

// What an administrator asks for and cannot be is refused as a whole.
func TestRulingsRefused(t *testing.T) {
	c := start(t, nil)
	c.member(c.token(domain.TokenWish{}), "gw").advertise("10.1.0.0/16")
	c.member(c.token(domain.TokenWish{}), "pc")
	overlay := c.srv.Prefixes()[0].String()
	for name, x := range map[string]struct {
		revoke   bool
		device   string
		prefixes []*pb.Prefix
		code     connect.Code
		says     string
	}{
		"unknown device":           {false, "nonesuch", nil, connect.CodeNotFound, `"nonesuch"`},
		"no device":                {false, "", nil, connect.CodeNotFound, `""`},
		"nothing waits":            {false, "pc", nil, connect.CodeNotFound, "pc advertises nothing that waits"},
		"nothing to revoke":        {true, "pc", nil, connect.CodeNotFound, "pc advertises nothing"},
		"revoking what is not":     {true, "gw", prefixMessages("10.1.0.0/16", "10.2.0.0/16"), connect.CodeNotFound, "gw neither advertises 10.2.0.0/16"},
		"overlay":                  {false, "gw", prefixMessages("10.1.0.0/16", overlay), connect.CodeInvalidArgument, "the network's own prefix"},
		"too wide":                 {false, "gw", prefixMessages("10.1.0.0/16", "0.0.0.0/1"), connect.CodeInvalidArgument, "too wide"},
		"malformed":                {false, "gw", []*pb.Prefix{{Address: []byte{10, 1, 0, 1}, Bits: 16}}, connect.CodeInvalidArgument, "10.1.0.1/16"},
		"more than a device holds": {false, "gw", make([]*pb.Prefix, record.MaxRoutes+1), connect.CodeInvalidArgument, "1025"},
	} {
		var err error
		if x.revoke {
			_, err = c.admin.RevokeRoutes(t.Context(), connect.NewRequest(&pb.RevokeRoutesRequest{Device: x.device, Prefixes: x.prefixes}))
		} else {
			_, err = c.admin.ApproveRoutes(t.Context(), connect.NewRequest(&pb.ApproveRoutesRequest{Device: x.device, Prefixes: x.prefixes}))
		}
		if connect.CodeOf(err) != x.code || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: %v, want code %v and %q", name, err, x.code, x.says)
		}
	}
	_, err := c.admin.ListRoutes(t.Context(), connect.NewRequest(&pb.ListRoutesRequest{Device: "nonesuch"}))
	if connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("routes of an unknown device: %v", err)
	}
	c.hasRoutes("gw 10.1.0.0/16 waiting")
}

// A change of routes that is not committed leaves no trace: neither in the database, nor in what anybody is told later.
func TestRoutesUndone(t *testing.T) {
	c := start(t, nil)
	c.set(routePolicy)
	ann, gw := c.member(c.token(domain.TokenWish{Owner: "ann"}), "laptop"), c.member(c.token(domain.TokenWish{Owner: "bob"}), "gw")
	gw.advertise("10.1.0.0/16", "10.9.0.0/16")
	c.approveRoutes("gw", "10.1.0.0/16")
	user, gate := ann.watch(0, 0), gw.watch(0, 0)
	user.usesRoutes("10.1.0.0/16 gw 100")
	gate.waitsFor("10.9.0.0/16")
	approves, err := policyWith(`"autoApprovers": {"routes": {"10.9.0.0/16": ["bob"]}}`)
	c.must(err)
	for what, change := range map[string]func(*batch, *domain.Device) error{
		"approval": func(b *batch, d *domain.Device) error {
			next, err := domain.RuleRoutes(&c.srv.network, d, []netip.Prefix{prefix("10.9.0.0/16")}, true, "root", c.now())
			return errors.Join(err, b.put(next))
		},
		"advertisement": func(b *batch, d *domain.Device) error {
			next := *d
			next.Advertised = d.Advertised[:1]
			return b.put(&next)
		},
		"policy": func(b *batch, _ *domain.Device) error { b.policy = approves; return nil },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		err := c.srv.commit(ctx, func(b *batch) error {
			d, err := b.find("gw")
			c.must(err)
			err = change(b, d)
			cancel() // the database refuses from here on
			return err
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
		c.hasRoutes("gw 10.1.0.0/16 approved by root; gw 10.9.0.0/16 waiting")
		c.rename("laptop", "pc") // for another statement of the gateway, which itself stays as it was
		gate.sees("gw", "pc")
		if got := gate.waiting(); got != "10.9.0.0/16" {
			t.Errorf("%s: the gateway is told that %q waits", what, got)
		}
		c.rename("pc", "laptop")
		gate.sees("gw", "laptop")
		c.rename("gw", "x")
		user.usesRoutes("10.1.0.0/16 x 100")
		gate.waitsFor("10.9.0.0/16")
		c.rename("x", "gw")
		user.usesRoutes("10.1.0.0/16 gw 100")
	}
	c.restart()
	c.hasRoutes("gw 10.1.0.0/16 approved by root; gw 10.9.0.0/16 waiting")
}

// More routes than a map holds do not take the others away, nor the grants.
func TestMoreRoutesThanFit(t *testing.T) {
	dir := compile.Directory{Prefixes: []netip.Prefix{prefix("100.64.0.0/16")}}
	for i := range 17 {
		d := compile.Device{ID: compile.ID{byte(i + 1)}, Name: fmt.Sprintf("gw%d", i), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{100, 64, 1, byte(i)})}}
		for j := range cidr.MaxRoutes {
			d.Routes = append(d.Routes, netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 9, byte(i), 3: byte(j >> 8), 4: byte(j)}), 64))
		}
		dir.Devices = append(dir.Devices, d)
	}
	dir.Devices = append(dir.Devices, compile.Device{ID: compile.ID{99}, Name: "laptop", Owner: "ann", Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.9")}})
	p, err := policyWith(`"grants": [{"src": ["ann"], "dst": ["fd09::/16"], "ip": ["*"]}]`)
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, nil)
	compiled := compile.New(p, dir, c.now())
	told := toldBy(compiled.View(compile.ID{99}), anyPriority)
	if !told.fit || len(told.grants) == 0 || told.leftOut == 0 || len(told.routes)+told.leftOut != 17*cidr.MaxRoutes || told.size() > maxTold {
		t.Errorf("%d grants, %d routes, %d left out, %d bytes, fit: %v", len(told.grants), len(told.routes), told.leftOut, told.size(), told.fit)
	}
	if why := c.srv.tooLarge(compiled, dir); !strings.Contains(why, "and 17408 routes that concern the device laptop") {
		t.Errorf("too large: %q", why)
	}
	signed, err := c.srv.statement(key.NewDevice().Public(), view{told: told})
	c.must(err)
	var m pb.MapStatement
	if err := proto.Unmarshal(signed.GetPayload(), &m); err != nil || len(m.GetRoutes()) != len(told.routes) {
		t.Errorf("a statement of %d routes, %v", len(m.GetRoutes()), err)
	}
}
