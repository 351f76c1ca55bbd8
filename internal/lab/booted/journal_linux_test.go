//go:build booted

package booted

import (
	"encoding/json"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"warren/internal/lab/warrennet"
)

// TestJournal: what the agent logs has the priority of its level in the journal, and no time of its own; doctor knows the unit, and a report has the
// journal in it.
func TestJournal(t *testing.T) {
	w := newWorld(t)
	m, _ := w.joined("laptop")
	m.must("warren", "log-level", "debug")
	m.must("warren", "down")
	m.must("warren", "up")
	_ = w.Serving().Signal(syscall.SIGKILL) // its error is how it ended
	m.await("without the coordinator", func(s *warrennet.Status) bool { return !s.Coordinator.Connected })
	m.must("journalctl", "--sync")
	priority := map[string]string{"DEBUG": "7", "INFO": "6", "WARN": "4", "ERROR": "3"}
	level := regexp.MustCompile(`^level=([A-Z]+) msg=`)
	seen := map[string]int{}
	for line := range strings.Lines(m.must("journalctl", "--unit=warren.service", "_COMM=warren", "--output=json", "--no-pager")) {
		var entry struct{ Message, Priority string }
		must(t, json.Unmarshal([]byte(line), &entry))
		found := level.FindStringSubmatch(entry.Message)
		if found == nil {
			t.Errorf("not as a log has it: %q", entry.Message)
			continue
		}
		seen[found[1]]++
		if entry.Priority != priority[found[1]] {
			t.Errorf("priority %s: %s", entry.Priority, entry.Message)
		}
	}
	if seen["DEBUG"] == 0 || seen["INFO"] == 0 || seen["WARN"] == 0 {
		t.Errorf("lines by level: %v", seen)
	}

	found, err := m.Output(w.ctx, "warren", "doctor")
	for _, want := range []string{"ok       service       warren.service is active and enabled", "failed   coordinator ", "ok       tun ", "ok       state "} {
		if !strings.Contains(found, want) {
			t.Errorf("doctor (%v) does not say %q:\n%s", err, want, found)
		}
	}
	m.must("warren", "bugreport", "--output", "/root/report.tar.gz")
	m.must("tar", "-xzf", "/root/report.tar.gz", "-C", "/root")
	for file, want := range map[string]string{"journal.txt": "level=DEBUG", "units.txt": "ExecStart=/usr/bin/warren daemon", "doctor.json": "is active and enabled"} {
		m.must("grep", "-q", want, "/root/report/"+file)
	}
}
