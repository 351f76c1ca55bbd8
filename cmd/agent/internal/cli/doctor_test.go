package cli

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warren/cmd/agent/internal/daemon"
	"warren/cmd/agent/internal/doctor"
	"warren/cmd/internal/cmdline"
)

// TestDoctorWithoutInterface: a tunnel in the daemon's own process needs no device, whatever this machine has.
func TestDoctorWithoutInterface(t *testing.T) {
	if doctor.Userspace != daemon.UserspaceName {
		t.Errorf("doctor calls it %q, the daemon %q", doctor.Userspace, daemon.UserspaceName)
	}
	dir := t.TempDir()
	var out, errs bytes.Buffer
	status := runAt(time.Now, []string{"doctor", "--json", "--tun", daemon.UserspaceName, "--state", filepath.Join(dir, "state"), "--socket", filepath.Join(dir, "s")}, strings.NewReader(""), &out, &errs)
	var found []checkJSON
	if err := json.Unmarshal(out.Bytes(), &found); err != nil || status != cmdline.ExitDone {
		t.Fatalf("status %d, %v, %s%s", status, err, &out, &errs)
	}
	notNeeded := map[string]bool{}
	for _, f := range found {
		if f.Text == "not needed: the tunnel has no interface" {
			notNeeded[f.Name] = true
		}
	}
	for _, name := range []string{"tun", "rights", "other-vpn", "rules", "overlaps", "forwarding", "firewall"} {
		if !notNeeded[name] {
			t.Errorf("%s is checked: %s", name, &out)
		}
	}
}
