package relay

import "github.com/prometheus/client_golang/prometheus"

type serverMetrics struct {
	connections, frames, bytes, dropped prometheus.Counter
	refusals                            *prometheus.CounterVec
}

func newServerMetrics(r prometheus.Registerer, connected func() int) *serverMetrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		r.MustRegister(c)
		return c
	}
	m := &serverMetrics{
		connections: counter("warren_relay_connections_total", "Connections of devices that were admitted."),
		frames:      counter("warren_relay_frames_total", "Frames that were forwarded."),
		bytes:       counter("warren_relay_received_bytes_total", "Bytes of frames that devices sent."),
		dropped:     counter("warren_relay_dropped_frames_total", "Frames dropped because a device did not read fast enough; counted when it leaves."),
		refusals:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "warren_relay_refusals_total", Help: "Connections that were refused."}, []string{"reason"}),
	}
	r.MustRegister(m.refusals, prometheus.NewGaugeFunc(
		prometheus.GaugeOpts{Name: "warren_relay_connections", Help: "Devices that are connected."}, func() float64 { return float64(connected()) }))
	return m
}
