package server

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	watches    prometheus.Gauge
	enrolments prometheus.Counter
	refusals   *prometheus.CounterVec
	registerer prometheus.Registerer
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		watches:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "warren_coordinator_watches", Help: "Watch streams that are open."}),
		enrolments: prometheus.NewCounter(prometheus.CounterOpts{Name: "warren_coordinator_enrolments_total", Help: "Devices and relays that enrolled or renewed."}),
		refusals:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "warren_coordinator_refusals_total", Help: "Calls that were refused."}, []string{"reason"}),
		registerer: r,
	}
	r.MustRegister(m.watches, m.enrolments, m.refusals)
	return m
}

// observe adds what the hub knows.
func (m *metrics) observe(h *hub) {
	gauge := func(name, help string, value func(devices, online int, revision uint64) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(h.counts()) })
	}
	m.registerer.MustRegister(
		gauge("warren_coordinator_devices", "Devices of the network.", func(d, _ int, _ uint64) float64 { return float64(d) }),
		gauge("warren_coordinator_devices_online", "Devices with an open Watch.", func(_, o int, _ uint64) float64 { return float64(o) }),
		gauge("warren_coordinator_revision", "Newest revision of the change log.", func(_, _ int, r uint64) float64 { return float64(r) }),
	)
}
