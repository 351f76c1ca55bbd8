package networks

import (
	"strings"
	"syscall"
	"testing"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// hostState is all of a host that Warren may change: rules, routes, firewall, sysctls.
func (w *world) hostState(h *lab.Host) string {
	w.t.Helper()
	out, err := h.Command(w.ctx, "sh", "-c", `ip rule; ip -6 rule; ip route show table all | grep -v 'table local' | sort; ip -6 route show table all | grep -v 'table local' | sort
nft list ruleset; sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding; sysctl -a 2>/dev/null | grep -E 'rp_filter|src_valid_mark|accept_ra |forwarding' | grep -v warren0 | sort`).CombinedOutput()
	must(w.t, err)
	return string(out)
}

// TestNothingLeftBehind: whatever a gateway, a site's gateway, an exit node and an exit node's user have changed on their hosts is as it was before after
// down, after kill -9 and the next start, and after kill -9 and cleanup.
func TestNothingLeftBehind(t *testing.T) {
	w := newWorld(t, `{
		"grants": [{"src": ["*"], "dst": ["autogroup:internet", "10.0.0.0/8"], "ip": ["*"]}],
		"autoApprovers": {"routes": {"10.0.0.0/8": ["tag:gateway"]}, "exitNode": ["tag:gateway"]},
	}`)
	exit := w.device(w.host(w.Lab.Host("exit", lab.None)), "tag:gateway", "--advertise-exit")
	w.awaitAdvertised(exit, "0.0.0.0/0", "approved")
	for name, settings := range map[string][]string{
		"gateway":  {"--advertise", "10.5.0.0/16", "--advertise", "10.6.0.0/24=10.7.0.0/24"},
		"site":     {"--site", "10.8.0.0/16"},
		"exitnode": {"--advertise-exit"},
		"user":     {"--exit-node", "exit"},
	} {
		t.Run(name, func(t *testing.T) {
			h := w.host(w.Lab.Host(name, lab.Easy))
			before := w.hostState(h)
			d := w.device(h, "tag:gateway", settings...)
			w.awaitChanged(d, before)
			same := func(when string) {
				t.Helper()
				if after := w.hostState(h); after != before {
					t.Errorf("%s:\n%s", when, lineDiff(before, after))
				}
			}
			must(t, d.Warren(w.ctx, nil, "down"))
			same("after down")

			must(t, d.Warren(w.ctx, nil, "up"))
			w.awaitChanged(d, before)
			_ = d.Daemon().Signal(syscall.SIGKILL)
			text, err := d.Text(w.ctx, "cleanup")
			must(t, err)
			t.Log(text)
			same("after kill -9 and cleanup")

			must(t, d.StartDaemon(w.ctx))
			w.awaitChanged(d, before)
			if text, err := d.Text(w.ctx, "cleanup"); err == nil || !strings.Contains(text, "warren down") {
				t.Errorf("cleanup while a daemon runs: %v: %s", err, text)
			}
			must(t, d.Daemon().Signal(syscall.SIGTERM))
			same("after the daemon was stopped")

			must(t, d.StartDaemon(w.ctx))
			w.awaitChanged(d, before)
			_ = d.Daemon().Signal(syscall.SIGKILL)
			must(t, d.StartDaemon(w.ctx))
			must(t, d.Warren(w.ctx, nil, "down"))
			same("after kill -9, start and down")
		})
	}
}

// awaitChanged waits until a device has what its settings ask for from the host.
func (w *world) awaitChanged(d *warrennet.Device, before string) {
	w.t.Helper()
	_, err := d.Await(w.ctx, "done with its host", func(s *warrennet.Status) bool {
		for _, a := range s.Advertised {
			if a.State != "approved" {
				return false
			}
		}
		return s.State == "up" && (s.Exit == nil || s.Exit.Node != "") && w.hostState(d.Host) != before
	})
	must(w.t, err)
}

// lineDiff tells which lines came and went.
func lineDiff(before, after string) string {
	var out []string
	had, has := strings.Split(before, "\n"), strings.Split(after, "\n")
	for _, l := range had {
		if !strings.Contains(after, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range has {
		if !strings.Contains(before, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}
