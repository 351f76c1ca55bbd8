package metricdoc

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

func TestMetrics(t *testing.T) {
	r := new(Recorder)
	r.MustRegister(
		prometheus.NewCounter(prometheus.CounterOpts{Name: "a_total", Help: `with "quotes" {and} braces`}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "a_gauge", Help: "x"}, func() float64 { return 1 }),
		prometheus.NewCounterVec(prometheus.CounterOpts{Name: "a_by_reason_total", Help: "x"}, []string{"reason", "peer"}),
		prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "a_vec", Help: "x"}, []string{"kind"}),
		prometheus.NewGauge(prometheus.GaugeOpts{Name: "other", Help: "x"}),
	)
	got, err := r.Metrics("a_")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"a_total": "counter", "a_gauge": "gauge", "a_by_reason_total{reason,peer}": "counter", "a_vec{kind}": "gauge"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestRead(t *testing.T) {
	const page = "# Page\n\n## One\n\n| metric | type | meaning |\n|---|---|---|\n| `a{b}` | counter | Things. |\n| `c` | gauge | More. |\n| `e` | gauge |  |\n\n## Two\n\n| `d` | gauge | Other. |\n"
	got, err := Read(strings.NewReader(page), "One")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"a{b}": "counter", "c": "gauge"}, got); diff != "" {
		t.Error(diff)
	}
	for name, bad := range map[string]string{
		"no heading": "# Other\n", "twice": "# One\n| `a` | gauge | x |\n| `a` | gauge | x |\n",
	} {
		if got, err := Read(strings.NewReader(bad), "One"); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}
