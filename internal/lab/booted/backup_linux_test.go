//go:build booted

package booted

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"warren/internal/lab/warrennet"
)

// TestCoordinatorRestored: root backs up a service that runs as a user of its own, and restores it over the state that is there, and where none is. The
// service can use all of it, and devices follow.
func TestCoordinatorRestored(t *testing.T) {
	w := newWorld(t)
	m := w.hub()
	a, b := w.join(m, "left"), w.join(m, "right")
	s, err := b.Status(w.ctx)
	must(t, err)
	p := &peer{a, s.Self.Addresses[0]}
	w.reached(p, "at first")
	m.must("warren-coordinator", "check")
	m.must("warren-coordinator", "backup", "/root/warren.backup")
	devices := m.must("warren-coordinator", "device", "list", "--json")
	m.must("warren-coordinator", "device", "rename", "right", "other")
	late := w.join(m, "late")

	const dir = "/var/lib/private/warren-coordinator"
	for _, over := range []struct{ what, remove, flag string }{
		{"over the state that is there", "true", "--replace"},
		{"where no state is", "rm -r " + dir + " /var/lib/warren-coordinator", "--json=false"},
	} {
		m.must("systemctl", "stop", "warren-coordinator.service")
		m.must("sh", "-c", over.remove)
		t.Log(m.must("warren-coordinator", "restore", over.flag, "/root/warren.backup"))
		m.must("systemctl", "start", "warren-coordinator.service")
		m.must("warren-coordinator", "check")
		uid := strings.TrimSpace(m.must("stat", "--format=%u", dir))
		if alien := m.must("find", dir, "!", "-user", uid); uid == "0" || alien != "" {
			t.Errorf("%s: the directory is user %s's, and of others are %q", over.what, uid, alien)
		}
		for _, d := range []*warrennet.Device{a, b} {
			_, err := d.Await(w.ctx, "connected, with one peer", func(s *warrennet.Status) bool { return s.Coordinator.Connected && len(s.Peers) == 1 })
			must(t, err)
		}
		w.reached(p, over.what)
		if got, want := names(t, m.must("warren-coordinator", "device", "list", "--json")), names(t, devices); !slices.Equal(got, want) {
			t.Errorf("%s: devices %q, want %q", over.what, got, want)
		}
		_, err = late.Await(w.ctx, "told to join again", func(s *warrennet.Status) bool {
			return s.State == "rejected" && strings.Contains(strings.Join(s.Warnings, " "), "join again with a new token")
		})
		must(t, err)
	}
}

// names gives those of a list of devices.
func names(t *testing.T, list string) (out []string) {
	t.Helper()
	var all []struct{ Name string }
	must(t, json.Unmarshal([]byte(list), &all))
	for _, d := range all {
		out = append(out, d.Name)
	}
	return out
}
