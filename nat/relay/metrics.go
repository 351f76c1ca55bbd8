package relay

import "github.com/prometheus/client_golang/prometheus"

type serverMetrics struct {
	connections, bytes, waits          prometheus.Counter
	frames, dropped, ignored, refusals *prometheus.CounterVec
	overWebSocket, overUDP             prometheus.Counter // of frames
}

func newServerMetrics(r prometheus.Registerer, connected func() int) *serverMetrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		r.MustRegister(c)
		return c
	}
	vector := func(name, help, label string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
		r.MustRegister(c)
		return c
	}
	m := &serverMetrics{
		connections: counter("warren_relay_connections_total", "Connections of devices that were admitted."),
		frames:      vector("warren_relay_frames_total", "Packets and signals that were forwarded, by what carried them to the device.", "transport"),
		bytes:       counter("warren_relay_received_bytes_total", "Bytes of frames that devices sent."),
		dropped:     vector("warren_relay_dropped_frames_total", "Packets and signals that were dropped.", "reason"),
		waits:       counter("warren_relay_rate_waits_total", "Messages over WebSocket that waited because their device had sent too much."),
		ignored:     vector("warren_relay_ignored_datagrams_total", "Datagrams that were neither forwarded nor answered.", "reason"),
		refusals:    vector("warren_relay_refusals_total", "Connections that were refused.", "reason"),
	}
	m.overWebSocket, m.overUDP = m.frames.WithLabelValues("websocket"), m.frames.WithLabelValues("udp")
	r.MustRegister(prometheus.NewGaugeFunc(
		prometheus.GaugeOpts{Name: "warren_relay_connections", Help: "Devices that are connected."}, func() float64 { return float64(connected()) }))
	return m
}
