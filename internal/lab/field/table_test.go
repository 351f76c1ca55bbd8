package field

import (
	"strings"
	"testing"
)

// bench is a made-up bench of two pairs.
func bench() []Sample {
	var out []Sample
	for round := range 3 {
		f := float64(round)
		out = append(out,
			Sample{"nebula", "easy+easy", round, 300 + f, 0, Relayed, 0.5, 0.5 + f/10, 20, 20, 30},
			Sample{"tailscale", "easy+easy", round, 2500, 7.5 + f, Direct, 0.4, 2 - f/2, 5.55, 40, 90 + f},
			Sample{"warren", "easy+easy", round, 100, 0.2, Direct, 0.3, 1 + f, 5, 30, 120},
		)
	}
	return append(out,
		Sample{"warren", "none+none", 0, 50, 0.05, Direct, 0.3, 2, 5, 30, 120},
		Sample{"warren", "none+none", 1, 60, 0.06, Mixed, 0.3, 4, 5, 30, 120},
		Sample{"bare link", "none+none", 0, 0.4, 0.0004, Direct, 0.03, 8, 0, 0, 0},
		Sample{"wireguard-go", "none+none", 1, 0, 0, NoPath, 0, 0, 0, 0, 0}, // no contact
		Sample{"a new one", "none+none", 1, 70, 0.07, Direct, 0.2, 1, 1, 1, 1},
	)
}

func TestTables(t *testing.T) { golden(t, "tables.md", Tables(bench())) }

// Throughput differs between rounds by what else the machine does, so neighbours in time are compared, not medians.
func TestRatioIsOfRounds(t *testing.T) {
	samples := []Sample{
		{System: Reference, Round: 0, Stream: 1}, {System: "x", Round: 0, Stream: 2},
		{System: Reference, Round: 1, Stream: 10}, {System: "x", Round: 1, Stream: 20},
		{System: Reference, Round: 2, Stream: 100}, {System: "x", Round: 2, Stream: 200},
		{System: Reference, Round: 3, Stream: 7}, // x failed
		{System: "x", Round: 4, Stream: 7},       // the reference failed
		{System: Reference, Round: 5}, {System: "x", Round: 5, Stream: 3},
	}
	if got, want := ratio("x", samples), "0.50 (0.50 to 0.50)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := ratio(Reference, samples); got != nothing {
		t.Errorf("the reference against itself: %s", got)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		all  []float64
		want string
	}{
		{nil, "-"}, {[]float64{3}, "3.0"}, {[]float64{4, 1}, "2.5 (1.0 to 4.0)"}, {[]float64{9, 1, 2}, "2.0 (1.0 to 9.0)"},
	} {
		if got := spreadOf("%.1f", c.all); got != c.want {
			t.Errorf("%v: got %s, want %s", c.all, got, c.want)
		}
	}
}

func TestNoSamplesNoTables(t *testing.T) {
	if got := Tables(nil); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestEachRowHasAllColumns(t *testing.T) {
	for line := range strings.Lines(Tables(bench())) {
		if strings.HasPrefix(line, "|") && strings.Count(line, "|") != len(columns)+1 {
			t.Errorf("%d columns, not %d: %s", strings.Count(line, "|")-1, len(columns), line)
		}
	}
}
