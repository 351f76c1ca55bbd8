package candidate

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	pb "warren/proto/warrenv1"
)

var overlay = []netip.Prefix{netip.MustParsePrefix("100.70.0.0/16"), netip.MustParsePrefix("fd00:1:2::/48")}

func TestUsable(t *testing.T) {
	for a, want := range map[string]bool{
		"192.168.1.5:51820":      true,
		"100.71.0.1:1":           true,
		"[2001:db8::1]:51820":    true,
		"[fd00:9::1]:51820":      true,
		"192.168.1.5:0":          false,
		"0.0.0.0:1":              false,
		"0.1.2.3:1":              false,
		"127.0.0.1:1":            false,
		"[::1]:1":                false,
		"[::]:1":                 false,
		"224.0.0.1:1":            false,
		"[ff02::1]:1":            false,
		"255.255.255.255:1":      false,
		"169.254.1.1:1":          false,
		"[fe80::1]:1":            false,
		"[fe80::1%eth0]:1":       false,
		"[::ffff:192.168.1.5]:1": false,
		"100.70.3.4:1":           false,
		"[fd00:1:2:3::4]:1":      false,
	} {
		if err := Usable(netip.MustParseAddrPort(a), overlay); (err == nil) != want {
			t.Errorf("Usable(%s) = %v, want ok %v", a, err, want)
		}
	}
	if Usable(netip.AddrPort{}, nil) == nil {
		t.Error("the zero address is usable")
	}
}

func TestRoundTrip(t *testing.T) {
	in := []Candidate{
		{pb.CandidateKind_CANDIDATE_KIND_HOST, netip.MustParseAddrPort("192.168.1.5:51820")},
		{pb.CandidateKind_CANDIDATE_KIND_SERVER_REFLEXIVE, netip.MustParseAddrPort("[2001:db8::1]:65535")},
	}
	out, err := FromProto(ToProto(in), overlay)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, out, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestFromProto(t *testing.T) {
	one := func(addr []byte, port uint32) []*pb.Candidate { return []*pb.Candidate{{Address: addr, Port: port}} }
	for name, tc := range map[string]struct {
		in   []*pb.Candidate
		want int
		ok   bool
	}{
		"none":               {nil, 0, true},
		"good":               {one([]byte{192, 168, 1, 5}, 1), 1, true},
		"twice the same":     {append(one([]byte{192, 168, 1, 5}, 1), one([]byte{192, 168, 1, 5}, 1)...), 1, true},
		"left out: overlay":  {one([]byte{100, 70, 1, 5}, 1), 0, true},
		"left out: loopback": {one([]byte{127, 0, 0, 1}, 1), 0, true},
		"left out: port 0":   {one([]byte{192, 168, 1, 5}, 0), 0, true},
		"port too large":     {one([]byte{192, 168, 1, 5}, 65536), 0, false},
		"short address":      {one([]byte{192, 168, 1}, 1), 0, false},
		"no address":         {one(nil, 1), 0, false},
		"too many":           {make([]*pb.Candidate, Max+1), 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := FromProto(tc.in, overlay)
			if (err == nil) != tc.ok || len(out) != tc.want {
				t.Errorf("%v, %v; want %d, ok %v", out, err, tc.want, tc.ok)
			}
		})
	}
}

func TestSort(t *testing.T) {
	host, seen := pb.CandidateKind_CANDIDATE_KIND_HOST, pb.CandidateKind_CANDIDATE_KIND_SERVER_REFLEXIVE
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:1")
	got := Sort([]Candidate{{seen, b}, {seen, a}, {host, b}, {host, b}})
	want := []Candidate{{host, b}, {seen, a}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}
