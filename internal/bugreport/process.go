package bugreport

import (
	"bytes"
	"fmt"
	"runtime/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

// Piece is a file of a report that a running program gives about itself.
type Piece struct {
	Name    string
	Content []byte
}

// Process gives what a running program knows of itself, redacted, each piece MaxFile at most. Any part may be nil.
func Process(r *Redactor, metrics prometheus.Gatherer, recent func() []byte, more ...Piece) (out []Piece) {
	add := func(name string, b []byte, newest bool) {
		out = append(out, Piece{name, cut(r.Clean(b), MaxFile, newest)})
	}
	for _, p := range more {
		add(p.Name, p.Content, false)
	}
	if recent != nil {
		add("log.txt", recent(), true)
	}
	if metrics != nil {
		add("metrics.txt", exposition(metrics), false)
	}
	var stacks bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&stacks, 2); err != nil {
		fmt.Fprintf(&stacks, "could not be had: %v\n", err)
	}
	add("goroutines.txt", stacks.Bytes(), false)
	return out
}

// exposition is what Prometheus would be given.
func exposition(g prometheus.Gatherer) []byte {
	var out bytes.Buffer
	families, err := g.Gather()
	if err != nil {
		fmt.Fprintf(&out, "# could not all be had: %v\n", err)
	}
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&out, f); err != nil {
			fmt.Fprintf(&out, "# %v\n", err)
		}
	}
	return out.Bytes()
}
