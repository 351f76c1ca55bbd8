package sim

import (
	"net/netip"
	"testing"
	"time"

	"warren/internal/sim/linkmodel"
	"warren/internal/sim/natmodel"
	"warren/nat/path"
)

// loseFirst takes a device's first uplink away, as the kernel tells it.
func (w *world) loseFirst(d *device) {
	w.detach(d.ifaces[0])
	d.ifaces = d.ifaces[1:]
	w.changeOf(d.name+" loses an uplink", true)
	d.handle(path.NetworkChanged{})
	d.gather()
}

// TestUplinkLost: traffic goes on directly over the second uplink, whose address outside the peer knows already, whether or not a relay helps.
func TestUplinkLost(t *testing.T) {
	const often = 20 * time.Millisecond
	bothWays := func(a, b *device) flow { return flow{from: a, to: b, every: often, echo: true} }
	for name, tc := range map[string]struct {
		relay bool
		flow  func(a, b *device) flow
		bound time.Duration
	}{
		"with a relay": {true, bothWays, 150 * time.Millisecond},
		"without":      {false, bothWays, 300 * time.Millisecond},
		// The peer hears nothing and must find out by itself.
		"only the peer sends": {false, func(a, b *device) flow { return flow{from: b, to: a, every: often} }, 600 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			w := scene(1, *natmodel.Easy(), *natmodel.Easy())
			a, b := w.devices[0], w.devices[1]
			second := w.addBox("site 3", w.root, *natmodel.Easy(), nil, netip.MustParseAddr("203.0.113.30"), linkmodel.Options{Delay: 10 * time.Millisecond})
			a.join(second, 1)
			a.gather()
			w.startFlow(tc.flow(a, b))
			w.run(10 * time.Second)
			lost := a.ifaces[0].v4
			if !direct(a, b) || a.link(b).path.Local != lost {
				t.Fatalf("before, the paths are %+v and %+v", a.link(b).path, b.link(a).path)
			}
			if !tc.relay {
				w.relays[0].up = false
				w.settleRelays()
				w.run(time.Second)
			}
			w.loseFirst(a)
			at := netip.MustParseAddr("203.0.113.30")
			took := w.until(5*time.Second, func() bool {
				return direct(a, b) && a.link(b).path.Local == a.ifaces[0].v4 && b.link(a).path.Remote.Addr() == at
			})
			t.Logf("direct over the second uplink after %s", took)
			if took > tc.bound || w.failure != nil {
				t.Errorf("after %s the paths are %+v and %+v; %v", took, a.link(b).path, b.link(a).path, w.failure)
			}
		})
	}
}
