package daemon

import (
	"net/netip"
	"testing"

	"warren/nat/gather"
	"warren/nat/traversal"
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
