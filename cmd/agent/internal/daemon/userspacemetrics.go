package daemon

import (
	"warren/cmd/agent/internal/forward"
	"warren/cmd/agent/internal/proxy"
	"warren/tunnel/netstack"
)

// userspaceFigures is what a tunnel without an interface counts.
type userspaceFigures struct {
	stack            netstack.Stats // of the session
	proxy            proxy.Stats
	forward, exposed forward.Stats
}

func (u *userspace) figures(stack netstack.Stats) *userspaceFigures {
	return &userspaceFigures{stack: stack, proxy: u.proxy.Stats(), forward: u.forwarder.Stats(), exposed: u.exposer.Stats()}
}

func (f *userspaceFigures) count(gauge gaugeFunc, count countFunc) {
	p := f.proxy
	gauge("userspace_connections", float64(p.Open), "proxy")
	count("userspace_connections_total", p.Opened, "proxy", "opened")
	count("userspace_connections_total", p.Failed, "proxy", "failed")
	count("userspace_connections_total", p.Refused, "proxy", "refused")
	count("userspace_connections_total", p.Malformed, "proxy", "malformed")
	count("userspace_connections_total", p.Unauthorised, "proxy", "unauthorised")
	for way, s := range map[string]forward.Stats{"forward": f.forward, "exposed": f.exposed} {
		gauge("userspace_connections", float64(s.Open), way)
		count("userspace_connections_total", s.Opened, way, "opened")
		count("userspace_connections_total", s.Failed, way, "failed")
		count("userspace_connections_total", s.Dropped, way, "dropped")
	}
	count("userspace_retransmitted_total", f.stack.Retransmitted)
	count("userspace_packets_dropped_total", f.stack.Damaged, "damaged")
	count("userspace_packets_dropped_total", f.stack.QueueDropped, "queue full")
	count("userspace_packets_dropped_total", f.stack.PendingDropped, "too many pending")
}
