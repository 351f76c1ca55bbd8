package sim

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"testing"
)

// A failing seed joins failedOnce; a failing program of the fuzzer's is kept in testdata/fuzz.

// seedsQuick is how many seeds a plain run plays; `make soak` has the fuzzer make more programs, and WARREN_SIM_SEEDS=FROM-TO plays others.
const seedsQuick = 40

// seeds are those to be played.
func seeds(t *testing.T) []uint64 {
	t.Helper()
	from, to := uint64(0), uint64(seedsQuick)
	if v := os.Getenv("WARREN_SIM_SEEDS"); v != "" {
		if n, err := fmt.Sscanf(v, "%d-%d", &from, &to); n != 2 || from >= to {
			t.Fatalf("WARREN_SIM_SEEDS is %q, want two numbers, as in 40-1000: %v", v, err)
		}
	}
	out := failedOnce()
	for seed := from; seed < to; seed++ {
		out = append(out, seed)
	}
	return out
}

// failedOnce are seeds that have found something, in the core or in the reference.
func failedOnce() []uint64 {
	return []uint64{26, 55, 133, 135, 156, 370, 1019, 1233, 1307, 2040, 2068, 2430}
}

func TestSeeds(t *testing.T) {
	var mu sync.Mutex
	var sum Stats
	t.Run("all", func(t *testing.T) {
		for _, seed := range seeds(t) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				stats, err := Run(Random(seed))
				if err != nil {
					t.Errorf("seed %d: %v", seed, err)
				}
				mu.Lock()
				defer mu.Unlock()
				sum.add(stats)
			})
		}
	})
	t.Logf("%+v", sum)
	if n := sum.Direct + sum.Relayed; n > 3*seedsQuick && (sum.Direct < n/4 || sum.Relayed < n/8 || sum.Hunts == 0) {
		t.Errorf("the worlds are too much alike: %+v", sum)
	}
}

func (s *Stats) add(o Stats) {
	s.Direct += o.Direct
	s.Relayed += o.Relayed
	s.Possible += o.Possible
	s.Hunts += o.Hunts
	s.Packets += o.Packets
	s.Demotions += o.Demotions
}

// The same bytes make the same run.
func TestDeterministic(t *testing.T) {
	for seed := range uint64(4) {
		first, err1 := Run(Random(seed))
		again, err2 := Run(Random(seed))
		if first != again || fmt.Sprint(err1) != fmt.Sprint(err2) {
			t.Errorf("seed %d: %+v, %v; then %+v, %v", seed, first, err1, again, err2)
		}
	}
}

// A program may end anywhere; the simplest world of all is one of zeros.
func TestShortPrograms(t *testing.T) {
	for _, b := range [][]byte{nil, {1}, bytes.Repeat([]byte{0}, 40), bytes.Repeat([]byte{255}, 90)} {
		if _, err := Run(b); err != nil {
			t.Errorf("%x: %v", b, err)
		}
	}
}

// programMax is how many bytes of a program the fuzzer plays, so that a run stays short.
const programMax = headBytes + 4*opsMax

func FuzzRun(f *testing.F) {
	for _, seed := range failedOnce() {
		f.Add(Random(seed))
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		if _, err := Run(program[:min(len(program), programMax)]); err != nil {
			t.Error(err)
		}
	})
}
