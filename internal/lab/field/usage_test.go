package field

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// stat is a line of /proc/PID/stat: 12 s in user mode, 3.04 s in the kernel, 1,000 pages.
const stat = "4711 (tailscaled) S 1 4711 4711 0 -1 4194560 9 0 0 0 1200 304 77 88 20 0 14 0 123456 99999999 1000 18446744073709551615 1 1 0 0"

func TestParseStat(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       Usage
		err        string
	}{
		{"a program", stat, Usage{15040 * time.Millisecond, 4096000}, ""},
		{"blanks and parentheses in the name", strings.Replace(stat, "tailscaled", "a) b (c", 1), Usage{15040 * time.Millisecond, 4096000}, ""},
		{"too short", stat[:60], Usage{}, "not in the form"},
		{"no name", "4711 S 1", Usage{}, "not in the form"},
		{"empty", "", Usage{}, "not in the form"},
		{"a word", strings.Replace(stat, "1200", "many", 1), Usage{}, `field 14 of /proc/PID/stat is "many"`},
		{"a negative number", strings.Replace(stat, "304", "-304", 1), Usage{}, `field 15 of /proc/PID/stat is "-304"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseStat(c.text, 4096)
			checkError(t, err, c.err)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("usage (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUsageOf(t *testing.T) {
	one, err := UsageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	two, err := UsageOf(os.Getpid(), os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if one.Resident < 1e6 || two.Resident < one.Resident*3/2 {
		t.Errorf("once %+v, twice %+v", one, two)
	}
	if none, err := UsageOf(); err != nil || none != (Usage{}) {
		t.Errorf("of none: %+v, %v", none, err)
	}
	_, err = UsageOf(1 << 30)
	checkError(t, err, "usage of process 1073741824")
}
