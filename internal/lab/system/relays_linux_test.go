package system

import (
	"syscall"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// TestRelayDies lets two devices that only a relay joins ping each other, and takes the relay away: by its process, whose kernel says so, and by
// its cable, which nobody tells.
func TestRelayDies(t *testing.T) {
	for name, kill := range map[string]func(*lab.Host, *warrennet.Daemon) error{
		"process": func(_ *lab.Host, d *warrennet.Daemon) error {
			_ = d.Signal(syscall.SIGKILL) // its error is how the process ended
			return nil
		},
		"cable": func(h *lab.Host, _ *warrennet.Daemon) error { return h.Unplug() },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, n := start(t, "--relay=false")
			hosts, programs := map[string]*lab.Host{}, map[string]*warrennet.Daemon{}
			for _, name := range []string{"relay1", "relay2"} {
				h, err := n.Lab.Host(name, lab.None)
				must(t, err)
				token, err := n.Token(ctx, "--relay")
				must(t, err)
				d, err := n.StartRelay(ctx, h, token)
				must(t, err)
				hosts[name], programs[name] = h, d
			}
			x, y := device(t, ctx, n, "left", lab.Hard), device(t, ctx, n, "right", lab.Hard)
			p := ping(t, ctx, x, y)
			for _, d := range []*warrennet.Device{x, y} {
				must(t, d.Daemon().AwaitLog(ctx, "udp=true"))
			}
			st, err := x.AwaitPath(ctx, "right", "relay")
			must(t, err)
			home := st.Peer("right").Path.Relay
			for range 40 { // both relays are connected by now, and peers know of them
				if _, err := p.Ping(time.Second); err != nil {
					t.Fatal(err)
				}
			}
			must(t, kill(hosts[home], programs[home]))
			last, worst := time.Now(), time.Duration(0)
			for end := last.Add(6 * time.Second); time.Now().Before(end); {
				_, err := p.Ping(50 * time.Millisecond)
				worst = max(worst, time.Since(last))
				if err == nil {
					last = time.Now()
				}
			}
			t.Logf("%s died: nothing came for %s", home, worst)
			if worst > 2*time.Second {
				t.Errorf("without %s nothing came for %s", home, worst)
			}
		})
	}
}
