//go:build booted

package booted

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// exposure is the most that systemd-analyze may say about a unit.
const exposure = 2.5

// TestUnits: systemd finds no fault with the units, and that they can do little harm.
func TestUnits(t *testing.T) {
	w := newWorld(t)
	m := w.booted("laptop")
	m.install(*now, "warren-coordinator")
	units := strings.Fields(m.must("sh", "-c", "dpkg --listfiles warren warren-coordinator | grep '^/usr/lib/systemd/system/.*[.]service$'"))
	if len(units) < 3 {
		t.Fatalf("units %v", units)
	}
	if said := m.must("systemd-analyze", append([]string{"verify", "--man=no"}, units...)...); strings.TrimSpace(said) != "" {
		t.Errorf("systemd-analyze verify: %s", said)
	}
	overall := regexp.MustCompile(`Overall exposure level for (\S+): ([0-9.]+)`)
	for _, unit := range units {
		said := m.must("systemd-analyze", "security", "--no-pager", unit[strings.LastIndex(unit, "/")+1:])
		found := overall.FindStringSubmatch(said)
		if found == nil {
			t.Fatalf("systemd-analyze security says %s", said)
		}
		level, err := strconv.ParseFloat(found[2], 64)
		must(t, err)
		t.Logf("%s: exposure %.1f", found[1], level)
		if level > exposure {
			t.Errorf("%s: exposure %.1f; at most %.1f:\n%s", found[1], level, exposure, said)
		}
	}
}
