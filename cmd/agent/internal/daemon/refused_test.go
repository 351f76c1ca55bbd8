package daemon

import (
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"warren/cmd/internal/flowview"
	"warren/coord/client"
	pb "warren/proto/warrenv1"
	"warren/tunnel/flowlog"
)

// TestRefusedFlows: nothing but what was refused leaves the device, the newest of it, and as far back as was asked.
func TestRefusedFlows(t *testing.T) {
	now := time.Unix(1_800_000_000, 0).UTC()
	at := func(minutes int) time.Time { return now.Add(time.Duration(minutes) * time.Minute) }
	refused := func(minutes int) flowlog.Record {
		return flowlog.Record{At: at(minutes), Last: at(minutes), Kind: flowlog.Refused, Device: "desk", Protocol: "tcp", ReceivedPackets: 1, Flows: 1}
	}
	omitted := flowlog.Record{
		At: at(-30), Kind: flowlog.Omitted, Device: "gate", Tags: []string{"gateway"}, OmittedNew: 1, OmittedEnded: 2, OmittedRefused: 3, SentPackets: 4, SentBytes: 5,
		ReceivedPackets: 6, ReceivedBytes: 7,
	}
	s := &session{cfg: sessionConfig{Config: Config{Now: func() time.Time { return now }}, flows: flowlog.NewLog(slog.New(slog.DiscardHandler))}}
	s.cfg.flows.Publish([]flowlog.Record{
		refused(-90), {Kind: flowlog.New, At: at(-50), Device: "secret"}, omitted, {Kind: flowlog.Omitted, At: at(-20), Device: "secret", OmittedNew: 5},
		{Kind: flowlog.Ended, At: at(-15), Device: "secret"}, refused(-10), refused(-5),
	})
	told := &pb.FlowRecord{At: flowview.ToWire(&omitted).At, Kind: "omitted", Device: "gate", Tags: []string{"gateway"}, OmittedRefused: 3}
	flow := func(minutes int) *pb.FlowRecord { r := refused(minutes); return flowview.ToWire(&r) }
	for name, c := range map[string]struct {
		wanted client.FlowsWanted
		want   client.RefusedFlows
	}{
		"all":      {client.FlowsWanted{Limit: 100}, client.RefusedFlows{Flows: []*pb.FlowRecord{flow(-90), told, flow(-10), flow(-5)}}},
		"an hour":  {client.FlowsWanted{Limit: 100, Since: time.Hour}, client.RefusedFlows{Flows: []*pb.FlowRecord{told, flow(-10), flow(-5)}}},
		"two":      {client.FlowsWanted{Limit: 2}, client.RefusedFlows{Flows: []*pb.FlowRecord{flow(-10), flow(-5)}, LeftOut: 2}},
		"a moment": {client.FlowsWanted{Limit: 2, Since: time.Second}, client.RefusedFlows{}},
		"an age":   {client.FlowsWanted{Limit: 3, Since: 1 << 62}, client.RefusedFlows{Flows: []*pb.FlowRecord{told, flow(-10), flow(-5)}, LeftOut: 1}},
	} {
		if diff := cmp.Diff(c.want, s.refusedFlows(c.wanted), protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	s.cfg.NoFlowRecords = true
	if got := s.refusedFlows(client.FlowsWanted{Limit: 1}); !got.Unrecorded || len(got.Flows) > 0 {
		t.Errorf("without records: %+v", got)
	}
}
