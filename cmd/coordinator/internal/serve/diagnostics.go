package serve

import (
	"encoding/json"

	"github.com/prometheus/client_golang/prometheus"

	"warren/internal/bugreport"
	"warren/internal/runlog"
)

// diagnostics gives what this process knows of itself.
func (o Options) diagnostics(metrics prometheus.Gatherer) []bugreport.Piece {
	c := o.Config
	v := map[string]any{
		"state": c.State, "listen": c.Listen, "url": c.URLs, "stun": c.STUN, "tls": c.TLS, "metrics": c.Metrics, "region": c.Region, "relay": c.Relay,
		"relay-rate": c.RelayRate, "ipv4": c.IPv4, "ipv6": c.IPv6, "map-max-age": c.MapMaxAge.String(),
	}
	if o.LogLevel != nil {
		v["log-level"] = runlog.LevelName(o.LogLevel.Level())
	}
	settings, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		settings = []byte(err.Error())
	}
	return bugreport.Process(bugreport.NewRedactor(false), metrics, o.RecentLog, bugreport.Piece{Name: "settings.json", Content: settings})
}
