package server

import (
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	watches    prometheus.Gauge
	enrolments prometheus.Counter
	refusals   *prometheus.CounterVec
	failures   prometheus.Counter
	registerer prometheus.Registerer
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		watches:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "warren_coordinator_watches", Help: "Watch streams that are open."}),
		enrolments: prometheus.NewCounter(prometheus.CounterOpts{Name: "warren_coordinator_enrolments_total", Help: "Devices and relays that enrolled or renewed."}),
		refusals:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "warren_coordinator_refusals_total", Help: "Calls that were refused."}, []string{"reason"}),
		failures:   prometheus.NewCounter(prometheus.CounterOpts{Name: "warren_coordinator_failures_total", Help: "What failed inside the coordinator, mostly in its database."}),
		registerer: r,
	}
	r.MustRegister(m.watches, m.enrolments, m.refusals, m.failures)
	return m
}

// observe adds what the hub knows.
func (m *metrics) observe(h *hub) {
	gauge := func(name, help string, value func(devices, online int, revision uint64) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return value(h.counts()) })
	}
	m.registerer.MustRegister(
		&routeExporter{h},
		gauge("warren_coordinator_devices", "Devices of the network.", func(d, _ int, _ uint64) float64 { return float64(d) }),
		gauge("warren_coordinator_devices_online", "Devices with an open Watch.", func(_, o int, _ uint64) float64 { return float64(o) }),
		gauge("warren_coordinator_revision", "Newest revision of the change log.", func(_, _ int, r uint64) float64 { return float64(r) }),
	)
}

// routeExporter counts the CIDRs that gateways may carry, by how many of those are online.
type routeExporter struct{ hub *hub }

func (*routeExporter) desc() *prometheus.Desc {
	return prometheus.NewDesc("warren_coordinator_routes", "CIDRs that gateways may carry, by how many of those are online.", []string{"state"}, nil)
}

// Describe implements prometheus.Collector.
func (e *routeExporter) Describe(out chan<- *prometheus.Desc) { out <- e.desc() }

// Collect implements prometheus.Collector.
func (e *routeExporter) Collect(out chan<- prometheus.Metric) {
	counts := e.hub.routeStates()
	for _, state := range []string{routeRedundant, routeSingle, routeLastOne, routeDown} {
		out <- prometheus.MustNewConstMetric(e.desc(), prometheus.GaugeValue, float64(counts[state]), state)
	}
}

// States of a CIDR, by its gateways.
const (
	routeRedundant = "redundant" // two or more are online
	routeSingle    = "single"    // its only one is
	routeLastOne   = "last one"  // one of several is
	routeDown      = "down"      // none is
)

// routeStates counts the CIDRs in each state.
func (h *hub) routeStates() map[string]int {
	type gateways struct{ all, online int }
	h.mu.Lock()
	of := map[netip.Prefix]gateways{}
	for k, d := range h.devices {
		if !d.Visible() {
			continue
		}
		for _, p := range d.Routes {
			g := of[p]
			g.all++
			if h.watches[k] != nil {
				g.online++
			}
			of[p] = g
		}
	}
	h.mu.Unlock()
	out := map[string]int{}
	for _, g := range of {
		switch {
		case g.online == 0:
			out[routeDown]++
		case g.online > 1:
			out[routeRedundant]++
		case g.all > 1:
			out[routeLastOne]++
		default:
			out[routeSingle]++
		}
	}
	return out
}
