package carry

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/tunnel/gateway"
)

func TestConfigured(t *testing.T) {
	o := newOffice(t, addrs("10.1.0.1"), CIDR{Prefix: lan, Targets: addrs("10.1.0.1", "10.1.0.2")}) // the second never answers
	o.run(time.Second)
	o.told("10.1.0.0/16 working")
	o.busy(10 * time.Second)
	o.told()
	for i := range 20 { // at any moment between probes
		o.busy(time.Duration(i*17) * time.Millisecond)
		o.cut = true
		at := o.now
		o.busy(5*time.Second, o.changed)
		o.told("10.1.0.0/16 failing")
		if d := o.now.Sub(at); d > 1100*time.Millisecond || d < 400*time.Millisecond {
			t.Errorf("told after %s", d)
		}
		o.busy(3 * time.Second)
		o.cut = false
		at = o.now
		o.busy(5*time.Second, o.changed)
		o.told("10.1.0.0/16 working")
		if d := o.now.Sub(at); d > 400*time.Millisecond {
			t.Errorf("works again after %s", d)
		}
		o.busy(2 * time.Second)
	}
}

// TestConfiguredDead has a host configured that never answers: that is shown, since somebody has named it.
func TestConfiguredDead(t *testing.T) {
	o := newOffice(t, addrs("10.1.0.9"), CIDR{Prefix: lan, Targets: addrs("10.1.0.1")})
	o.learn("10.1.0.9") // does not count
	o.run(5 * time.Second)
	o.told("10.1.0.0/16 failing")
	if len(o.probes) != 1 {
		t.Errorf("probes %v", o.probes)
	}
}

func TestCadence(t *testing.T) {
	one := addrs("10.1.0.1")[0]
	o := newOffice(t, addrs("10.1.0.1"), CIDR{Prefix: lan, Targets: addrs("10.1.0.1")})
	o.run(time.Minute)
	o.probes = map[netip.Addr]int{}
	o.run(time.Hour)
	if n := o.probes[one]; n < 230 || n > 245 {
		t.Errorf("%d probes in an idle hour", n)
	}
	o.probes = map[netip.Addr]int{}
	o.busy(time.Minute)
	if n := o.probes[one]; n < 165 || n > 185 {
		t.Errorf("%d probes in a busy minute", n)
	}
	// Idle, too, it is found out quickly once a probe was not answered.
	o.run(time.Minute)
	o.cut = true
	o.health = nil
	at := o.now
	o.run(time.Minute, o.changed)
	o.told("10.1.0.0/16 failing")
	if d := o.now.Sub(at); d > 16*time.Second {
		t.Errorf("told after %s", d)
	}
	// And one that becomes busy is probed at once.
	o.cut = false
	o.run(20 * time.Second)
	o.probes = map[netip.Addr]int{}
	o.busy(time.Millisecond)
	if o.probes[one] != 1 {
		t.Errorf("%v", o.probes)
	}
}

// TestBusyLAN: where hosts send that no device uses by this gateway, as those of a sibling's users do to a VRRP master, the LAN is in use all the same.
func TestBusyLAN(t *testing.T) {
	o := newOffice(t, addrs("10.1.0.1"), CIDR{Prefix: lan, Targets: addrs("10.1.0.1")})
	o.run(time.Minute)
	o.told("10.1.0.0/16 working")
	for range 37 { // not a multiple of idleProbe
		o.learn("10.1.0.9")
		o.run(time.Second)
	}
	o.cut = true
	at := o.now
	o.run(time.Minute, o.changed)
	o.told("10.1.0.0/16 failing")
	if d := o.now.Sub(at); d > 1100*time.Millisecond {
		t.Errorf("told after %s", d)
	}
}

func TestUses(t *testing.T) {
	o := newOffice(t, nil, CIDR{Prefix: lan, Siblings: []ID{id('s')}})
	o.ping('d', 1, 's', true, lan)
	o.ping('e', 1, self, true, lan)
	for device, want := range map[byte]ID{'d': id('s'), 'e': id(self), 'f': {}} {
		if got := o.core.Uses(id(device), lan); got != want {
			t.Errorf("%c uses %v, want %v", device, got, want)
		}
	}
	if got := o.core.Uses(id('d'), netip.MustParsePrefix("10.1.0.0/17")); got != (ID{}) {
		t.Errorf("of what nobody carries %v is used", got)
	}
}

func TestLearnt(t *testing.T) {
	o := newOffice(t, nil, CIDR{Prefix: lan})
	o.busy(time.Minute)
	o.told() // nothing is known, and nothing held against it
	o.learn("10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.0", "10.1.255.255", "10.2.0.1", "224.0.0.1", "fe80::1", "::1")
	for _, a := range addrs("10.1.0.1", "10.1.0.3", "10.1.0.4") {
		o.up[a] = true
	}
	o.busy(20 * time.Second)
	o.told("10.1.0.0/16 working")
	for _, a := range addrs("10.1.0.0", "10.1.255.255", "10.2.0.1", "224.0.0.1", "fe80::1", "::1") {
		if o.probes[a] > 0 {
			t.Errorf("%s is probed", a)
		}
	}
	for _, a := range addrs("10.1.0.2", "10.1.0.5") {
		if n := o.probes[a]; n != triesEach {
			t.Errorf("%s, which does not answer, is probed %d times", a, n)
		}
	}
	// Two of three are switched off, one by one: nothing is wrong with the LAN.
	o.up[addrs("10.1.0.1")[0]] = false
	o.busy(10 * time.Second)
	o.up[addrs("10.1.0.3")[0]] = false
	o.busy(10 * time.Second)
	o.told()
	o.cut = true
	at := o.now
	o.busy(5*time.Second, o.changed)
	o.told("10.1.0.0/16 failing")
	if d := o.now.Sub(at); d > 1300*time.Millisecond {
		t.Errorf("told after %s", d)
	}
	o.busy(time.Hour)
	o.told() // it stays so
	// Any of those that ever answered shows that it is back.
	o.cut = false
	o.up = map[netip.Addr]bool{addrs("10.1.0.1")[0]: true}
	o.busy(3 * time.Second)
	o.told("10.1.0.0/16 working")
}

// TestLone has one host to judge by, which is switched off while others, who do not answer, still send.
func TestLone(t *testing.T) {
	o := newOffice(t, nil, CIDR{Prefix: lan})
	o.up[addrs("10.1.0.1")[0]] = true
	o.learn("10.1.0.1")
	o.busy(5 * time.Second)
	o.told("10.1.0.0/16 working")
	o.up = map[netip.Addr]bool{}
	for range 20 {
		o.busy(time.Second)
		o.learn("10.1.0.2")
	}
	o.told("10.1.0.0/16 unknown")
	o.up[addrs("10.1.0.1")[0]] = true
	o.busy(2 * time.Minute)
	o.learn("10.1.0.1")
	o.busy(5 * time.Second)
	o.told("10.1.0.0/16 working")
	// Nobody sends any more.
	o.cut = true
	at := o.now
	o.busy(20*time.Second, o.changed)
	o.told("10.1.0.0/16 failing")
	if d := o.now.Sub(at); d < 2*time.Second || d > 5*time.Second {
		t.Errorf("told after %s", d)
	}
}

// TestMuch has more hosts seen than are remembered.
func TestMuch(t *testing.T) {
	o := newOffice(t, nil, CIDR{Prefix: lan})
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 3000 {
		a := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		o.up[a] = r.IntN(10) == 0
		o.handle(SeenHost{a})
		o.run(100 * time.Millisecond)
		if n := len(o.core.cidrs[0].targets); n > maxLearnt {
			t.Fatalf("%d hosts are remembered", n)
		}
	}
	o.told("10.1.0.0/16 working") // those that do not answer have made room
	few, all := o.core.cidrs[0].known()
	if len(few) != MaxTargets || len(all) < 4 {
		t.Errorf("%d, %d are known to answer", len(few), len(all))
	}
}

// TestLate brings answers that say nothing.
func TestLate(t *testing.T) {
	one := addrs("10.1.0.1")[0]
	o := newOffice(t, nil, CIDR{Prefix: lan, Targets: addrs("10.1.0.1")})
	for i := range 200 {
		o.run(50 * time.Millisecond)
		last := o.core.cidrs[0].targets[0].sequence
		for _, seq := range []uint16{last + 1, last - 16, last - 1000, last + uint16(i*300) + 2} {
			o.handle(Echoed{one, seq})
		}
		o.handle(Echoed{addrs("10.1.0.2")[0], last})
	}
	o.told("10.1.0.0/16 failing")
	o.handle(Echoed{one, o.core.cidrs[0].targets[0].sequence})
	o.told("10.1.0.0/16 working")
	// The same answer again is none.
	last := o.core.cidrs[0].targets[0].sequence
	for range 90 {
		o.busy(50 * time.Millisecond)
		o.handle(Echoed{one, last})
	}
	o.told("10.1.0.0/16 failing")
}

// TestManyLearnt knows of more hosts than it asks as a rule.
func TestManyLearnt(t *testing.T) {
	hosts := []string{"10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"}
	o := newOffice(t, addrs(hosts...), CIDR{Prefix: lan})
	o.learn(hosts...)
	o.busy(20 * time.Second)
	o.told("10.1.0.0/16 working")
	few, _ := o.core.cidrs[0].known()
	for _, target := range few {
		o.up[target.addr] = false
	}
	o.busy(20 * time.Second)
	o.told() // the others answer
	o.cut = true
	o.busy(10 * time.Second)
	o.told("10.1.0.0/16 failing")
	_, all := o.core.cidrs[0].known()
	for _, last := range all { // whichever comes back alone
		o.cut, o.up = false, map[netip.Addr]bool{last.addr: true}
		o.busy(5 * time.Second)
		o.told("10.1.0.0/16 working")
		o.cut = true
		o.busy(5 * time.Second)
		o.told("10.1.0.0/16 failing")
	}
}

// TestSlowLAN has hosts that are far behind the gateway, as those of an exit node are.
func TestSlowLAN(t *testing.T) {
	o := newOffice(t, addrs("10.1.0.1", "8.8.8.8", "9.9.9.9"))
	o.rtt = 450 * time.Millisecond
	o.handle(SetCarried{[]CIDR{{Prefix: prefix("0.0.0.0/0")}, {Prefix: lan, Targets: addrs("10.1.0.1")}}})
	o.learn("8.8.8.8", "9.9.9.9")
	o.busy(time.Minute)
	o.told("10.1.0.0/16 working", "0.0.0.0/0 working")
}

// TestProbeRate bounds the probes of very many CIDRs, and finds out about each nevertheless.
func TestProbeRate(t *testing.T) {
	var cidrs []CIDR
	var all []netip.Prefix
	var hosts []netip.Addr
	for i := range 1000 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i)}), 24)
		a := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1})
		cidrs, all, hosts = append(cidrs, CIDR{Prefix: p, Targets: []netip.Addr{a}}), append(all, p), append(hosts, a)
	}
	o := newOffice(t, hosts, cidrs...)
	count := func() (n int) {
		for _, k := range o.probes {
			n += k
		}
		return n
	}
	for i := range 6 {
		for j, part := range slices.Collect(slices.Chunk(all, gateway.MaxPrefixes)) {
			o.ping('d', uint64(i*100+j+1), self, true, part...)
		}
		o.run(time.Second)
	}
	if n := count(); n > 6*probesPerSecond+probesAtOnce || n < 5*probesPerSecond {
		t.Errorf("%d probes in six seconds", n)
	}
	if len(o.health) != 1000 {
		t.Errorf("the health of %d CIDRs is told", len(o.health))
	}
	o.health, o.cut = nil, true
	o.run(4 * time.Second)
	if len(o.health) != 1000 {
		t.Errorf("%d of 1000 are failing", len(o.health))
	}
}

func TestNetworkChanged(t *testing.T) {
	o := newOffice(t, addrs("10.1.0.1"), CIDR{Prefix: lan, Targets: addrs("10.1.0.1")})
	o.run(time.Minute)
	for _, e := range []Event{NetworkChanged{}, nil} {
		if o.probes = map[netip.Addr]int{}; e == nil {
			o.now = o.now.Add(time.Hour) // it slept
		}
		o.handle(e)
		if len(o.probes) != 1 {
			t.Errorf("%d hosts are probed at once", len(o.probes))
		}
		o.run(time.Second)
	}
	o.told("10.1.0.0/16 working")
}

func TestStatus(t *testing.T) {
	o := newOffice(t, addrs("10.1.0.2"), CIDR{Prefix: lan, Targets: addrs("10.1.0.1", "10.1.0.2"), Siblings: []ID{id('b')}}, CIDR{Prefix: prefix("10.0.0.0/8")})
	o.ping('d', 1, self, true, lan)
	o.ping('e', 1, self, true, lan)
	o.ping('f', 1, 'b', true, lan)
	o.ping('g', 1, 0, true, lan)
	o.run(time.Second)
	got := o.core.Status()
	if a := got[1].Answered; o.now.Sub(a) > time.Second || a.After(o.now) {
		t.Errorf("answered at %s", a)
	}
	got[1].Answered, got[1].Since = time.Time{}, time.Time{}
	for d, want := range map[byte]ID{'d': id(self), 'e': id(self), 'f': id('b'), 'g': {}, 'h': {}} {
		if used := o.core.Uses(id(d), lan); used != want {
			t.Errorf("%c uses %v, want %v", d, used, want)
		}
	}
	want := []Status{{Prefix: prefix("10.0.0.0/8")},
		{Prefix: lan, Health: gateway.Working, Target: addrs("10.1.0.2")[0]}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

// FuzzCore does anything in any order, and checks what must always hold.
func FuzzCore(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed, uint16(500))
	}
	f.Fuzz(func(t *testing.T, seed uint64, steps uint16) {
		r := rand.New(rand.NewPCG(seed, 6))
		core := New(Config{Self: id(self), Start: 55})
		now := time.Unix(1e6, 0)
		prefixes := []netip.Prefix{lan, prefix("10.0.0.0/8"), prefix("0.0.0.0/0"), prefix("fd00::/48"), {}}
		hosts := addrs("10.1.0.1", "10.1.0.2", "10.2.0.1", "8.8.8.8", "fd00::1", "::ffff:10.1.0.1")
		letters := []byte{'a', 'b', 'c', 'd', self, 0}
		letter := func() ID { return id(letters[r.IntN(len(letters))]) }
		type pair struct {
			d ID
			p netip.Prefix
		}
		hands := map[pair]ID{}
		var cidrs []CIDR
		var probe Probe
		var last uint64
		for range steps % 2000 {
			var e Event
			switch r.IntN(9) {
			case 0:
				cidrs = nil
				for range r.IntN(4) {
					c := CIDR{Prefix: prefixes[r.IntN(len(prefixes))], Siblings: []ID{letter(), letter()}}
					if r.IntN(2) == 0 {
						c.Targets = hosts[:r.IntN(len(hosts))]
					}
					cidrs = append(cidrs, c)
				}
				e = SetCarried{cidrs}
			case 1, 2:
				p := gateway.Ping{Stamp: gateway.Stamp{Start: 1 + r.Uint64N(3), Sequence: 1 + r.Uint64N(50)}, Heard: gateway.Stamp{Start: 55, Sequence: r.Uint64N(last + 1)}}
				for range r.IntN(4) {
					p.Uses = append(p.Uses, gateway.Use{Prefix: prefixes[r.IntN(4)], Gateway: letter(), Active: r.IntN(2) == 0})
				}
				e = Heard{letter(), p}
			case 3:
				e = Forget{letter()}
			case 4:
				e = SeenHost{hosts[r.IntN(len(hosts))]}
			case 5, 6:
				e = Echoed{probe.Target, probe.Sequence - uint16(r.IntN(3))}
			case 7:
				if r.IntN(20) == 0 {
					e = Leave{}
				}
			}
			actions, next := core.Handle(now, e)
			if !next.IsZero() && !next.After(now) {
				t.Fatalf("wants to be called at %s, and it is %s", next, now)
			}
			for _, a := range actions {
				switch a := a.(type) {
				case Probe:
					probe = a
					if !slices.ContainsFunc(cidrs, func(c CIDR) bool { return c.Prefix.IsValid() && c.Prefix.Contains(a.Target) }) {
						t.Fatalf("%s is probed, which is in no CIDR of %v", a.Target, cidrs)
					}
				case Send:
					if _, err := gateway.Append(nil, a.Report); err != nil || a.Report.Sequence <= last {
						t.Fatalf("%+v after %d: %v", a, last, err)
					}
					last = a.Report.Sequence
				case HandOver:
					k := pair{a.Device, a.Prefix}
					if hands[k] == a.To {
						t.Fatalf("told twice: %+v", a)
					}
					if hands[k] = a.To; a.To == (ID{}) {
						delete(hands, k)
					}
				}
			}
			for k, to := range hands {
				i := slices.IndexFunc(cidrs, func(c CIDR) bool { return c.Prefix == k.p })
				if i < 0 || !slices.Contains(cidrs[i].Siblings, to) || to == id(self) {
					t.Fatalf("%s for %c is handed to %c, which is no sibling: %v", k.p, k.d[0], to[0], cidrs)
				}
			}
			uses := 0
			for _, d := range core.devices {
				uses += len(d.uses)
			}
			if uses != core.uses {
				t.Fatalf("%d uses are counted, there are %d", core.uses, uses)
			}
			switch r.IntN(6) {
			case 0:
				now = now.Add(time.Duration(r.IntN(int(time.Hour))))
			case 1:
				now = now.Add(-time.Duration(r.IntN(int(time.Minute))))
			case 2, 3:
				if !next.IsZero() {
					now = next
				}
			default:
				now = now.Add(time.Duration(r.IntN(int(time.Second))))
			}
		}
	})
}
