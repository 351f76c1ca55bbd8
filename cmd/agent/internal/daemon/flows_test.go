package daemon

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
	"warren/tunnel/flowlog"
)

func TestFlowQuery(t *testing.T) {
	now, s := time.Unix(1_800_000_000, 0), new(session)
	k := grantsMap()
	s.known.Store(k)
	for name, c := range map[string]struct {
		m    *pb.FlowsRequest
		s    *session
		want flowlog.Query
		err  string
	}{
		"nothing": {m: &pb.FlowsRequest{}},
		"all": {
			m:    &pb.FlowsRequest{Kinds: []string{"new", "ended"}, Peer: "desk", User: "ann", Grant: "web", Flow: "tcp/443", Since: durationpb.New(time.Minute)},
			s:    s,
			want: flowlog.Query{Kinds: []string{"new", "ended"}, Device: "desk", User: "ann", Grant: "web", Protocol: "tcp", Port: 443, Since: now.Add(-time.Minute)},
		},
		"a peer by address":      {m: &pb.FlowsRequest{Peer: "100.64.0.2"}, s: s, want: flowlog.Query{Device: "desk"}},
		"a peer by key":          {m: &pb.FlowsRequest{Peer: k.m.Peers[1].NodeKey.String()}, s: s, want: flowlog.Query{Device: "gate"}},
		"a peer that left":       {m: &pb.FlowsRequest{Peer: "old"}, s: s, want: flowlog.Query{Device: "old"}},
		"a peer without session": {m: &pb.FlowsRequest{Peer: "desk"}, want: flowlog.Query{Device: "desk"}},
		"a protocol":             {m: &pb.FlowsRequest{Flow: "udp"}, want: flowlog.Query{Protocol: "udp"}},
		"another name":           {m: &pb.FlowsRequest{Flow: "ipip"}, want: flowlog.Query{Protocol: "ip-in-ip"}},
		"ICMP":                   {m: &pb.FlowsRequest{Flow: "icmp"}, want: flowlog.Query{Protocol: "icmp"}},
		"a kind that is none":    {m: &pb.FlowsRequest{Kinds: []string{"new", "old"}}, err: `"old": there are live, new`},
		"a flow that is none":    {m: &pb.FlowsRequest{Flow: "tcp/1-5"}, err: "one port"},
		"a time to come":         {m: &pb.FlowsRequest{Since: durationpb.New(-1)}, err: "gone by"},
		"no time":                {m: &pb.FlowsRequest{Since: durationpb.New(0)}, err: "gone by"},
	} {
		got, err := flowQuery(c.m, c.s, now)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if diff := cmp.Diff(&c.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

// TestFlowList keeps the newest of those that are wanted, in order of time, and counts the others.
func TestFlowList(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		l, at, wanted := flowList{query: &flowlog.Query{Kinds: []string{"new", "omitted"}}, limit: 1 + rng.IntN(20)}, time.Unix(1_800_000_000, 0), 0
		order := rng.Perm(rng.IntN(100))
		var list []flowlog.Record
		for _, n := range order {
			r := flowlog.Record{Kind: []string{"new", "omitted", "ended"}[n%3], At: at, Last: at.Add(time.Duration(n))}
			if n%3 == 1 {
				r.At, r.Last = r.Last, time.Time{}
			}
			if n%3 < 2 {
				wanted++
			}
			list = append(list, r)
		}
		l.addAll(list)
		got := l.newest()
		if len(got) != min(l.limit, wanted) || int(l.leftOut)+len(got) != wanted {
			t.Fatalf("seed %d: %d records and %d left out of %d, limit %d", seed, len(got), l.leftOut, wanted, l.limit)
		}
		next := len(order)
		for i := len(got) - 1; i >= 0; i-- { // each the newest of those before it
			for next--; next%3 == 2; next-- {
			}
			if moment(&got[i]) != at.Add(time.Duration(next)) {
				t.Fatalf("seed %d: record %d is of %v, want %d", seed, i, moment(&got[i]).Sub(at), next)
			}
		}
	}
}

// TestFormer: who left is remembered, and what is remembered is bounded.
func TestFormer(t *testing.T) {
	s, k := new(session), grantsMap()
	desk := k.m.Peers[0]
	s.known.Store(k)
	if got := s.resolve(desk.Key.Raw()); got.Device != "desk" || got.User != "ann" {
		t.Errorf("%+v", got)
	}
	s.former.add(k.m.Peers[:1])
	s.known.Store(newKnown(nil))
	if got := s.resolve(desk.Key.Raw()); got.Device != "desk" || got.User != "ann" {
		t.Errorf("after it left: %+v", got)
	}
	if got := s.resolve(k.m.Peers[1].Key.Raw()); got.Device != "" {
		t.Errorf("one that was never told: %+v", got)
	}
	for n := range 3 * maxFormer {
		raw := [key.Size]byte{byte(n), byte(n >> 8), 1}
		d := &record.Device{Name: fmt.Sprint("d", n)}
		var err error
		if d.Key, err = key.DevicePublicFromBytes(raw[:]); err != nil {
			t.Fatal(err)
		}
		if s.former.add([]*record.Device{d}); len(s.former.list) > maxFormer || s.resolve(raw).Device != d.Name {
			t.Fatalf("%d are remembered, the last as %+v", len(s.former.list), s.resolve(raw))
		}
	}
}
