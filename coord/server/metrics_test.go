package server

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/coord/domain"
	"warren/coord/store"
	"warren/proto/record"
)

// TestRouteStates: a CIDR counts by how many of its gateways are online, whatever else those carry.
func TestRouteStates(t *testing.T) {
	h := newHub(nil)
	add := func(id byte, online, removed bool, cidrs ...string) {
		d := &store.Device{Device: domain.Device{Device: record.Device{Removed: removed}}}
		for _, c := range cidrs {
			d.Routes = append(d.Routes, netip.MustParsePrefix(c))
		}
		h.devices[rawKey{id}] = d
		if online {
			h.watches[rawKey{id}] = new(watch)
		}
	}
	if got := h.routeStates(); len(got) != 0 {
		t.Errorf("without gateways: %v", got)
	}
	add(1, true, false, "10.1.0.0/16", "10.2.0.0/16", "10.4.0.0/16")
	add(2, true, false, "10.1.0.0/16", "10.3.0.0/16")
	add(3, false, false, "10.2.0.0/16", "10.5.0.0/16", "10.6.0.0/16")
	add(4, false, false, "10.6.0.0/16")
	add(5, true, true, "10.5.0.0/16", "10.7.0.0/16")
	add(6, true, false)
	want := map[string]int{routeRedundant: 1, routeSingle: 2, routeLastOne: 1, routeDown: 2}
	if diff := cmp.Diff(want, h.routeStates()); diff != "" {
		t.Error(diff)
	}
}
