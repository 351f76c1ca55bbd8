package daemon

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"warren/tunnel/flowlog"
)

// flowExporter reads the counts of the log of flows, which outlives sessions.
type flowExporter struct {
	stats            func() flowlog.Stats
	records, exports *prometheus.Desc
}

func newFlowExporter(stats func() flowlog.Stats) *flowExporter {
	return &flowExporter{
		stats, desc("flow_records_total", "Records of flows.", "kind"),
		desc("flow_exports_total", "Records of flows that were to be exported, by what became of them.", "to", "outcome"),
	}
}

// Describe implements prometheus.Collector.
func (e *flowExporter) Describe(out chan<- *prometheus.Desc) {
	out <- e.records
	out <- e.exports
}

// Collect implements prometheus.Collector. Exports of one kind are added up.
func (e *flowExporter) Collect(out chan<- prometheus.Metric) {
	s := e.stats()
	for _, kind := range slices.Sorted(maps.Keys(s.Records)) {
		out <- prometheus.MustNewConstMetric(e.records, prometheus.CounterValue, float64(s.Records[kind]), kind)
	}
	sums := map[[2]string]uint64{}
	for _, x := range s.Exports {
		sums[[2]string{x.To, "sent"}] += x.Sent
		sums[[2]string{x.To, "dropped"}] += x.Dropped
		sums[[2]string{x.To, "refused"}] += x.Failed
	}
	for labels, n := range sums {
		out <- prometheus.MustNewConstMetric(e.exports, prometheus.CounterValue, float64(n), labels[0], labels[1])
	}
}
