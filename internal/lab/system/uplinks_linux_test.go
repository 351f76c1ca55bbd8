package system

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// TestUplinkLost unplugs the uplink in use of a host with two, both behind easy NATs. What the internet sees of the other is known to the peer by
// then, and traffic goes on directly by that.
//
//	desk --- easy NAT --- internet --- easy NAT (fibre) --- eth0 office
//	                             \--- easy NAT (mobile) --- eth1
func TestUplinkLost(t *testing.T) {
	ctx, n := start(t)
	x := device(t, ctx, n, "desk", lab.Easy)
	y := deviceAt(t, ctx, n, "office", site(t, n, "fibre", lab.Easy), site(t, n, "mobile", lab.Easy))
	p, q := ping(t, ctx, y, x), ping(t, ctx, x, y)
	beginBy(t, ctx, x, y, y.Uplinks[0].Addr4, y.Uplinks[0].Public4)
	losses(t, q, 3*time.Second) // a while in peace
	must(t, y.Unplug("eth0"))
	began := time.Now()
	answersWithin(t, ctx, "ping from the host", p, began, back)
	answersWithin(t, ctx, "ping to the host", q, began, back)
	leavesBy(t, ctx, x, y, 1)
	for _, d := range []*warrennet.Device{x, y} {
		if took := lastDirect(t, ctx, d).Sub(began); took > back {
			t.Errorf("%s is direct again after %s, want %s", d.Name, took, back)
		} else {
			t.Logf("%s is direct again after %d ms", d.Name, took.Milliseconds())
		}
	}
	knows(t, ctx, y, y.Uplinks[1])
}

// knows waits until a device offers its peers what the internet sees of these uplinks by IPv4, and of no others.
func knows(t *testing.T, ctx context.Context, d *warrennet.Device, uplinks ...*lab.Uplink) {
	t.Helper()
	_, err := d.Await(ctx, "offering its addresses outside", func(s *warrennet.Status) bool {
		seen := map[string]bool{}
		for _, c := range s.NAT.Candidates {
			if at, ok := strings.CutPrefix(c, "server reflexive "); ok {
				a, err := netip.ParseAddrPort(at)
				must(t, err)
				if a.Addr().Is4() {
					seen[a.Addr().String()] = true
				}
			}
		}
		for _, u := range uplinks {
			if !seen[u.Public4.String()] {
				return false
			}
		}
		return len(seen) == len(uplinks)
	})
	must(t, err)
}

// lastDirect is when a device with one peer last found a direct path to it.
func lastDirect(t *testing.T, ctx context.Context, d *warrennet.Device) (at time.Time) {
	t.Helper()
	s, err := d.Status(ctx)
	must(t, err)
	for _, c := range s.Peers[0].History {
		if c.Kind == "direct" {
			at = c.At
		}
	}
	return at
}
