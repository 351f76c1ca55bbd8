package system

import (
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
	"warren/internal/sim/natmodel"
)

// TestBlackHole has a cable that carries less than others do, and nobody who says so:
//
//	left --- easy NAT ---(MTU, no ICMP)--- internet --- right
//	                                          |
//	                                     coordinator
//
// The direct path is used for what it carries, TCP streams flow in both directions, and where a tunnel packet of 1280 bytes does not fit the
// relay carries those that are longer.
func TestBlackHole(t *testing.T) {
	for name, tc := range map[string]struct{ cable, want int }{
		"1400": {1400, 1328}, // less IPv4, UDP and WireGuard: 1340
		"1280": {1280, 1200},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, n := start(t)
			site, err := n.Lab.Site("small", lab.Access{NAT: natmodel.Easy(), MTU: tc.cable, BlackHole: true})
			must(t, err)
			h, err := n.Lab.HostAt("left", site)
			must(t, err)
			x := n.DeviceOn(h)
			must(t, x.StartDaemon(ctx))
			token, err := n.Token(ctx)
			must(t, err)
			must(t, x.Up(ctx, token))
			y := device(t, ctx, n, "right", lab.None)
			ping(t, ctx, x, y)
			awaitDirect(t, ctx, x, y)
			for _, d := range [][2]*warrennet.Device{{x, y}, {y, x}} {
				st, err := d[1].Status(ctx)
				must(t, err)
				began := time.Now()
				bits, err := warrennet.Throughput(ctx, d[0].Host, d[1].Host, st.Self.Addresses[0], 2*time.Second)
				must(t, err)
				if bits < 10e6 {
					t.Errorf("%s to %s: %.1f Mbit/s, %s", d[0].Name, d[1].Name, bits/1e6, time.Since(began))
				}
				_, err = d[0].Await(ctx, "aware of the path's MTU", func(s *warrennet.Status) bool {
					p := s.Peer(d[1].Name)
					return p != nil && p.Path.Kind == "direct" && p.Path.MTU == tc.want
				})
				must(t, err)
			}
		})
	}
}
