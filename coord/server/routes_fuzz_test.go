package server

import (
	"net/netip"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"warren/coord/domain"
	"warren/proto/cidr"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// FuzzAdvertise has a device advertise whatever parses. What is accepted keeps to the demands of package cidr, is kept in order, and waits.
func FuzzAdvertise(f *testing.F) {
	for _, m := range []*pb.ApplyBody{advertise("10.1.0.0/16", "site:10.2.0.0/16"), advertise("7@192.168.1.0/24=10.77.1.0/24"), advertise("0.0.0.0/0", "::/0"), advertise()} {
		b, err := proto.Marshal(m.GetAdvertise())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	n := &domain.Network{Generation: 1, Prefixes: []netip.Prefix{prefix("100.64.0.0/16"), prefix("fd00:1:2::/48")}}
	never := func(netip.Prefix) bool { return false }
	f.Fuzz(func(t *testing.T, b []byte) {
		var m pb.Advertise
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		list, err := advertisedFrom(&m)
		if err != nil {
			return
		}
		d := &domain.Device{}
		d.Key = key.NewDevice().Public()
		next, err := domain.ApplySelf(n, d, domain.SelfChange{By: d.Key, Sequence: 1, Advertise: true, Routes: list}, domain.Taken{}, d.CreatedAt)
		if err != nil {
			return
		}
		next = domain.Settle(n, d, next, never, d.CreatedAt)
		var routes []cidr.Route
		for _, a := range next.Advertised {
			routes = append(routes, a.Route)
			if a.Priority == 0 {
				t.Errorf("%s has no priority", a.Prefix)
			}
		}
		if err := cidr.CheckAll(routes, n.Prefixes); err != nil || len(routes) != len(m.GetRoutes()) {
			t.Errorf("%d of %d routes accepted: %v", len(routes), len(m.GetRoutes()), err)
		}
		if len(next.WaitingRoutes()) != len(routes) || len(next.Routes) > 0 || next.Version != d.Version {
			t.Errorf("without approval: %+v", next)
		}
		all := func(netip.Prefix) bool { return true }
		carried := domain.Settle(n, next, next, all, d.CreatedAt)
		if len(carried.Routes) != len(routes) || !slices.IsSortedFunc(carried.Routes, netip.Prefix.Compare) || len(routes) > 0 && carried.Version == next.Version {
			t.Errorf("approved: %+v", carried)
		}
	})
}
