package daemon

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"warren/internal/buildversion"
	"warren/internal/diskspace"
	"warren/nat/path"
	"warren/nat/portmapper"
	"warren/nat/traversal"
	"warren/proto/key"
	"warren/tunnel/bind"
	"warren/tunnel/dnsforward"
	"warren/tunnel/engine"
	"warren/tunnel/filter"
	"warren/tunnel/flowlog"
	"warren/tunnel/gateway"
	"warren/tunnel/gateway/choose"
	"warren/tunnel/tundev"
)

// registerMetrics registers everything that the agent exports; docs/operations.md tells of each, which a test checks. It gives those that
// port mapping counts with.
func registerMetrics(r prometheus.Registerer, stateDir string, now func() *figures, flows func() flowlog.Stats) *portmapper.Metrics {
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "warren_build_info", Help: "1, with the version of the running daemon."}, []string{"version"})
	info.WithLabelValues(buildversion.Get()).Set(1)
	r.MustRegister(
		diskspace.Collector("warren_state_free_bytes", stateDir), info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &exporter{figures: now}, newFlowExporter(flows),
	)
	return portmapper.NewMetrics(r)
}

// figures is what a running session counts, at one moment.
type figures struct {
	connected               bool
	revision                uint64
	mapAge                  time.Duration
	mapGoodUntil            time.Time // zero: there is no map
	peers                   int
	relays, relaysConnected int
	paths                   map[[key.Size]byte]traversal.Path
	stats                   []engine.PeerStats
	traversal               traversal.Stats
	packets                 tundev.Counters
	bind                    bind.Stats
	dns                     dnsforward.Stats
	networks                routeFigures
	userspace               *userspaceFigures // nil where the tunnel has an interface
}

// figures gives nil while no session runs.
func (d *daemon) figures() *figures {
	s := d.current()
	if s == nil {
		return nil
	}
	f := &figures{
		connected: s.control.Load().Connected, paths: s.traversal.Paths(), stats: s.engine.Stats(), traversal: s.traversal.Stats(),
		packets: s.engine.Packets(), bind: s.bind.Stats(), dns: s.dns.Stats(), networks: s.networks.figures(),
	}
	if h, ok := s.router.(*userspaceHost); ok {
		f.userspace = d.services.figures(h.stack.Stats())
	}
	for _, l := range s.relays.links() {
		f.relays++
		if l.up.Load() != nil {
			f.relaysConnected++
		}
	}
	if m := s.known.Load().m; m != nil {
		f.revision, f.peers, f.mapGoodUntil = m.Revision, len(m.Peers), m.Statement.GetGoodUntil().AsTime()
		if !f.connected && !m.CurrentAt.IsZero() {
			f.mapAge = max(0, time.Since(m.CurrentAt))
		}
	}
	return f
}

// exporter reads the figures when it is asked.
type exporter struct {
	figures func() *figures

	mu     sync.Mutex
	volume volume
}

// volume adds up what peers sent and received. A peer that leaves the map takes its counters with it, and a counter must not go down.
type volume struct {
	received, sent uint64
	last           map[[key.Size]byte]engine.PeerStats
}

func (v *volume) add(stats []engine.PeerStats) {
	last := make(map[[key.Size]byte]engine.PeerStats, len(stats))
	for _, s := range stats {
		old := v.last[s.NodeKey.Raw()]
		v.received += since(old.RxBytes, s.RxBytes)
		v.sent += since(old.TxBytes, s.TxBytes)
		last[s.NodeKey.Raw()] = s
	}
	v.last = last
}

// since is how much a counter grew, which may have begun anew.
func since(old, now uint64) uint64 {
	if now < old {
		return now
	}
	return now - old
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("warren_"+name, help, labels, nil)
}

// descs are the metrics of a session, by name.
func descs() map[string]*prometheus.Desc {
	out := map[string]*prometheus.Desc{}
	for _, d := range []struct {
		name, help string
		labels     []string
	}{
		{"up", "1 while the tunnel is up.", nil},
		{"coordinator_connected", "1 while the map is in step with the coordinator.", nil},
		{"map_revision", "Revision of the map in use.", nil},
		{"map_age_seconds", "Since the map was last known to be current; 0 while connected.", nil},
		{"map_expiry_timestamp_seconds", "Unix time until which the map may be used without the coordinator.", nil},
		{"peers", "Peers in the map.", nil},
		{"peers_configured", "Peers that the WireGuard device has.", nil},
		{"paths", "Peers in use, by how they are reached.", []string{"kind"}},
		{"relays", "Relays of the map that are tried.", nil},
		{"relays_connected", "Of those, connected ones.", nil},
		{"last_handshake_seconds", "Unix time of the newest WireGuard handshake.", nil},
		{"bytes_total", "Bytes inside WireGuard, of all peers.", []string{"direction"}},
		{"path_bytes_total", "Bytes of WireGuard's messages, by the way they took.", []string{"kind", "direction"}},
		{"path_changes_total", "Paths that were published, by kind.", []string{"kind"}},
		{"path_causes_total", "Paths that were published, by what made them change.", []string{"cause"}},
		{"path_mtu_reductions_total", "Times that a path in use came to carry less.", nil},
		{"checks_sent_total", "Checks sent.", nil},
		{"checks_answered_total", "Checks of ours that a peer answered.", nil},
		{"checks_received_total", "Checks of peers, each answered.", nil},
		{"signals_sent_total", "Signals sent over relays.", nil},
		{"refused_total", "Datagrams and signals that are malformed, not authentic, replayed or from nobody known.", nil},
		{"overrun_total", "Datagrams and signals dropped because more came than could be looked at.", nil},
		{"check_send_errors_total", "Checks and signals that could not be sent.", nil},
		{"packets_total", "Packets that the filter judged.", []string{"direction", "verdict"}},
		{"packets_no_peer_total", "Packets from the host to an address that no peer carries.", nil},
		{"packets_not_ours_total", "Packets from peers to an address that is not ours.", nil},
		{"packets_forged_total", "Packets from peers with a source that they do not carry.", nil},
		{"packets_held_total", "Packets held until their peer was configured.", nil},
		{"packets_held_dropped_total", "Of those, packets that waited in vain.", nil},
		{"packets_too_big_total", "Packets longer than their path carries, answered by ICMP.", nil},
		{"packets_clamped_total", "TCP SYNs whose MSS was lowered.", nil},
		{"packets_handed_over_total", "Packets between gateways of one CIDR: out to the one that a device uses, in from another.", []string{"direction"}},
		{"packets_handed_over_refused_total", "Of those that came in, packets that may not, and packets of the host that look like them.", nil},
		{"packets_made_dropped_total", "Packets of other gateways and words that there was no room for.", nil},
		{"words_total", "Words of peers' agents, by what became of them.", []string{"outcome"}},
		{"probe_answers_total", "Answers of hosts behind this gateway to its probes.", nil},
		{"routes", "CIDRs of gateways that this device may use, by what becomes of packets for them.", []string{"use"}},
		{"carried_routes", "CIDRs that this device carries, by the health of the network behind it.", []string{"health"}},
		{"gateway_choices_total", "Choices of a gateway, by what made them.", []string{"cause"}},
		{"exit_node_used", "1 while an exit node is used.", nil},
		{"kill_switch", "1 while the kill switch is wanted.", nil},
		{"packets_long_total", "Packets too long for their direct path, which a relay carried.", nil},
		{"filter_entries", "What the packet filter's table holds.", []string{"kind"}},
		{"filter_evicted_total", "Entries of that table that had to make room.", nil},
		{"userspace_connections", "Connections carried at present by a tunnel without an interface, by how they came.", []string{"way"}},
		{"userspace_connections_total", "Connections, by what became of them.", []string{"way", "outcome"}},
		{"userspace_retransmitted_total", "TCP segments that a tunnel without an interface sent again.", nil},
		{"userspace_packets_dropped_total", "Packets that a tunnel without an interface dropped.", []string{"reason"}},
		{"exit_dns_total", "Questions for names by users of this exit node, by what became of them.", []string{"outcome"}},
		{"initiations_refused_total", "WireGuard handshake initiations that were refused.", []string{"reason"}},
		{"unknown_session_total", "WireGuard messages of a session that is not known.", nil},
		{"relay_packets_dropped_total", "Packets from relays that were not delivered.", []string{"reason"}},
		{"socket_errors_total", "Failed system calls of the UDP sockets.", []string{"direction"}},
		{"offload", "1 where a UDP offload is in use.", []string{"family", "offload"}},
	} {
		out[d.name] = desc(d.name, d.help, d.labels...)
	}
	return out
}

// Describe implements prometheus.Collector.
func (e *exporter) Describe(out chan<- *prometheus.Desc) {
	for _, d := range descs() {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (e *exporter) Collect(out chan<- prometheus.Metric) {
	f, d := e.figures(), descs()
	gauge := func(name string, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d[name], prometheus.GaugeValue, v, labels...)
	}
	count := func(name string, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d[name], prometheus.CounterValue, float64(v), labels...)
	}
	if f == nil {
		gauge("up", 0)
		return
	}
	gauge("up", 1)
	gauge("coordinator_connected", number(f.connected))
	gauge("map_revision", float64(f.revision))
	gauge("map_age_seconds", f.mapAge.Seconds())
	if !f.mapGoodUntil.IsZero() {
		gauge("map_expiry_timestamp_seconds", float64(f.mapGoodUntil.Unix()))
	}
	gauge("peers", float64(f.peers))
	gauge("relays", float64(f.relays))
	gauge("relays_connected", float64(f.relaysConnected))
	e.peers(f, gauge, count)
	f.countTraversal(count)
	f.countPackets(gauge, count)
	f.countBind(gauge, count)
	f.countDNS(count)
	f.countRoutes(gauge, count)
	if f.userspace != nil {
		f.userspace.count(gauge, count)
	}
}

func (f *figures) countRoutes(gauge gaugeFunc, count countFunc) {
	n := f.networks
	for _, use := range []string{useTunnel, useLAN, useRefused, useOwn, useNone} {
		gauge("routes", float64(n.routes[use]), use)
	}
	for _, h := range []gateway.Health{gateway.Unknown, gateway.Working, gateway.Failing} {
		gauge("carried_routes", float64(n.carried[h.String()]), h.String())
	}
	for _, r := range choose.Reasons() {
		count("gateway_choices_total", n.choices[r], r.Label())
	}
	gauge("exit_node_used", number(n.exit))
	gauge("kill_switch", number(n.killSwitch))
}

func (f *figures) countDNS(count countFunc) {
	count("exit_dns_total", f.dns.Answered, "answered")
	count("exit_dns_total", f.dns.Refused, "refused")
	count("exit_dns_total", f.dns.Failed, "failed")
	count("exit_dns_total", f.dns.Malformed, "malformed")
	count("exit_dns_total", f.dns.Dropped, "dropped")
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Functions that emit one value.
type (
	gaugeFunc func(name string, v float64, labels ...string)
	countFunc func(name string, v uint64, labels ...string)
)

func (e *exporter) peers(f *figures, gauge gaugeFunc, count countFunc) {
	kinds := map[traversal.Kind]int{}
	for _, p := range f.paths {
		kinds[p.Kind]++
	}
	for _, k := range []traversal.Kind{traversal.None, traversal.Relay, traversal.Direct} {
		gauge("paths", float64(kinds[k]), k.String())
	}
	configured, newest := 0, time.Time{}
	for _, s := range f.stats {
		if s.Configured {
			configured++
		}
		if s.LastHandshake.After(newest) {
			newest = s.LastHandshake
		}
	}
	gauge("peers_configured", float64(configured))
	if !newest.IsZero() {
		gauge("last_handshake_seconds", float64(newest.UnixMilli())/1000)
	}
	e.mu.Lock()
	e.volume.add(f.stats)
	received, sent := e.volume.received, e.volume.sent
	e.mu.Unlock()
	count("bytes_total", received, "received")
	count("bytes_total", sent, "sent")
}

func (f *figures) countTraversal(count countFunc) {
	t := f.traversal
	count("path_changes_total", t.ToNone, traversal.None.String())
	count("path_changes_total", t.ToRelay, traversal.Relay.String())
	count("path_changes_total", t.ToDirect, traversal.Direct.String())
	for _, cause := range path.Causes() {
		count("path_causes_total", t.Causes[cause], cause.Label())
	}
	count("path_mtu_reductions_total", t.MTUReductions)
	count("checks_sent_total", t.ChecksSent)
	count("checks_answered_total", t.Answers)
	count("checks_received_total", t.Requests)
	count("signals_sent_total", t.SignalsSent)
	count("refused_total", t.Refused)
	count("overrun_total", t.Dropped)
	count("check_send_errors_total", t.SendErrors)
}

func (f *figures) countPackets(gauge gaugeFunc, count countFunc) {
	p := f.packets
	for v := range p.Filter.In {
		count("packets_total", p.Filter.In[v], "in", filter.Verdict(v).String())
		count("packets_total", p.Filter.Out[v], "out", filter.Verdict(v).String())
	}
	count("packets_no_peer_total", p.NoPeer)
	count("packets_not_ours_total", p.NotOurs)
	count("packets_forged_total", p.Forged)
	count("packets_held_total", p.Held)
	count("packets_held_dropped_total", p.HeldDropped)
	count("packets_too_big_total", p.TooBig)
	count("packets_clamped_total", p.Clamped)
	count("packets_handed_over_total", p.Handed, "out")
	count("packets_handed_over_total", p.Unwrapped, "in")
	count("packets_handed_over_refused_total", p.Refused)
	count("packets_made_dropped_total", p.InjectedDropped)
	count("words_total", p.Words, "heard")
	count("words_total", p.WordsDropped, "dropped")
	count("probe_answers_total", p.ProbeAnswers)
	gauge("filter_entries", float64(p.Table.Flows), "flow")
	gauge("filter_entries", float64(p.Table.Fragments), "fragment")
	gauge("filter_entries", float64(p.Table.Refused), "refused")
	count("filter_evicted_total", p.Table.Evicted)
}

func (f *figures) countBind(gauge gaugeFunc, count countFunc) {
	b := f.bind
	count("path_bytes_total", b.SentDirect, traversal.Direct.String(), "sent")
	count("path_bytes_total", b.SentRelay, traversal.Relay.String(), "sent")
	count("path_bytes_total", b.ReceivedDirect, traversal.Direct.String(), "received")
	count("path_bytes_total", b.ReceivedRelay, traversal.Relay.String(), "received")
	count("packets_long_total", b.Long)
	count("initiations_refused_total", b.BadInitiation, "damaged")
	count("initiations_refused_total", b.UnknownPeer, "unknown peer")
	count("initiations_refused_total", b.Limited, "rate")
	count("initiations_refused_total", b.Replayed, "replayed")
	count("unknown_session_total", b.UnknownIndex)
	count("relay_packets_dropped_total", b.InjectDropped, "overrun")
	count("relay_packets_dropped_total", b.RelayOther, "not WireGuard")
	count("socket_errors_total", b.ReceiveErrors, "receive")
	count("socket_errors_total", b.SendErrors, "send")
	gauge("offload", number(b.GSO4), "ipv4", "gso")
	gauge("offload", number(b.GSO6), "ipv6", "gso")
	gauge("offload", number(b.GRO4), "ipv4", "gro")
	gauge("offload", number(b.GRO6), "ipv6", "gro")
}
