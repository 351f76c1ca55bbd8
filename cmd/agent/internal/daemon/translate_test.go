package daemon

import (
	"net/netip"
	"testing"
	"time"

	"warren/cmd/agent/internal/state"
)

// TestProbeTranslated: hosts are named as the LAN knows them, and probed as others do.
func TestProbeTranslated(t *testing.T) {
	w := newWorld(t)
	g := w.add("gate", 100, state.Routing{
		Advertise: []string{"192.168.1.0/24=10.77.1.0/24", "192.168.2.0/24"},
		Probe:     []netip.Addr{netip.MustParseAddr("192.168.1.7"), netip.MustParseAddr("192.168.2.8")},
	}, "10.77.1.0/24", "192.168.2.0/24")
	w.publish()
	w.run(5 * time.Second)
	for a, want := range map[string]bool{"10.77.1.7": true, "192.168.2.8": true, "192.168.1.7": false} {
		if got := g.probed[netip.MustParseAddr(a)] > 0; got != want {
			t.Errorf("%s is probed: %t", a, got)
		}
	}
	if len(g.probed) != 2 {
		t.Errorf("probed are %v", g.probed)
	}
}

func TestTranslate(t *testing.T) {
	for _, c := range []struct{ addr, to, want string }{
		{"192.168.1.7", "10.77.1.0/24", "10.77.1.7"},
		{"10.1.255.7", "10.2.128.0/17", "10.2.255.7"},
		{"10.1.2.3", "10.9.9.9/32", "10.9.9.9"},
		{"10.1.2.3", "0.0.0.0/0", "10.1.2.3"},
		{"fd00:1::5:6", "fd00:2::/48", "fd00:2::5:6"},
		{"fd00:1:2:3ff::9", "fd00:7:2:300::/56", "fd00:7:2:3ff::9"},
	} {
		if got := translate(netip.MustParseAddr(c.addr), netip.MustParsePrefix(c.to)); got.String() != c.want {
			t.Errorf("%s in %s is %s, want %s", c.addr, c.to, got, c.want)
		}
	}
}
