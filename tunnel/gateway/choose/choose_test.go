package choose

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/tunnel/gateway"
)

func TestFirstChoice(t *testing.T) {
	for _, c := range []struct {
		name    string
		carried []netip.Prefix
		routes  []string
		want    []string
	}{
		{"none", nil, nil, nil},
		{"one", nil, []string{"10.1.0.0/16 a 100"}, []string{"10.1.0.0/16 a: it is the best one"}},
		{"the higher priority", nil, []string{"10.1.0.0/16 a 100", "10.1.0.0/16 b 200"}, []string{"10.1.0.0/16 b: it is the best one"}},
		{"100 where none is told", nil, []string{"10.1.0.0/16 a 99", "10.1.0.0/16 b 0", "10.1.0.0/16 c 101"}, []string{"10.1.0.0/16 c: it is the best one"}},
		{"any of equals, but always the same", nil, []string{"10.1.0.0/16 c 100", "10.1.0.0/16 b 0"}, []string{"10.1.0.0/16 b: it is the best one"}},
		{"each CIDR its own", nil, []string{"10.1.0.0/16 a 100", "10.0.0.0/8 b 200", "fd00::/32 a 1"},
			[]string{"10.0.0.0/8 b: it is the best one", "10.1.0.0/16 a: it is the best one", "fd00::/32 a: it is the best one"}},
		{"a route twice", nil, []string{"10.1.0.0/16 a 100", "10.1.0.0/16 a 100"}, []string{"10.1.0.0/16 a: it is the best one"}},
		{"never its own CIDR", []netip.Prefix{lan}, []string{"10.1.0.0/16 a 200"}, nil},
		{"wider and narrower ones than its own", []netip.Prefix{lan}, []string{"10.1.0.0/16 a 200", "10.0.0.0/8 b 1", "10.1.2.0/24 c 1"},
			[]string{"10.0.0.0/8 b: it is the best one", "10.1.2.0/24 c: it is the best one"}},
		{"never itself", nil, []string{"10.1.0.0/16 s 200"}, nil},
		{"no exit without a word", nil, []string{"0.0.0.0/0 a 100", "::/0 a 100"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDesk(t, c.carried, c.routes...)
			d.told(c.want...)
			d.run(time.Minute, lan)
			d.told()
		})
	}
}

// TestOwnLost shows that a gateway that has lost its LAN does not send into the tunnel, where its sibling might send it back.
func TestOwnLost(t *testing.T) {
	d := newDesk(t, []netip.Prefix{lan}, "10.1.0.0/16 a 200", "10.1.0.0/16 b 100")
	d.run(time.Minute, lan)
	d.tell('a', lan, gateway.Working)
	d.run(time.Hour, lan)
	d.told()
	if d.g('a').uses[lan] != id(self) {
		t.Error("its siblings do not know that it uses itself")
	}
	d.set(nil, "10.1.0.0/16 a 200", "10.1.0.0/16 b 100")
	d.told("10.1.0.0/16 a: it is the best one")
	d.set([]netip.Prefix{lan}, "10.1.0.0/16 a 200", "10.1.0.0/16 b 100")
	d.told("10.1.0.0/16: this device carries it")
}

func TestSwitch(t *testing.T) {
	d := newDesk(t, nil, "10.1.0.0/16 a 200", "10.1.0.0/16 b 100", "10.1.0.0/16 c 50")
	d.run(10*time.Second, lan)
	d.told("10.1.0.0/16 a: it is the best one")
	d.tell('a', lan, gateway.Failing)
	d.told("10.1.0.0/16 b: the one before has lost its LAN")
	d.tell('b', lan, gateway.Failing)
	d.told("10.1.0.0/16 c: the one before has lost its LAN")
	d.tell('c', lan, gateway.Failing)
	d.run(time.Minute, lan)
	d.told() // none is better
	d.g('c').mute = true
	d.run(5*time.Second, lan)
	d.told("10.1.0.0/16 a: the one before does not answer") // it answers, at least
	d.tell('a', lan, gateway.Unknown)
	d.run(time.Minute, lan)
	d.told()
	for _, b := range []byte("ab") {
		if d.g(b).uses[lan] != id('a') {
			t.Errorf("gateway %c believes that %c is used", b, d.g(b).uses[lan][0])
		}
	}
}

// TestRemoved has the map take gateways away.
func TestRemoved(t *testing.T) {
	d := newDesk(t, nil, "10.1.0.0/16 a 200", "10.1.0.0/16 b 100")
	d.run(10*time.Second, lan)
	d.told("10.1.0.0/16 a: it is the best one")
	d.tell('b', lan, gateway.Failing)
	d.set(nil, "10.1.0.0/16 b 100")
	d.told("10.1.0.0/16 b: the one before carries it no more")
	if d.core.Status()[0].Gateways[0].LAN != gateway.Failing {
		t.Error("what was known of a gateway that stays is forgotten")
	}
	d.set(nil)
	d.told("10.1.0.0/16: the one before carries it no more")
	d.set(nil)
	d.told()
	d.pings = nil
	d.run(time.Hour)
	if len(d.pings) > 0 || !d.next.IsZero() {
		t.Errorf("%d pings without a route", len(d.pings))
	}
}

func TestWider(t *testing.T) {
	routes := []string{"10.1.0.0/16 a 200", "10.1.0.0/16 b 100", "10.0.0.0/8 c 100"}
	d := newDesk(t, nil, routes...)
	d.run(10*time.Second, lan)
	d.told("10.0.0.0/8 c: it is the best one", "10.1.0.0/16 a: it is the best one")
	d.g('a').mute, d.g('b').mute = true, true
	d.run(5*time.Second, lan)
	d.told("10.1.0.0/16: no gateway works, a wider route does")
	d.g('b').mute = false
	d.run(5*time.Second, wide)
	d.told()
	d.run(10*time.Second, wide)
	d.told("10.1.0.0/16 b: it is the best one")
	d.g('b').mute = true
	d.run(5*time.Second, lan)
	d.told("10.1.0.0/16: no gateway works, a wider route does")
	d.g('c').mute = true
	d.run(20*time.Second, wide)
	d.told() // nothing is better
	d.g('b').mute = false
	d.run(5*time.Second, wide)
	d.told("10.1.0.0/16 b: it is the best one") // at once: nothing else works
	d.g('b').mute = true
	d.run(5*time.Second, lan)
	d.told() // nothing is better
	d.set(nil, routes[:2]...)
	d.told("10.0.0.0/8: the one before carries it no more")
}

// TestWiderOwn has the device carry a wider CIDR itself.
func TestWiderOwn(t *testing.T) {
	d := newDesk(t, []netip.Prefix{wide}, "10.1.0.0/16 a 200")
	d.run(10*time.Second, lan)
	d.g('a').mute = true
	d.run(10*time.Second, lan)
	d.told("10.1.0.0/16 a: it is the best one", "10.1.0.0/16: no gateway works, a wider route does")
	d.g('a').mute = false
	d.run(50*time.Second, lan)
	d.told("10.1.0.0/16 a: it is the best one")
}

func TestPresence(t *testing.T) {
	d := newDesk(t, nil)
	d.set(nil, "10.1.0.0/16 b 100", "10.0.0.0/8 a 1")
	d.chosen = nil
	d.handle(Presence{id('a'), false})
	d.handle(Presence{id('z'), false})
	d.set(nil, "10.1.0.0/16 b 100", "10.1.0.0/16 a 200")
	d.told("10.0.0.0/8: the one before carries it no more")
	d.set(nil, "10.1.0.0/16 a 200", "10.2.0.0/16 a 200", "10.2.0.0/16 c 100")
	d.told("10.1.0.0/16 a: the one before carries it no more", "10.2.0.0/16 c: it is the best one")
}

// TestCadence counts pings.
func TestCadence(t *testing.T) {
	routes := []string{"10.1.0.0/16 a 200", "10.1.0.0/16 b 100", "10.1.0.0/16 c 50", "10.1.0.0/16 d 20", "10.9.0.0/16 e 100"}
	for _, c := range []struct {
		name string
		busy []netip.Prefix
		data bool
		want map[byte]int // in ten minutes
	}{
		{"idle", nil, false, map[byte]int{'a': 24, 'b': 24, 'c': 24, 'd': 2, 'e': 0}},
		{"in use", []netip.Prefix{lan}, false, map[byte]int{'a': 1500, 'b': 300, 'c': 300, 'd': 2, 'e': 0}},
		{"in use, with packets coming back", []netip.Prefix{lan}, true, map[byte]int{'a': 600, 'b': 300, 'c': 300, 'd': 2, 'e': 0}},
		{"in use, without a choice", []netip.Prefix{prefix("10.9.0.0/16")}, false, map[byte]int{'a': 24, 'b': 24, 'c': 24, 'd': 2, 'e': 300}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDesk(t, nil, routes...)
			d.run(time.Minute, c.busy...)
			d.pings = nil
			for range 3000 {
				d.run(200*time.Millisecond, c.busy...)
				if c.data {
					d.handle(Received{id('a')})
				}
			}
			for b, want := range c.want {
				if got := d.pinged(b); got < want-want/20-1 || got > want+want/20+1 {
					t.Errorf("%c gets %d pings, not %d", b, got, want)
				}
			}
		})
	}
}

// TestOneWay has a gateway's packets come while nothing reaches it: that takes longer, as long as packets come, but not for ever.
func TestOneWay(t *testing.T) {
	d := newDesk(t, nil, "10.1.0.0/16 a 200", "10.1.0.0/16 b 100")
	for range 25 {
		d.run(200*time.Millisecond, lan)
		d.handle(Received{id('a')})
	}
	d.chosen = nil
	d.g('a').mute = true
	waited := time.Duration(0)
	for ; len(d.chosen) == 0 && waited < 10*time.Second; waited += 200 * time.Millisecond {
		d.run(200*time.Millisecond, lan)
		d.handle(Received{id('a')})
	}
	if waited < 2400*time.Millisecond || waited > 3800*time.Millisecond {
		t.Errorf("after %s", waited)
	}
}

// TestSlow has a round trip that is longer than a silence may be.
func TestSlow(t *testing.T) {
	for _, rtt := range []time.Duration{700 * time.Millisecond, 1500 * time.Millisecond} {
		d := newDesk(t, nil, "10.1.0.0/16 a 200", "10.1.0.0/16 b 100")
		d.g('a').rtt, d.g('b').rtt = rtt, rtt
		d.run(time.Minute, lan)
		if n := len(d.chosen); n > 1 {
			t.Errorf("round trip %s: %v", rtt, d.chosen)
		}
	}
}

// TestManyCIDRs has more to say than fits into a ping.
func TestManyCIDRs(t *testing.T) {
	var routes []string
	for i := range 1000 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), byte(i >> 8)}), 24)
		routes = append(routes, p.String()+" a 100", p.String()+" b 200")
	}
	d := newDesk(t, nil, routes...)
	d.run(2 * time.Second)
	for _, b := range []byte("ab") {
		if n := len(d.g(b).uses); n != 1000 {
			t.Errorf("gateway %c knows of %d CIDRs after two seconds", b, n)
		}
	}
	if n := d.pinged('a'); n > 75 {
		t.Errorf("%d pings in the first two seconds", n)
	}
	g := d.g('b')
	g.start, g.seq = 500, 0 // it restarts, and knows nothing
	clear(g.uses)
	d.run(27 * time.Second)
	if n := len(g.uses); n != 1000 {
		t.Errorf("gateway b knows of %d CIDRs after it has restarted", n)
	}
	for i := range 100 {
		d.tell('b', prefix(fmt.Sprintf("10.%d.0.0/24", i)), gateway.Failing)
	}
	d.run(time.Second)
	n := 0
	for _, u := range g.uses {
		if u == id('a') {
			n++
		}
	}
	if n != 100 {
		t.Errorf("gateway b knows of %d CIDRs that it is used for no more", n)
	}
}

// TestUnheard shows how often a gateway is told what it does not confirm.
func TestUnheard(t *testing.T) {
	d := newDesk(t, nil, "10.1.0.0/16 a 200", "10.1.0.0/16 b 100")
	d.run(30*time.Second, lan)
	d.pings = nil
	d.g('b').rtt = time.Hour // it hears, and its answers get lost
	d.tell('a', lan, gateway.Failing)
	d.run(900*time.Millisecond, lan)
	if n := d.pinged('b'); n < 4 || n > 7 {
		t.Errorf("%d pings", n)
	}
}

// TestLateWords brings words again that newer ones have followed.
func TestLateWords(t *testing.T) {
	report := func(start, seq uint64, h gateway.Health) Heard {
		return Heard{id('a'), gateway.Report{Stamp: gateway.Stamp{Start: start, Sequence: seq}, Health: []gateway.Told{{Prefix: lan, Health: h}}}}
	}
	d := newDesk(t, nil, "10.1.0.0/16 a 200")
	for i, c := range []struct {
		Heard
		want gateway.Health
	}{
		{report(1, 5, gateway.Failing), gateway.Failing},
		{report(1, 4, gateway.Working), gateway.Failing},
		{report(1, 5, gateway.Working), gateway.Failing},
		{report(1, 6, gateway.Working), gateway.Working},
		{report(2, 1, gateway.Failing), gateway.Failing}, // it has restarted
		{report(1, 9, gateway.Working), gateway.Failing}, // late
		{report(2, 2, gateway.Unknown), gateway.Unknown},
		{report(2, 3, gateway.Failing), gateway.Failing},
		{Heard{id('a'), gateway.Report{Stamp: gateway.Stamp{Start: 3, Sequence: 1}}}, gateway.Unknown}, // what it said before it restarted says nothing now
		{Heard{id('z'), report(9, 9, gateway.Failing).Report}, gateway.Unknown},
		{Heard{id('a'), gateway.Report{Stamp: gateway.Stamp{Start: 3, Sequence: 3}, Health: []gateway.Told{{Prefix: wide, Health: gateway.Failing}}}}, gateway.Unknown},
	} {
		d.handle(c.Heard)
		if got := d.core.Status()[0].Gateways[0].LAN; got != c.want {
			t.Errorf("step %d: %s, not %s", i, got, c.want)
		}
	}
	// Answers to pings that were never sent, or were answered already, are no sign of life.
	d = newDesk(t, nil, "10.1.0.0/16 a 200", "10.1.0.0/16 b 100")
	d.g('a').mute = true
	for i := range uint64(40) {
		d.run(100*time.Millisecond, lan)
		d.handle(Heard{id('a'), gateway.Report{Stamp: gateway.Stamp{Start: 1, Sequence: i + 1}, Answers: gateway.Stamp{Start: 77, Sequence: 1 << 40}}})
		d.handle(Heard{id('a'), gateway.Report{Stamp: gateway.Stamp{Start: 1, Sequence: 1000 + i}, Answers: gateway.Stamp{Start: 78, Sequence: i + 1}}})
	}
	d.told("10.1.0.0/16 a: it is the best one", "10.1.0.0/16 b: the one before does not answer")
}

// TestGatewayRestarts shows that a gateway that has forgotten who uses it is told again at once.
func TestGatewayRestarts(t *testing.T) {
	d := newDesk(t, nil, "10.1.0.0/16 a 200", "10.1.0.0/16 b 100")
	d.run(30 * time.Second)
	g := d.g('b')
	g.start, g.seq = 500, 0
	clear(g.uses)
	d.run(26 * time.Second)
	n := len(d.core.peer(id('b')).links)
	if g.uses[lan] != id('a') || n != 1 || !d.core.peer(id('b')).links[0].confirmed {
		t.Errorf("it believes that %v are used", g.uses)
	}
	d.pings = nil
	d.tell('b', lan, gateway.Working)
	g.start, g.seq = 501, 0
	d.tell('b', lan, gateway.Working)
	d.run(300 * time.Millisecond)
	if d.pinged('b') == 0 {
		t.Error("a restart that is told does not have it pinged")
	}
}

// TestNews shows that news are confirmed at once, but that a gateway cannot have pings sent as often as it likes.
func TestNews(t *testing.T) {
	d := newDesk(t, nil, "10.1.0.0/16 a 200")
	d.run(10 * time.Second)
	d.tell('a', lan, gateway.Working)
	d.tell('a', lan, gateway.Failing)
	d.run(time.Second)
	if d.pinged('a') != 0 {
		t.Error("who is never pinged is pinged for its news")
	}
	d.set(nil, "10.1.0.0/16 a 200", "10.1.0.0/16 b 100")
	d.run(10 * time.Second)
	d.pings = nil
	d.tell('a', lan, gateway.Working)
	if n := len(d.pings); n != 1 || d.pings[0].Ping.Heard != (gateway.Stamp{Start: 'a', Sequence: d.g('a').seq - 1}) {
		t.Errorf("%d pings, %+v", n, d.pings)
	}
	d.pings = nil
	for range 1000 {
		d.run(time.Millisecond)
		d.tell('a', lan, gateway.Working)
	}
	if n := d.pinged('a'); n > 21 {
		t.Errorf("%d pings in a second", n)
	}
}

// TestSleepForgives calls the core late.
func TestSleepForgives(t *testing.T) {
	d := newDesk(t, nil, "10.1.0.0/16 a 200", "10.1.0.0/16 b 100")
	d.run(10*time.Second, lan)
	d.chosen = nil
	for _, jump := range []time.Duration{5 * time.Second, time.Hour, -time.Minute} {
		d.g('a').mute = true
		d.run(900*time.Millisecond, lan) // a part of what it takes
		d.g('a').mute = false
		d.later = nil
		d.now = d.now.Add(jump)
		d.pings = nil
		d.handle(nil)
		if len(d.pings) < 2 {
			t.Errorf("after %s, %d gateways are pinged at once", jump, len(d.pings))
		}
		d.run(10*time.Second, lan)
		d.told()
	}
	d.pings = nil
	d.handle(NetworkChanged{})
	if len(d.pings) != 2 {
		t.Errorf("after a change of network, %d gateways are pinged at once", len(d.pings))
	}
}

func TestStatus(t *testing.T) {
	d := newDesk(t, []netip.Prefix{prefix("10.7.0.0/16")}, "10.1.0.0/16 a 200", "10.1.0.0/16 b 0", "10.7.0.0/16 c 100")
	d.g('a').health[lan] = gateway.Working
	d.run(10*time.Second, lan)
	d.tell('b', lan, gateway.Failing)
	d.run(time.Second, lan)
	got := d.core.Status()
	for i := range got {
		for j := range got[i].Gateways {
			g := &got[i].Gateways[j]
			if !g.Answered.IsZero() && d.now.Sub(g.Answered) > 12*time.Second || g.Since.After(d.now) {
				t.Errorf("%s, %s", g.Answered, g.Since)
			}
			g.Since, g.Answered = time.Time{}, time.Time{}
		}
	}
	want := []Status{
		{Prefix: lan, Gateway: id('a'), Gateways: []Gateway{
			{ID: id('a'), Priority: 200, State: "working", LAN: gateway.Working, RTT: 20 * time.Millisecond},
			{ID: id('b'), Priority: 100, State: "no LAN", LAN: gateway.Failing, RTT: 20 * time.Millisecond}}},
		{Prefix: prefix("10.7.0.0/16"), Own: true, Gateways: []Gateway{{ID: id('c'), Priority: 100, State: "working", RTT: 20 * time.Millisecond}}},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

// TestRestore: after a restart the gateway that was used is used, though another has the higher priority, until that one is shown to be well for as
// long as is asked of any.
func TestRestore(t *testing.T) {
	routes := []string{"10.1.0.0/16 a 200", "10.1.0.0/16 b 100", "10.0.0.0/8 a 100"}
	for name, c := range map[string]struct {
		chosen  map[netip.Prefix]ID
		carried []netip.Prefix
		first   []string
	}{
		"the one that was used":        {map[netip.Prefix]ID{lan: id('b'), wide: id('a')}, nil, []string{"10.0.0.0/8 a: it is the best one", "10.1.0.0/16 b: it is the best one"}},
		"one that is none any more":    {map[netip.Prefix]ID{lan: id('x')}, nil, []string{"10.0.0.0/8 a: it is the best one", "10.1.0.0/16 a: it is the best one"}},
		"a CIDR that is none":          {map[netip.Prefix]ID{all4: id('b')}, nil, []string{"10.0.0.0/8 a: it is the best one", "10.1.0.0/16 a: it is the best one"}},
		"a CIDR that is now our own":   {map[netip.Prefix]ID{lan: id('b')}, []netip.Prefix{lan}, []string{"10.0.0.0/8 a: it is the best one"}},
		"nothing was used (no Choose)": {nil, nil, []string{"10.0.0.0/8 a: it is the best one", "10.1.0.0/16 a: it is the best one"}},
	} {
		d := newDesk(t, nil)
		d.handle(Restore{Chosen: c.chosen})
		d.handle(SetExit{})
		d.set(c.carried, routes...)
		if diff := cmp.Diff(c.first, d.chosen); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
	d := newDesk(t, nil)
	d.handle(Restore{Chosen: map[netip.Prefix]ID{lan: id('b')}})
	d.set(nil, routes...)
	began := d.now
	for !slices.Contains(d.chosen, "10.1.0.0/16 a: it is preferred and works again") {
		d.run(100*time.Millisecond, lan)
		if d.now.Sub(began) > time.Minute {
			t.Fatalf("never returned to the preferred one: %q", d.chosen)
		}
	}
	if took := d.now.Sub(began); took < holdOff {
		t.Errorf("returned after %s", took)
	}
	// One that does not answer is given up, as any.
	d = newDesk(t, nil)
	d.handle(Restore{Chosen: map[netip.Prefix]ID{lan: id('b')}})
	d.set(nil, routes...)
	d.g('b').mute = true
	d.run(10*time.Second, lan)
	if !slices.Contains(d.chosen, "10.1.0.0/16 a: the one before does not answer") {
		t.Errorf("choices %q", d.chosen)
	}
}
