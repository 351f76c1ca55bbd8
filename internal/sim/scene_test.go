package sim

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"warren/internal/sim/linkmodel"
	"warren/internal/sim/natmodel"
	"warren/nat/path"
)

// scene is a world of sites in the internet, with a device at each.
func scene(seed uint64, kinds ...natmodel.Options) *world {
	w := newWorld(began, seed)
	w.relays = []*relay{{name: "r1", up: true, delay: 10 * time.Millisecond}}
	for i, kind := range kinds {
		at := netip.AddrFrom4([4]byte{203, 0, 113, byte(10 + i)})
		w.addDevice(w.addBox(fmt.Sprintf("site %d", i+1), w.root, kind, nil, at, linkmodel.Options{Delay: 5 * time.Millisecond}))
	}
	w.run(time.Second)
	return w
}

// talk has the first two devices talk.
func (w *world) talk() (a, b *device) {
	w.startFlow(flow{from: w.devices[0], to: w.devices[1], every: 50 * time.Millisecond, echo: true})
	return w.devices[0], w.devices[1]
}

func direct(a, b *device) bool {
	return a.link(b).path.Kind == path.Direct && b.link(a).path.Kind == path.Direct
}

// until runs until cond holds, and tells how long that took: limit, if it does not.
func (w *world) until(limit time.Duration, cond func() bool) time.Duration {
	for start := w.now; ; w.run(10 * time.Millisecond) {
		if took := w.now.Sub(start); took >= limit || w.failure != nil || cond() {
			return took
		}
	}
}

// Every pair of kinds becomes direct at once if the reference says that it can, and never if it says that it cannot.
func TestProspect(t *testing.T) {
	kinds := []natmodel.Options{
		{}, {Filtering: natmodel.FilterAddressAndPort}, {Mapping: natmodel.EndpointIndependent, NoUDP: true}, *natmodel.Easy(), *natmodel.Hard(),
	}
	for f := natmodel.FilterNone; f <= natmodel.FilterAddressAndPort; f++ {
		kinds = append(kinds, natmodel.Options{Mapping: natmodel.EndpointIndependent, Filtering: f, Ports: natmodel.RandomPort},
			natmodel.Options{Mapping: natmodel.AddressDependent, Filtering: f, Ports: natmodel.RandomPort},
			natmodel.Options{Mapping: natmodel.AddressAndPortDependent, Filtering: f, Ports: natmodel.SequentialPort})
	}
	count := map[prospect]int{}
	for i, x := range kinds {
		for _, y := range kinds[i:] {
			w := scene(uint64(i), x, y)
			a, b := w.talk()
			can := w.prospect(a, b)
			count[can]++
			took := w.until(20*time.Second, func() bool { return direct(a, b) })
			if w.failure != nil || can == yes && took > time.Second || can == no && took < 20*time.Second {
				t.Errorf("%s against %s: the reference says %d of 0 to 2; direct after %s; %v", x, y, can, took, w.failure)
			}
			if can != w.prospect(b, a) {
				t.Errorf("%s against %s: the reference depends on the order", x, y)
			}
		}
	}
	if count[yes] < 20 || count[no] < 10 || count[maybe] < 10 {
		t.Errorf("too few of a kind: %v", count)
	}
}

// Two devices of one site talk inside; of two sites behind one CGNAT only if that turns packets around.
func TestCGNAT(t *testing.T) {
	for _, hairpin := range []bool{false, true} {
		w := newWorld(began, 1)
		w.relays = []*relay{{name: "r1", up: true}}
		o := *natmodel.Easy()
		o.Hairpin = hairpin
		big := w.addBox("CGNAT", w.root, o, nil, netip.MustParseAddr("203.0.113.1"), linkmodel.Options{})
		for i := range 2 {
			w.addDevice(w.addBox(fmt.Sprint("site ", i), big, *natmodel.Easy(), nil, netip.AddrFrom4([4]byte{100, 64, 0, byte(10 + i)}), linkmodel.Options{}))
		}
		w.addDevice(w.boxes[1])
		w.run(time.Second)
		a, b := w.talk()
		c := w.devices[2]
		w.startFlow(flow{from: a, to: c, every: 50 * time.Millisecond, echo: true})
		w.run(10 * time.Second)
		if direct(a, b) != hairpin || !direct(a, c) || w.failure != nil {
			t.Errorf("hairpin %v: direct %v, inside the site %v, %v", hairpin, direct(a, b), direct(a, c), w.failure)
		}
		if at := a.link(c).path.Remote; at != netip.AddrPortFrom(c.ifaces[0].v4, c.port) {
			t.Errorf("inside the site the path goes to %s", at)
		}
	}
}

// Birthday probing over the models that the lab has too: how many of the runs are direct within 15 s, beside the expected value.
func TestBirthday(t *testing.T) {
	const runs = 60
	var took []time.Duration
	for seed := range uint64(runs) {
		w := scene(seed, *natmodel.Easy(), *natmodel.Hard())
		a, b := w.talk()
		if d := w.until(15*time.Second, func() bool { return direct(a, b) }); direct(a, b) {
			took = append(took, d)
		}
		if w.failure != nil {
			t.Fatalf("seed %d: %v", seed, w.failure)
		}
	}
	slices.Sort(took)
	want := 1 - math.Pow(1-256.0/64512, huntChecks)
	t.Logf("%d of %d direct within 15 s (expected %.1f %%), median %s", len(took), runs, 100*want, took[len(took)/2])
	if len(took) < runs*95/100 {
		t.Errorf("%d of %d became direct", len(took), runs)
	}
}

// After hours in which only the relay got through, a way that opens is found within a minute and a bit, without anybody being told.
func TestWayOpensAfterHours(t *testing.T) {
	w := scene(1, *natmodel.Easy(), *natmodel.Easy())
	ways := [][2]*box{{w.boxes[0], w.boxes[1]}, {w.boxes[1], w.boxes[0]}}
	for _, way := range ways {
		w.cuts[way] = true
	}
	w.change(false)
	a, b := w.talk()
	w.run(3 * time.Hour)
	clear(w.cuts)
	w.change(false)
	if took := w.until(2*directSlow, func() bool { return direct(a, b) }); took > directSlow || w.failure != nil {
		t.Errorf("direct after %s; %v", took, w.failure)
	}
}

// A device with two uplinks that are alike, both with jitter, stays with one of them.
func TestTwoUplinksDoNotFlap(t *testing.T) {
	for seed := range uint64(2) {
		w := scene(seed, *natmodel.Easy(), *natmodel.Easy())
		a, b := w.devices[0], w.devices[1]
		for i, site := range w.boxes {
			site.setLink(linkmodel.Options{Delay: 10 * time.Millisecond, Jitter: 8 * time.Millisecond}, seed+uint64(i))
		}
		a.leave()
		second := w.addBox("site 3", w.root, *natmodel.Easy(), nil, netip.MustParseAddr("203.0.113.30"),
			linkmodel.Options{Delay: 10 * time.Millisecond, Jitter: 8 * time.Millisecond})
		a.join(w.boxes[0], 0)
		a.join(second, 1)
		a.gather()
		w.run(time.Second)
		w.talk()
		changes := 0
		for range 30 {
			before := a.link(b).path.Local
			w.run(time.Minute)
			if a.link(b).path.Local != before {
				changes++
			}
		}
		if !direct(a, b) || w.failure != nil || changes > betterStable {
			t.Errorf("seed %d: %d changes of uplink in half an hour; %v", seed, changes, w.failure)
		}
	}
}
