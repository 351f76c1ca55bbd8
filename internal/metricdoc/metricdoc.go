// Package metricdoc compares the metrics that a program registers with those that a Markdown page tells of, for tests: Recorder stands in
// for a registry, Read takes the list from the page.
package metricdoc

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Recorder is a Registerer that keeps everything it is given.
type Recorder struct{ collectors []prometheus.Collector }

// Register implements prometheus.Registerer.
func (r *Recorder) Register(c prometheus.Collector) error {
	r.collectors = append(r.collectors, c)
	return nil
}

// MustRegister implements prometheus.Registerer.
func (r *Recorder) MustRegister(c ...prometheus.Collector) { r.collectors = append(r.collectors, c...) }

// Unregister implements prometheus.Registerer.
func (r *Recorder) Unregister(prometheus.Collector) bool { return false }

// described takes a Desc apart, which says what it is only in print.
var described = regexp.MustCompile(`^Desc\{fqName: "([^"]*)", help: ".*", constLabels: \{.*\}, variableLabels: \{(.*)\}\}$`)

// Metrics gives the type of each metric whose name begins with prefix. Names are written as in the page: with their labels.
func (r *Recorder) Metrics(prefix string) (map[string]string, error) {
	out := map[string]string{}
	for _, c := range r.collectors {
		types := collected(c)
		for _, d := range drain(c.Describe) {
			m := described.FindStringSubmatch(d.String())
			if m == nil {
				return nil, fmt.Errorf("not understood: %s", d)
			}
			if !strings.HasPrefix(m[1], prefix) {
				continue
			}
			name := m[1]
			if m[2] != "" {
				name += "{" + m[2] + "}"
			}
			kind, ok := types[d.String()]
			if !ok {
				kind = typeOf(c)
			}
			out[name] = kind
		}
	}
	return out, nil
}

// collected gives the types of the metrics that have a value now, by their Desc.
func collected(c prometheus.Collector) map[string]string {
	out := map[string]string{}
	for _, m := range drain(c.Collect) {
		var v dto.Metric
		switch m.Write(&v); {
		case v.Counter != nil:
			out[m.Desc().String()] = "counter"
		case v.Gauge != nil:
			out[m.Desc().String()] = "gauge"
		case v.Histogram != nil:
			out[m.Desc().String()] = "histogram"
		}
	}
	return out
}

// typeOf is for vectors that have no value yet.
func typeOf(c prometheus.Collector) string {
	switch c.(type) {
	case *prometheus.CounterVec:
		return "counter"
	case *prometheus.GaugeVec:
		return "gauge"
	case *prometheus.HistogramVec:
		return "histogram"
	}
	return fmt.Sprintf("%T without a value", c)
}

func drain[T any](f func(chan<- T)) (out []T) {
	in := make(chan T)
	go func() {
		f(in)
		close(in)
	}()
	for v := range in {
		out = append(out, v)
	}
	return out
}

// row is | `name{labels}` | type | meaning |; without a meaning it is none.
var row = regexp.MustCompile("^\\| `([^`]+)` \\| (\\w+) \\| [^|]+ \\|$")

// Read gives the names and types in the tables below a heading, up to the next one. A name that stands there twice is an error.
func Read(page io.Reader, heading string) (map[string]string, error) {
	out, inside, seen := map[string]string{}, false, false
	lines := bufio.NewScanner(page)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "#") {
			inside = strings.TrimSpace(strings.TrimLeft(line, "#")) == heading
			seen = seen || inside
		}
		m := row.FindStringSubmatch(line)
		if !inside || m == nil {
			continue
		}
		if _, twice := out[m[1]]; twice {
			return nil, fmt.Errorf("%s: told of twice", m[1])
		}
		out[m[1]] = m[2]
	}
	if !seen {
		return nil, fmt.Errorf("no heading %q", heading)
	}
	return out, lines.Err()
}
