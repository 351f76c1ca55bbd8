package system

import (
	"syscall"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
	"warren/internal/sim/linkmodel"
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
			if worst := silence(p, 50*time.Millisecond); worst > 2*time.Second {
				t.Errorf("without %s nothing came for %s", home, worst)
			} else {
				t.Logf("%s died: nothing came for %s", home, worst)
			}
		})
	}
}

// silence pings for 6 s and gives the longest time without an answer.
func silence(p *warrennet.Pinger, each time.Duration) (worst time.Duration) {
	last := time.Now()
	for end := last.Add(6 * time.Second); time.Now().Before(end); {
		_, err := p.Ping(each)
		worst = max(worst, time.Since(last))
		if err == nil {
			last = time.Now()
		}
	}
	return worst
}

// TestNearestRelay: of relays in three regions the nearest becomes home and carries packets; when its cable is cut the next nearest does so within
// 2 s; and when it is back it becomes home again only once it has been nearer for a while, which is for package home's tests.
func TestNearestRelay(t *testing.T) {
	ctx, n := start(t, "--relay=false")
	hosts := map[string]*lab.Host{}
	for name, delay := range map[string]time.Duration{"far": 60 * time.Millisecond, "near": 3 * time.Millisecond, "middle": 25 * time.Millisecond} {
		s, err := n.Lab.Site(name, lab.Access{Link: &linkmodel.Options{Delay: delay}})
		must(t, err)
		hosts[name], err = s.Host(name)
		must(t, err)
		token, err := n.Token(ctx, "--relay")
		must(t, err)
		_, err = n.StartRelay(ctx, hosts[name], token, "--region", "region-"+name)
		must(t, err)
	}
	x, y := device(t, ctx, n, "left", lab.Hard), device(t, ctx, n, "right", lab.Hard)
	p := ping(t, ctx, x, y)
	atHome := func(want string) {
		t.Helper()
		for _, d := range [][2]*warrennet.Device{{x, y}, {y, x}} {
			_, err := d[0].Await(ctx, "relayed by "+want, func(s *warrennet.Status) bool {
				peer := s.Peer(d[1].Name)
				return peer != nil && peer.Path.Kind == "relay" && peer.Path.Relay == want
			})
			must(t, err)
		}
	}
	atHome("near")
	for _, d := range []*warrennet.Device{x, y} {
		must(t, d.Daemon().AwaitLog(ctx, `msg="home relay" relay=near region=region-near`))
		must(t, d.Daemon().AwaitLog(ctx, `relay=near udp=true`))
		must(t, d.Daemon().AwaitLog(ctx, `relay=middle udp=true`))
	}
	for range 40 { // each knows the other's home and standby by now
		if _, err := p.Ping(time.Second); err != nil {
			t.Fatal(err)
		}
	}
	must(t, hosts["near"].Unplug())
	// Silence begins with the last answer, up to a ping before the cut, and ends with one that took 100 ms over the relay that is left.
	const each, answer = 120 * time.Millisecond, 100 * time.Millisecond
	worst := silence(p, each)
	t.Logf("the nearest relay died: nothing came for %s", worst)
	if worst > 2*time.Second+each+answer {
		t.Errorf("nothing came for %s", worst)
	}
	atHome("middle")
}
