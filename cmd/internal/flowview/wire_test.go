package flowview

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	pb "warren/proto/warrenv1"
	"warren/tunnel/flowlog"
)

// TestFlowsOverTheWire: every field comes through.
func TestFlowsOverTheWire(t *testing.T) {
	at := time.Unix(1_800_000_000, 5e6).UTC()
	for _, want := range []flowlog.Record{
		{
			At: at, Kind: "ended", Direction: "in", Device: "desk", User: "ann", Tags: []string{"a", "b"}, Protocol: "tcp",
			Source: netip.MustParseAddr("fd00::1"), SourcePort: 1, Destination: netip.MustParseAddr("fd00::2"), DestinationPort: 65535, Grant: "web", Reason: "idle",
			Began: at.Add(-2), Last: at.Add(-1), SentPackets: 2, SentBytes: 3, ReceivedPackets: 4, ReceivedBytes: 5, Flows: 6,
		},
		{
			At: at, Kind: "new", Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddr("10.0.0.1"),
		},
		{At: at, Kind: "omitted", OmittedNew: 7, OmittedEnded: 8, OmittedRefused: 9},
		{},
	} {
		got, err := FromWire(ToWire(&want))
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	}
	if _, err := FromWire(&pb.FlowRecord{Source: "nowhere"}); err == nil {
		t.Error("an address that is none was taken")
	}
}
