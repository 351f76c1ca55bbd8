package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "warren/proto/warrenv1"
)

func TestPrintRoutes(t *testing.T) {
	self := &pb.Self{Name: "gate"}
	for name, c := range map[string]struct {
		s    *pb.StatusResponse
		want string
	}{
		"nothing": {&pb.StatusResponse{}, ""},
		"kill switch": {&pb.StatusResponse{KillSwitch: true, Exit: &pb.ExitStatus{Wanted: "auto", Node: "out", Ipv4: true, Ipv6: true}},
			"kill switch on: nothing leaves this host but through the tunnel\nexit node out (chosen)\n"},
		"one approved": {&pb.StatusResponse{Self: self, Advertised: []*pb.AdvertisedStatus{
			{Prefix: "10.1.0.0/16", Kind: "site", State: "approved", Health: "working", Probe: "10.1.0.1"},
		}}, `
ADVERTISED   KIND  STATE     LAN
10.1.0.0/16  site  approved  working (10.1.0.1, -)
`},
		"one waits": {&pb.StatusResponse{Self: self, Advertised: []*pb.AdvertisedStatus{
			{Prefix: "10.1.0.0/16", Kind: "site", State: "waiting", Health: "unknown"},
		}}, `
ADVERTISED   KIND  STATE    LAN
10.1.0.0/16  site  waiting  unknown
10.1.0.0/16 waits for approval: an administrator runs "warren-coordinator route approve gate"
`},
		"several wait": {&pb.StatusResponse{Self: self, Advertised: []*pb.AdvertisedStatus{
			{Prefix: "10.1.0.0/16", Kind: "site", State: "waiting", Health: "unknown"},
			{Prefix: "10.77.1.0/24", Lan: "192.168.1.0/24", Kind: "translated", State: "waiting", Health: "failing"},
			{Prefix: "10.2.0.0/16", Kind: "masqueraded", State: "untold", Health: "unknown"},
		}}, `
ADVERTISED                      KIND         STATE    LAN
10.1.0.0/16                     site         waiting  unknown
192.168.1.0/24 as 10.77.1.0/24  translated   waiting  failing
10.2.0.0/16                     masqueraded  untold   unknown
10.1.0.0/16, 10.77.1.0/24 wait for approval: an administrator runs "warren-coordinator route approve gate"
`},
		"routes of others": {&pb.StatusResponse{Routes: []*pb.RouteStatus{
			{Prefix: "10.1.0.0/16", Use: "tunnel", Gateway: "b", Gateways: []*pb.GatewayStatus{
				{Name: "b", Health: "working"}, {Name: "a", Health: "silent"}, {Name: "c", Health: "no LAN"},
			}},
			{Prefix: "10.2.0.0/16", Use: "lan", Gateway: "d", Reason: "--prefer-lan 10.0.0.0/8 says so", Gateways: []*pb.GatewayStatus{{Name: "d", Health: "unknown"}}},
			{Prefix: "10.3.0.0/16", Use: "refused", Gateways: []*pb.GatewayStatus{{Name: "a", Health: "unknown"}}},
			{Prefix: "fd00::/48", Use: "none"},
		}}, `
ROUTE        USE                                    GATEWAY  HEALTH   OTHERS
10.1.0.0/16  tunnel                                 b        working  a (silent), c (no LAN)
10.2.0.0/16  lan (--prefer-lan 10.0.0.0/8 says so)  d        unused   -
10.3.0.0/16  refused                                -        -        a (unused)
fd00::/48    none                                   -        -        -
`},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			if err := printRoutes(&out, c.s); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, out.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestHealthText(t *testing.T) {
	long := timestamppb.New(time.Now().Add(-time.Hour))
	for want, g := range map[string]*pb.GatewayStatus{
		"working": {Health: "working", Answered: long}, "silent": {Health: "silent"}, "no LAN": {Health: "no LAN"}, "unused": {Health: "unknown"},
		"unused, answered 1h0m0s ago": {Health: "unknown", Answered: long},
	} {
		if got := healthText(g); got != want {
			t.Errorf("%v: %q, want %q", g, got, want)
		}
	}
}

func TestExitText(t *testing.T) {
	for want, e := range map[string]*pb.ExitStatus{
		"exit node out": {Wanted: "out", Node: "out", Ipv4: true, Ipv6: true},
		"exit node out (chosen), IPv4 only: IPv6 is refused":   {Wanted: "auto", Node: "out", Ipv4: true},
		"exit node out, IPv6 only: IPv4 is refused":            {Wanted: "out", Node: "out", Ipv6: true},
		"exit node out; networks of this host stay reachable":  {Wanted: "out", Node: "out", Ipv4: true, Ipv6: true, AllowLan: true},
		"exit node out; no DNS":                                {Wanted: "out", Node: "out", Ipv4: true, Ipv6: true, Problem: "no DNS"},
		`exit node nowhere: none: no peer is called "nowhere"`: {Wanted: "nowhere", Problem: `no peer is called "nowhere"`},
	} {
		if diff := cmp.Diff(want, exitText(e)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// TestRoutesJSON: what scripts read has every list, also an empty one, and times as RFC 3339 has them.
func TestRoutesJSON(t *testing.T) {
	at := timestamppb.New(time.Date(2026, 11, 26, 8, 0, 0, 0, time.UTC))
	for want, v := range map[string]any{
		`[]`:   routesView(nil),
		`null`: exitView(nil),
		`[{"prefix":"10.1.0.0/16","use":"none","gateways":[]}]`: routesView([]*pb.RouteStatus{{Prefix: "10.1.0.0/16", Use: "none"}}),
		`[{"prefix":"10.1.0.0/16","use":"lan","gateway":"b","gateways":[{"name":"b","priority":200,"health":"working","rtt_ms":1.5,"since":"2026-11-26T08:00:00Z","answered":"2026-11-26T08:00:00Z"},` +
			`{"name":"a","priority":100,"health":"unknown"}],"reason":"why","interface":"eth0"}]`: routesView([]*pb.RouteStatus{{
			Prefix: "10.1.0.0/16", Use: "lan", Gateway: "b", Reason: "why", Interface: "eth0", Gateways: []*pb.GatewayStatus{
				{Name: "b", Priority: 200, Health: "working", RttMs: 1.5, Since: at, Answered: at}, {Name: "a", Priority: 100, Health: "unknown"},
			},
		}}),
		`[{"prefix":"10.77.1.0/24","lan":"192.168.1.0/24","kind":"translated","state":"approved","health":"working","probe":"10.77.1.1",` +
			`"answered":"2026-11-26T08:00:00Z","priority":100}]`: advertisedView([]*pb.AdvertisedStatus{{
			Prefix: "10.77.1.0/24", Lan: "192.168.1.0/24", Kind: "translated", State: "approved", Health: "working", Probe: "10.77.1.1", Answered: at, Priority: 100,
		}}),
		`{"wanted":"auto","node":"out","allow_lan":true,"ipv4":true,"ipv6":false}`: exitView(&pb.ExitStatus{Wanted: "auto", Node: "out", AllowLan: true, Ipv4: true}),
	} {
		got, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}
