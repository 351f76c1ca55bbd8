package serve

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"warren/internal/buildversion"
	"warren/internal/diskspace"
)

// registerProcess registers what is exported of this process besides what its parts count: a coordinator's, whose certificate may be nil.
func registerProcess(r prometheus.Registerer, stateDir string, own *certificate) {
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "warren_coordinator_build_info", Help: "1, with the version of the running coordinator."}, []string{"version"})
	info.WithLabelValues(buildversion.Get()).Set(1)
	r.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), info,
		diskspace.Collector("warren_coordinator_state_free_bytes", stateDir),
	)
	if own != nil {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "warren_coordinator_certificate_expiry_timestamp_seconds", Help: "Unix time at which the certificate of --tls CERT,KEY ends.",
		}, func() float64 { return float64(own.current.Load().Leaf.NotAfter.Unix()) }))
	}
}
