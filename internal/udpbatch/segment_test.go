package udpbatch

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func packets(sizes ...int) [][]byte {
	var out [][]byte
	for _, n := range sizes {
		out = append(out, make([]byte, n))
	}
	return out
}

func repeat(size, n int) []int {
	var out []int
	for range n {
		out = append(out, size)
	}
	return out
}

func TestTrain(t *testing.T) {
	for name, c := range map[string]struct {
		sizes []int
		want  []int // lengths of the trains, one after the other
	}{
		"one":                           {[]int{1452}, []int{1}},
		"equal":                         {repeat(1452, 5), []int{5}},
		"last shorter":                  {[]int{1452, 1452, 80}, []int{3}},
		"shorter ends the train":        {[]int{1452, 80, 1452, 1452}, []int{2, 2}},
		"shorter, then as short":        {[]int{1452, 80, 80}, []int{2, 1}},
		"longer begins another":         {[]int{80, 1452}, []int{1, 1}},
		"64 at most":                    {repeat(100, 128), []int{64, 64}},
		"65,507 bytes at most":          {repeat(1452, 64), []int{45, 19}},
		"65,507 bytes exactly":          {[]int{32754, 32753, 1}, []int{2, 1}},
		"65,508 bytes do not fit":       {[]int{32754, 32754}, []int{1, 1}},
		"one packet of the whole train": {[]int{65507, 1}, []int{1, 1}},
		"empty packets stay alone":      {[]int{100, 0, 0, 100}, []int{1, 1, 1, 1}},
	} {
		bufs := packets(c.sizes...)
		var got []int
		for len(bufs) > 0 {
			n := train(bufs)
			got = append(got, n)
			bufs = bufs[n:]
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// trainAllowed is the rule as the kernel states it, for one candidate.
func trainAllowed(bufs [][]byte) bool {
	total := 0
	for i, b := range bufs {
		total += len(b)
		if len(b) == 0 || len(b) > len(bufs[0]) || i < len(bufs)-1 && len(b) != len(bufs[0]) {
			return false
		}
	}
	return len(bufs) <= 64 && total <= 65507
}

// TestTrainModel compares with the longest prefix that the rule allows.
func TestTrainModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var sizes []int
		common := []int{0, 1, 80, 1452, 9000, 40000}[rng.IntN(6)]
		for range 1 + rng.IntN(100) {
			size := common
			if rng.IntN(10) == 0 {
				size = rng.IntN(65508)
			}
			sizes = append(sizes, size)
		}
		bufs := packets(sizes...)
		want := 1
		for n := 2; n <= len(bufs); n++ {
			if trainAllowed(bufs[:n]) {
				want = n
			}
		}
		if got := train(bufs); got != want {
			t.Fatalf("train of %v: %d, want %d", sizes, got, want)
		}
	}
}

func TestCut(t *testing.T) {
	for name, c := range map[string]struct {
		size, segment int
		want          []int
	}{
		"no segment size":        {1452, 0, []int{1452}},
		"one segment":            {1452, 1452, []int{1452}},
		"segment beyond the end": {100, 1452, []int{100}},
		"equal":                  {300, 100, []int{100, 100, 100}},
		"last shorter":           {250, 100, []int{100, 100, 50}},
		"nonsense segment":       {10, -1, []int{10}},
		"empty":                  {0, 100, []int{0}},
	} {
		var got []int
		rest := make([]byte, c.size)
		for first := true; first || rest != nil; first = false {
			var d []byte
			d, rest = Cut(rest, c.segment)
			got = append(got, len(d))
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
