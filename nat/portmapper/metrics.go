package portmapper

import (
	"github.com/prometheus/client_golang/prometheus"

	"warren/nat/portmap"
)

// Metrics counts what becomes of port mapping. One may serve several Mappers, one after the other.
type Metrics struct {
	attempts, failures *prometheus.CounterVec
	active             *prometheus.GaugeVec
}

// NewMetrics makes and registers them; r may be nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "warren_port_mapping_attempts_total", Help: "Times that the gateway was asked for a port mapping."}, []string{"protocol"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "warren_port_mapping_failures_total", Help: "Times that it gave none."}, []string{"protocol", "reason"}),
		active: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "warren_port_mapping_active", Help: "1 for the protocol by which the port is mapped."}, []string{"protocol"}),
	}
	if r != nil {
		r.MustRegister(m.attempts, m.failures, m.active)
	}
	m.publish(portmap.None)
	return m
}

func (m *Metrics) publish(active portmap.Protocol) {
	for _, p := range portmap.Protocols() {
		v := 0.0
		if p == active {
			v = 1
		}
		m.active.WithLabelValues(p.String()).Set(v)
	}
}
