package daemon

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"warren/nat/gather"
	"warren/nat/traversal"
	"warren/proto/key"
	"warren/proto/record"
)

func TestMappingFor(t *testing.T) {
	at := func(ports ...uint16) (out []netip.AddrPort) {
		for _, p := range ports {
			out = append(out, netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), p))
		}
		return out
	}
	for name, tc := range map[string]struct {
		m    gather.Mapping
		want traversal.Mapping
	}{
		"nothing known":     {gather.Mapping{}, traversal.MappingUnknown},
		"no NAT":            {gather.Mapping{Behaviour: gather.NoNAT, External: at(5000)}, traversal.MappingIndependent},
		"one address":       {gather.Mapping{Behaviour: gather.EndpointIndependent, External: at(5000)}, traversal.MappingIndependent},
		"far apart":         {gather.Mapping{Behaviour: gather.AddressAndPortDependent, External: at(5000, 41234)}, traversal.MappingDependent},
		"one after another": {gather.Mapping{Behaviour: gather.AddressAndPortDependent, External: at(5000, 5001, 5003)}, traversal.MappingSequential},
		"downwards":         {gather.Mapping{Behaviour: gather.AddressDependent, External: at(5000, 4998)}, traversal.MappingSequential},
		"only some":         {gather.Mapping{Behaviour: gather.AddressAndPortDependent, External: at(5000, 5001, 9000)}, traversal.MappingDependent},
	} {
		if got := mappingFor(tc.m); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
		if got := externalOf(tc.m); got.IsValid() != (len(tc.m.External) > 0) || got.IsValid() && got != tc.m.External[0] {
			t.Errorf("%s: outside at %s", name, got)
		}
	}
}

// TestChanged: whatever two lists are, what has changed makes the one out of the other, and nothing else is told.
func TestChanged(t *testing.T) {
	var keys []key.DevicePublic
	for range 8 {
		keys = append(keys, key.NewDevice().Public())
	}
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		var before, after []*record.Device
		want := map[string]int{} // what is to be told, by kind and device
		for i, k := range keys {
			d := &record.Device{Key: k, Name: fmt.Sprint(i)}
			switch r.IntN(6) {
			case 0:
				before = append(before, d)
				want["gone "+d.Name]++
			case 1:
				after = append(after, d)
				want["put "+d.Name]++
			case 2:
				before, after = append(before, d), append(after, &record.Device{Key: k, Name: d.Name})
				want["put "+d.Name]++
			case 3:
			default:
				before, after = append(before, d), append(after, d)
			}
		}
		gone, put := changed(before, after)
		for _, d := range gone {
			want["gone "+d.Name]--
		}
		for _, d := range put {
			want["put "+d.Name]--
			if !slices.Contains(after, d) {
				t.Errorf("seed %d: %s is put as it was", seed, d.Name)
			}
		}
		for what, n := range want {
			if n != 0 {
				t.Errorf("seed %d: %s is told %d times too seldom", seed, what, n)
			}
		}
	}
}

// TestPacketsBeforeTheSession: the sockets are open before there is anybody to take what is not WireGuard.
func TestPacketsBeforeTheSession(t *testing.T) {
	s := new(session)
	s.onPacket(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddrPort("192.0.2.2:4000"), []byte{0, 1, 0, 0})
}
