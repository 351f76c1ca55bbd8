package daemon

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"warren/coord/client"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// grantsMap is a map of this device, me, with the peers desk of ann, which carries 10.2.0.0/16, gate, which carries 10.2.3.0/24 in it, and lamp, which
// carries all around.
func grantsMap(grants ...*pb.Grant) *known {
	device := func(name, owner string, addrs ...string) *record.Device {
		d := &record.Device{Key: key.NewDevice().Public(), NodeKey: key.NewNode().Public(), Name: name, Owner: owner}
		for _, a := range addrs {
			d.Addresses = append(d.Addresses, netip.MustParseAddr(a))
		}
		return d
	}
	desk, gate := device("desk", "ann", "100.64.0.2", "fd00::2"), device("gate", "", "100.64.0.4")
	desk.Routes, gate.Routes = []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}, []netip.Prefix{netip.MustParsePrefix("10.2.3.0/24")}
	gate.Tags = []string{"gateway"}
	lamp := device("lamp", "", "100.64.0.3")
	lamp.Routes = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	return newKnown(&client.Map{
		Self: device("me", "bob", "100.64.0.1", "fd00::1"), Peers: []*record.Device{desk, gate, lamp},
		Statement: &record.Statement{MapStatement: &pb.MapStatement{Grants: grants}},
	})
}

// grant reads "ID SOURCE DESTINATION PROTOCOL PORT".
func grant(line string) *pb.Grant {
	var id, src, dst string
	var proto, port uint32
	if _, err := fmt.Sscan(line, &id, &src, &dst, &proto, &port); err != nil {
		panic(err)
	}
	wire := func(s string) []*pb.Prefix {
		p := netip.MustParsePrefix(s)
		return []*pb.Prefix{{Address: p.Addr().AsSlice(), Bits: uint32(p.Bits())}}
	}
	return &pb.Grant{Id: id, Sources: wire(src), Destinations: wire(dst), Flows: []*pb.Flow{{Protocol: proto, FirstPort: port, LastPort: port}}}
}

func TestFindFor(t *testing.T) {
	k := grantsMap(grant("web 100.64.0.0/24 100.64.0.2/32 6 443"), grant("ping fd00::2/128 fd00::1/128 58 0"), grant("site 100.64.0.1/32 10.2.0.0/16 6 22"))
	for name, c := range map[string]struct {
		peer, flow string
		want       []string
		code       connect.Code
		err        string
	}{
		"no flow":        {peer: "desk"},
		"an unknown one": {peer: "nobody", code: connect.CodeNotFound, err: `"nobody"`},
		"by name": {peer: "desk", flow: "tcp/443", want: []string{
			"out 100.64.0.1 100.64.0.2 tcp/443 web", "in 100.64.0.2 100.64.0.1 tcp/443 - web", "out fd00::1 fd00::2 tcp/443 -",
			"in fd00::2 fd00::1 tcp/443 - ping",
		}},
		"by address": {peer: "100.64.0.2", flow: "tcp/80", want: []string{
			"out 100.64.0.1 100.64.0.2 tcp/80 - web site", "in 100.64.0.2 100.64.0.1 tcp/80 - web",
		}},
		"ICMP has two numbers": {peer: "desk", flow: "icmp", want: []string{
			"out 100.64.0.1 100.64.0.2 icmp - web site", "in 100.64.0.2 100.64.0.1 icmp - web", "out fd00::1 fd00::2 icmpv6 -", "in fd00::2 fd00::1 icmpv6 ping",
		}},
		"a host behind a gateway": {peer: "10.2.0.9", flow: "tcp/22", want: []string{
			"out 100.64.0.1 10.2.0.9 tcp/22 site", "in 10.2.0.9 100.64.0.1 tcp/22 -",
		}},
		"such a host without a flow":  {peer: "10.2.0.9", code: connect.CodeNotFound, err: `"10.2.0.9"`},
		"an unknown one and a flow":   {peer: "nobody", flow: "icmp", code: connect.CodeNotFound, err: "warren-coordinator why"},
		"no such family":              {peer: "lamp", flow: "icmpv6", code: connect.CodeInvalidArgument, err: "icmpv6"},
		"a range":                     {peer: "desk", flow: "tcp/1-9", code: connect.CodeInvalidArgument, err: "one port at a time"},
		"nonsense about nobody known": {peer: "nobody", flow: "x", code: connect.CodeInvalidArgument, err: `"x"`},
	} {
		peer, answers, err := k.findFor(&pb.WhyRequest{Peer: c.peer, Flow: c.flow}, nil, notUsed)
		if c.err != "" {
			if connect.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.err) || peer != nil || answers != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || peer == nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, a := range answers {
			line := strings.Join([]string{a.GetDirection(), a.GetSource(), a.GetDestination(), a.GetFlow()}, " ") + " "
			if line += strings.Join(a.GetGrants(), ","); len(a.GetGrants()) == 0 {
				line += "-"
			}
			for _, n := range a.GetNearest() {
				line += " " + n.GetGrant()
			}
			got = append(got, line)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if _, _, err := newKnown(nil).findFor(&pb.WhyRequest{Peer: "10.0.0.1", Flow: "icmp"}, nil, notUsed); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("without a map: %v", err)
	}
}
