package diskspace

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestOf(t *testing.T) {
	if s, err := Of(t.TempDir()); err != nil || s.FreeBytes == 0 || s.ReadOnly {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := Of("/sys/kernel"); err != nil || s.FreeBytes != 0 || s.Files != 0 { // which has no room to speak of
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := Of("/no/such/directory"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestCollector(t *testing.T) {
	for dir, want := range map[string]int{t.TempDir(): 1, "/no/such/directory": 0} {
		r := prometheus.NewPedanticRegistry()
		r.MustRegister(Collector("free_bytes", dir))
		families, err := r.Gather()
		if err != nil || len(families) != want || want == 1 && families[0].GetMetric()[0].GetGauge().GetValue() == 0 {
			t.Errorf("%s: %v, %v", dir, families, err)
		}
	}
}
