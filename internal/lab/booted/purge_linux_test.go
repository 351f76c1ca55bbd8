//go:build booted

package booted

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"warren/internal/sim/natmodel"
)

// inventory is everything on a machine that a package could leave: files with their kind, mode, owner and, where they are settings, content; users,
// units, processes, and what the kernel was told.
const inventory = `set -e
cd /
skip='^/(proc|sys|dev|run|tmp|var/(tmp|log|cache)|var/lib/(dpkg|apt)|root|var/lib/systemd/(random-seed|timers|timesync|catalog))(/|$)'
find / -xdev -printf '%p %y %m %u:%g %l\n' | grep -Ev "$skip" | sed 's/^/file /'
find /etc -xdev -type f -print0 | xargs -0 sha256sum | sed 's/^/content /'
find /run /dev /var/log /var/cache /var/lib/dpkg/info /var/lib/dpkg/triggers /var/lib/systemd -xdev | grep -E 'warren|wireguard' | sed 's/^/left /' || true
find /run -xdev -maxdepth 2 -type d | grep -Ev '/run/(systemd|lock|user|log|credentials|udev|initctl)' | sed 's/^/run /'
getent passwd | sed 's/^/user /'; getent group | sed 's/^/group /'
dpkg-query -f 'package ${Package} ${db:Status-Status}\n' -W
systemctl list-unit-files --no-legend --no-pager | sed 's/ *$//; s/^/unit-file /'
systemctl list-units --all --no-legend --no-pager --plain | awk '{print "unit", $1, $2}' | grep -Ev ' (apt|man-db|systemd-tmpfiles|dpkg|e2scrub|fstrim|run-|user|session|systemd-(hostnamed|logind|journal|timedated))' 
ps -eo comm | grep -v '^\(ps\|sed\|awk\|bash\|sh\|sort\|grep\|env\|nsenter\)$' | sort | uniq -c | sed 's/^/process /'
ip -o link | sed 's/^[0-9]*: \([^:@]*\).*/link \1/'; ip -4 -o addr | awk '{print "address", $2, $4}'
ip -4 rule | sed 's/^/rule /'; ip -6 rule | sed 's/^/rule6 /'
ip -4 route show table all | sed 's/^/route /'; ip -6 route show table all | sed 's/^/route6 /'
nft list ruleset | sed 's/^/nft /'
for f in $(find /proc/sys/net -type f -perm -u+r | grep -Ev 'stat_refresh|neigh|/conf/[^/]*(warren|host)|nf_conntrack|random|_mem$|flush|uuid|netfilter/nf_log'); do echo "sysctl $f $(tr '\n\t' '  ' <"$f" 2>/dev/null)"; done
`

// look takes the inventory.
func (m *machine) look() []string {
	m.w.t.Helper()
	lines := strings.Split(m.must("bash", "-c", inventory), "\n")
	slices.Sort(lines)
	return lines
}

// TestPurgeLeavesNothing: after removal and purge of both packages, which had been in use, with the kill switch on, a machine is as it was before.
func TestPurgeLeavesNothing(t *testing.T) {
	w := newWorld(t)
	m := w.machine("server", natmodel.Easy())
	must(t, m.Boot(w.ctx))
	m.must("systemctl", "start", "systemd-logind") // it is there later in any case
	before := m.look()
	if len(before) < 1000 {
		t.Fatalf("an inventory of %d lines", len(before))
	}

	m.install(*now, "warren")
	m.install(*now, "warren-coordinator")
	m.up()
	m.must("warren", "up", "--kill-switch", "--advertise", "10.9.0.0/16")
	m.until("serving", func() (bool, string) {
		s := m.unit("warren-coordinator.service", "ActiveState")
		return s == "active", s
	})
	m.must("warren-coordinator", "token", "create")
	during := m.look()
	for _, want := range []string{"link warren0", "nft table", "file /var/lib/warren/state.json", "unit-file warren.service", "file /var/lib/private/warren-coordinator/warren.db"} {
		if !slices.ContainsFunc(during, func(line string) bool { return strings.HasPrefix(line, want) }) {
			t.Errorf("while it is in use the inventory has no %q", want)
		}
	}

	m.must("apt-get", "remove", "--quiet", "--yes", "warren", "warren-coordinator")
	for _, line := range m.look() {
		for _, gone := range []string{"link warren", "nft table", "rule", "process", "file /usr/bin/warren", "file /run/warren"} {
			if strings.HasPrefix(line, gone) && !slices.Contains(before, line) {
				t.Errorf("after removal there is still: %s", line)
			}
		}
	}
	m.must("sh", "-c", "test -s /var/lib/warren/state.json && test -s /var/lib/private/warren-coordinator/warren.db")
	m.must("apt-get", "purge", "--quiet", "--yes", "warren", "warren-coordinator")
	if diff := cmp.Diff(before, m.look()); diff != "" {
		t.Errorf("before installation (-) and after purge (+):\n%s", diff)
	}
	must(t, m.Reboot(w.ctx))
	if failed := strings.TrimSpace(m.must("systemctl", "list-units", "--failed", "--no-legend", "--plain")); failed != "" {
		t.Errorf("units fail after a reboot: %s", failed)
	}
}
