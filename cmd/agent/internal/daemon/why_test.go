package daemon

import (
	"testing"
	"time"

	"warren/nat/gather"
	"warren/nat/signal"
	pb "warren/proto/warrenv1"
)

func TestOwnView(t *testing.T) {
	const works, blocked = pb.Reach_REACH_WORKS, pb.Reach_REACH_BLOCKED
	silent, answered := gather.ServerReport{}, gather.ServerReport{At: time.Unix(1, 0)}
	for name, tc := range map[string]struct {
		report gather.Report
		want   signal.View
	}{
		"nothing yet":       {gather.Report{}, signal.View{}},
		"asking":            {gather.Report{Servers: []gather.ServerReport{silent}}, signal.View{}},
		"no servers":        {gather.Report{Whole: true}, signal.View{}},
		"silence":           {gather.Report{Whole: true, Servers: []gather.ServerReport{silent, silent}}, signal.View{UDP: blocked}},
		"one answers":       {gather.Report{Whole: true, Servers: []gather.ServerReport{silent, answered}}, signal.View{UDP: works}},
		"before the others": {gather.Report{Servers: []gather.ServerReport{answered, silent}}, signal.View{UDP: works}},
		"IPv4 counts more": {gather.Report{IPv4: gather.Mapping{Behaviour: gather.AddressDependent}, IPv6: gather.Mapping{Behaviour: gather.NoNAT}},
			signal.View{Mapping: pb.Mapping_MAPPING_ADDRESS_DEPENDENT}},
		"IPv6 only": {gather.Report{IPv6: gather.Mapping{Behaviour: gather.NoNAT}}, signal.View{Mapping: pb.Mapping_MAPPING_NONE}},
	} {
		if got := ownView(tc.report); got != tc.want {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
	for b := gather.Unknown; b <= gather.AddressAndPortDependent; b++ {
		want := map[string]string{"unknown": "unknown", "no NAT": "none"}[b.String()]
		if want == "" {
			want = b.String()
		}
		if got := word(mappingOf(gather.Mapping{Behaviour: b}).String(), "MAPPING_"); got != want {
			t.Errorf("%s is told as %q", b, got)
		}
	}
}
