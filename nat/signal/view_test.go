package signal

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	pb "warren/proto/warrenv1"
)

var someView = View{
	UDP: pb.Reach_REACH_WORKS, Mapping: pb.Mapping_MAPPING_ENDPOINT_INDEPENDENT, Path: pb.PathKind_PATH_KIND_DIRECT, MTU: 1380,
}

func TestView(t *testing.T) {
	x, y := node(t, 1), node(t, 2)
	from, to := box(t, x, y), box(t, y, x)
	for _, s := range []Signal{
		{Candidates: some.Candidates, View: someView}, {View: someView, Talk: pb.Talk_TALK_TELL}, {Talk: pb.Talk_TALK_ASK},
	} {
		got, err := to.Open(seal(t, from, s), overlay)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s, got, addresses); diff != "" {
			t.Error(diff)
		}
	}
}

// What a view says is taken as far as it has a meaning; what a signal is for must be known.
func TestLyingView(t *testing.T) {
	x, y := node(t, 1), node(t, 2)
	peer := keys(t, y, x)
	us := box(t, x, y)
	for i, tc := range []struct {
		in      *pb.View
		mapping pb.Mapping
		want    View
	}{
		{nil, 0, View{}},
		{&pb.View{Udp: 99, Path: 1 << 30, Mtu: 1 << 31}, -1, View{}},
		{nil, 5, View{}},
		{nil, 1, View{Mapping: pb.Mapping_MAPPING_NONE}},
		{&pb.View{Udp: 2, Path: 3, Mtu: 65535}, 4, View{
			UDP: pb.Reach_REACH_BLOCKED, Mapping: pb.Mapping_MAPPING_ADDRESS_AND_PORT_DEPENDENT, Path: pb.PathKind_PATH_KIND_DIRECT, MTU: 65535}},
		{&pb.View{Udp: 1, Mtu: 65536}, 0, View{UDP: pb.Reach_REACH_WORKS}},
	} {
		got, err := us.Open(forge(t, peer, &pb.Signal{Sequence: uint64(i + 1), View: tc.in, Mapping: tc.mapping}), overlay)
		if err != nil || got.View != tc.want {
			t.Errorf("%v gave %+v, %v", tc.in, got.View, err)
		}
	}
	if _, err := us.Open(forge(t, peer, &pb.Signal{Sequence: 100, Talk: 4}), overlay); !errors.Is(err, ErrFormat) {
		t.Errorf("talk 4: %v", err)
	}
	if _, err := us.Open(forge(t, peer, &pb.Signal{Sequence: 100}), overlay); err != nil {
		t.Errorf("what was refused counted as the last one: %v", err)
	}
}
