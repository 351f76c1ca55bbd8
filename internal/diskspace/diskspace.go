// Package diskspace tells how much room the file system of a directory has: Of looks, Collector exports it to Prometheus.
package diskspace

import "github.com/prometheus/client_golang/prometheus"

// Space is that of a file system.
type Space struct {
	// FreeBytes is what others than root may still take.
	FreeBytes uint64
	// FreeFiles is how many files more there may be, of Files in all; Files is 0 where they are not counted.
	FreeFiles, Files uint64
	ReadOnly         bool
}

// Collector exports the free bytes of a directory's file system as a gauge. It has no value while they cannot be had.
func Collector(name, dir string) prometheus.Collector {
	return &collector{prometheus.NewDesc(name, "Bytes that are free where the state directory is.", nil, nil), dir}
}

type collector struct {
	desc *prometheus.Desc
	dir  string
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) { out <- c.desc }

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	if s, err := Of(c.dir); err == nil {
		out <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(s.FreeBytes))
	}
}
