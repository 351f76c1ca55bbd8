package daemon

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"warren/cmd/agent/internal/forward"
	"warren/cmd/agent/internal/proxy"
	"warren/internal/buildversion"
	"warren/internal/metricdoc"
	"warren/nat/path"
	"warren/nat/traversal"
	"warren/proto/key"
	"warren/tunnel/bind"
	"warren/tunnel/dnsforward"
	"warren/tunnel/engine"
	"warren/tunnel/filter"
	"warren/tunnel/flowlog"
	"warren/tunnel/gateway/choose"
	"warren/tunnel/netstack"
	"warren/tunnel/tundev"
)

// sample has another number everywhere, so that two that are mixed up show.
func sample() *figures {
	f := &figures{
		connected: true, revision: 1, mapAge: 2 * time.Second, mapGoodUntil: time.Unix(3000, 0), peers: 3, relays: 5, relaysConnected: 4,
		paths: map[[key.Size]byte]traversal.Path{
			{1}: {Kind: traversal.Direct}, {2}: {Kind: traversal.Direct}, {3}: {Kind: traversal.Direct},
			{4}: {Kind: traversal.Relay}, {5}: {Kind: traversal.Relay}, {6}: {},
		},
		stats: []engine.PeerStats{
			{NodeKey: key.NewNode().Public(), LastHandshake: time.Unix(100, 0), RxBytes: 10, TxBytes: 20, Configured: true},
			{NodeKey: key.NewNode().Public(), LastHandshake: time.Unix(200, 5e8), RxBytes: 1, TxBytes: 2},
		},
		traversal: traversal.Stats{
			ChecksSent: 30, Answers: 31, Requests: 32, SignalsSent: 33, Refused: 34, Dropped: 35, SendErrors: 36, ToNone: 37, ToRelay: 38, ToDirect: 39,
			MTUReductions: 40, Causes: map[path.Cause]uint64{},
		},
		packets: tundev.Counters{
			NoPeer: 50, Held: 51, HeldDropped: 52, NotOurs: 53, TooBig: 54, Clamped: 55, Forged: 56,
			Handed: 121, Unwrapped: 122, Refused: 123, InjectedDropped: 124, Words: 125, WordsDropped: 126, ProbeAnswers: 127,
			Table: filter.Stats{Flows: 57, Fragments: 58, Refused: 59, Evicted: 110},
		},
		bind: bind.Stats{
			UnknownIndex: 60, BadInitiation: 61, UnknownPeer: 62, Limited: 63, Replayed: 64, InjectDropped: 65, RelayOther: 66, ReceiveErrors: 67,
			SendErrors: 68, Long: 69, SentDirect: 44, SentRelay: 45, ReceivedDirect: 46, ReceivedRelay: 47, GSO4: true, GRO6: true,
		},
	}
	f.dns = dnsforward.Stats{Answered: 140, Refused: 141, Failed: 142, Malformed: 143, Dropped: 144}
	f.networks = routeFigures{
		routes:  map[string]int{useTunnel: 150, useLAN: 151, useRefused: 152, useOwn: 153, useNone: 154},
		carried: map[string]int{"unknown": 155, "working": 156, "failing": 157}, choices: map[choose.Reason]uint64{choose.Silent: 158}, exit: true,
	}
	f.userspace = &userspaceFigures{
		stack:   netstack.Stats{Damaged: 200, QueueDropped: 201, PendingDropped: 202, Retransmitted: 203},
		proxy:   proxy.Stats{Open: 204, Opened: 205, Failed: 206, Refused: 207, Malformed: 208, Unauthorised: 209},
		forward: forward.Stats{Open: 210, Opened: 211, Failed: 212, Dropped: 213}, exposed: forward.Stats{Open: 214, Opened: 215, Failed: 216, Dropped: 217},
	}
	for _, cause := range path.Causes() {
		f.traversal.Causes[cause] = 90 + uint64(cause)
	}
	for v := range f.packets.Filter.In {
		f.packets.Filter.In[v], f.packets.Filter.Out[v] = uint64(70+v), uint64(80+v)
	}
	return f
}

// flowSample has two files, whose counts are added up.
func flowSample() flowlog.Stats {
	return flowlog.Stats{
		Records: map[string]uint64{flowlog.New: 111, flowlog.Ended: 112, flowlog.Refused: 113, flowlog.Omitted: 114},
		Exports: []flowlog.ExportStats{{To: "file", Sent: 100, Dropped: 10, Failed: 1}, {To: "otlp", Sent: 118, Dropped: 119, Failed: 120}, {To: "file", Sent: 15, Dropped: 106, Failed: 116}},
	}
}

// exported prints our own metrics, one a line, in order.
func exported(t *testing.T, f *figures) []string {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	registerMetrics(r, "/no/such/directory", func() *figures { return f }, flowSample)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), "warren_") {
			continue
		}
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			value := m.GetCounter().GetValue() + m.GetGauge().GetValue()
			out = append(out, fmt.Sprintf("%s{%s} %v", strings.TrimPrefix(family.GetName(), "warren_"), strings.Join(labels, ","), value))
		}
	}
	slices.Sort(out)
	return out
}

func TestMetrics(t *testing.T) {
	want := []string{
		"up{} 1", "coordinator_connected{} 1", "map_revision{} 1", "map_age_seconds{} 2", "map_expiry_timestamp_seconds{} 3000", "peers{} 3", "relays{} 5", "relays_connected{} 4",
		"paths{direct} 3", "paths{relay} 2", "paths{none} 1", "peers_configured{} 1", "last_handshake_seconds{} 200.5",
		"bytes_total{received} 11", "bytes_total{sent} 22",
		"exit_dns_total{answered} 140", "exit_dns_total{dropped} 144", "exit_dns_total{failed} 142", "exit_dns_total{malformed} 143", "exit_dns_total{refused} 141",
		"path_changes_total{none} 37", "path_changes_total{relay} 38", "path_changes_total{direct} 39",
		"path_bytes_total{sent,direct} 44", "path_bytes_total{sent,relay} 45", "path_bytes_total{received,direct} 46",
		"path_bytes_total{received,relay} 47",
		"path_mtu_reductions_total{} 40", "checks_sent_total{} 30", "checks_answered_total{} 31", "checks_received_total{} 32", "signals_sent_total{} 33", "refused_total{} 34",
		"overrun_total{} 35", "check_send_errors_total{} 36",
		"packets_no_peer_total{} 50", "packets_held_total{} 51", "packets_held_dropped_total{} 52", "packets_not_ours_total{} 53",
		"packets_forged_total{} 56", "filter_entries{flow} 57", "filter_entries{fragment} 58", "filter_entries{refused} 59", "filter_evicted_total{} 110",
		"packets_too_big_total{} 54", "packets_clamped_total{} 55",
		"packets_handed_over_total{out} 121", "packets_handed_over_total{in} 122", "packets_handed_over_refused_total{} 123",
		"packets_made_dropped_total{} 124", "words_total{heard} 125", "words_total{dropped} 126", "probe_answers_total{} 127",
		"packets_long_total{} 69",
		"userspace_packets_dropped_total{damaged} 200", "userspace_packets_dropped_total{queue full} 201",
		"userspace_packets_dropped_total{too many pending} 202", "userspace_retransmitted_total{} 203",
		"userspace_connections{proxy} 204", "userspace_connections_total{opened,proxy} 205", "userspace_connections_total{failed,proxy} 206",
		"userspace_connections_total{refused,proxy} 207", "userspace_connections_total{malformed,proxy} 208",
		"userspace_connections_total{unauthorised,proxy} 209",
		"userspace_connections{forward} 210", "userspace_connections_total{opened,forward} 211", "userspace_connections_total{failed,forward} 212",
		"userspace_connections_total{dropped,forward} 213", "userspace_connections{exposed} 214", "userspace_connections_total{opened,exposed} 215",
		"userspace_connections_total{failed,exposed} 216", "userspace_connections_total{dropped,exposed} 217",
		"routes{tunnel} 150", "routes{lan} 151", "routes{refused} 152", "routes{own} 153", "routes{none} 154",
		"carried_routes{unknown} 155", "carried_routes{working} 156", "carried_routes{failing} 157", "exit_node_used{} 1", "kill_switch{} 0",
		"initiations_refused_total{damaged} 61", "initiations_refused_total{unknown peer} 62", "initiations_refused_total{rate} 63",
		"initiations_refused_total{replayed} 64", "unknown_session_total{} 60", "relay_packets_dropped_total{overrun} 65",
		"relay_packets_dropped_total{not WireGuard} 66", "socket_errors_total{receive} 67", "socket_errors_total{send} 68",
		"port_mapping_active{NAT-PMP} 0", "port_mapping_active{PCP} 0", "port_mapping_active{UPnP} 0", "offload{ipv4,gso} 1", "offload{ipv6,gso} 0", "offload{ipv4,gro} 0", "offload{ipv6,gro} 1",
	}
	flows := []string{
		"flow_records_total{ended} 112", "flow_records_total{new} 111", "flow_records_total{omitted} 114", "flow_records_total{refused} 113",
		"flow_exports_total{dropped,file} 116", "flow_exports_total{refused,file} 117", "flow_exports_total{sent,file} 115",
		"flow_exports_total{dropped,otlp} 119", "flow_exports_total{refused,otlp} 120", "flow_exports_total{sent,otlp} 118",
	}
	flows = append(flows, fmt.Sprintf("build_info{%s} 1", buildversion.Get()))
	want = append(want, flows...)
	for _, cause := range path.Causes() {
		want = append(want, fmt.Sprintf("path_causes_total{%s} %d", cause.Label(), 90+uint64(cause)))
	}
	for _, r := range choose.Reasons() {
		n := 0
		if r == choose.Silent {
			n = 158
		}
		want = append(want, fmt.Sprintf("gateway_choices_total{%s} %d", r.Label(), n))
	}
	for v := range filter.New(filter.Config{}).Counters().In {
		name := filter.Verdict(v).String()
		want = append(want, fmt.Sprintf("packets_total{in,%s} %d", name, 70+v), fmt.Sprintf("packets_total{out,%s} %d", name, 80+v))
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, exported(t, sample())); diff != "" {
		t.Error(diff)
	}
	down := append(flows, "port_mapping_active{NAT-PMP} 0", "port_mapping_active{PCP} 0", "port_mapping_active{UPnP} 0", "up{} 0")
	slices.Sort(down)
	if diff := cmp.Diff(down, exported(t, nil)); diff != "" {
		t.Errorf("without a session: %s", diff)
	}
}

// TestMetricsAreTold: docs/operations.md tells of every metric, and of no other.
func TestMetricsAreTold(t *testing.T) {
	page, err := os.Open("../../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	defer page.Close()
	told, err := metricdoc.Read(page, "Metrics of warren")
	if err != nil {
		t.Fatal(err)
	}
	r := new(metricdoc.Recorder)
	registerMetrics(r, t.TempDir(), sample, flowSample)
	registered, err := r.Metrics("warren_")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(registered, told); diff != "" {
		t.Errorf("docs/operations.md (+) against what is exported (-): %s", diff)
	}
}

// TestVolume: bytes are added up over peers that come and go and over counters that begin anew; the sum never goes down.
func TestVolume(t *testing.T) {
	a, b := key.NewNode().Public(), key.NewNode().Public()
	var v volume
	for i, step := range []struct {
		stats          []engine.PeerStats
		received, sent uint64
	}{
		{nil, 0, 0},
		{[]engine.PeerStats{{NodeKey: a, RxBytes: 10, TxBytes: 1}, {NodeKey: b, RxBytes: 100, TxBytes: 2}}, 110, 3},
		{[]engine.PeerStats{{NodeKey: a, RxBytes: 15, TxBytes: 1}, {NodeKey: b, RxBytes: 100, TxBytes: 2}}, 115, 3},
		{[]engine.PeerStats{{NodeKey: a, RxBytes: 20, TxBytes: 4}}, 120, 6},
		{[]engine.PeerStats{{NodeKey: a, RxBytes: 3, TxBytes: 4}}, 123, 6},
		{nil, 123, 6},
		{[]engine.PeerStats{{NodeKey: b, RxBytes: 5, TxBytes: 5}}, 128, 11},
	} {
		v.add(step.stats)
		if v.received != step.received || v.sent != step.sent {
			t.Errorf("step %d: %d and %d, want %d and %d", i, v.received, v.sent, step.received, step.sent)
		}
	}
}

// TestFiguresWithoutSession: a scrape while the tunnel is down finds nothing to read, and does not fail.
func TestFiguresWithoutSession(t *testing.T) {
	if f := new(daemon).figures(); f != nil {
		t.Errorf("%+v", f)
	}
}
