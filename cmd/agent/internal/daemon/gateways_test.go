package daemon

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/cmd/agent/internal/state"
	"warren/proto/key"
	"warren/tunnel/gateway"
	"warren/tunnel/routeplan"
	"warren/tunnel/router"
	"warren/tunnel/tundev"
)

// officePair is a user of two gateways of one LAN, of which b is preferred, with traffic.
func officePair(t *testing.T) (w *world, user, a, b *node) {
	t.Helper()
	w = newWorld(t)
	probe := state.Routing{Site: []string{lanCIDR.String()}, Probe: []netip.Addr{lanHost}}
	user, a, b = w.add("user", 100, state.Routing{}), w.add("a", 100, probe, lanCIDR.String()), w.add("b", 200, probe, lanCIDR.String())
	a.up[lanHost], b.up[lanHost] = true, true
	w.publish()
	w.traffic = []flow{{user, b, lanCIDR}}
	w.run(15 * time.Second)
	if got := user.uses(lanCIDR); got != "b" {
		t.Fatalf("the user uses %s", got)
	}
	user.hands, a.hands, b.hands = nil, nil, nil
	return w, user, a, b
}

// TestGatewayLosesLAN: the user goes to the other gateway, whom it hands the packets that still come to it, and returns when all is well again.
func TestGatewayLosesLAN(t *testing.T) {
	w, user, a, b := officePair(t)
	b.up[lanHost] = false
	if d := w.run(5*time.Second, user.usesNow(lanCIDR, a)); d > 2*time.Second {
		t.Fatalf("switched over after %s", d)
	}
	w.run(2 * time.Second)
	if diff := cmp.Diff([]string{"10.1.0.0/16 of user by a"}, b.hands); diff != "" {
		t.Errorf("b's engine (-want +got):\n%s", diff)
	}
	b.up[lanHost], b.hands = true, nil
	if d := w.run(time.Minute, user.usesNow(lanCIDR, b)); d < 9*time.Second || d > 20*time.Second {
		t.Errorf("back after %s", d)
	}
	w.run(2 * time.Second)
	if diff := cmp.Diff([]string{"10.1.0.0/16 of user by none"}, b.hands); diff != "" {
		t.Errorf("b's engine (-want +got):\n%s", diff)
	}
	if len(a.hands) == 0 || a.hands[len(a.hands)-1] != "10.1.0.0/16 of user by b" {
		t.Errorf("a's engine was told %v", a.hands)
	}
}

func TestGatewayDies(t *testing.T) {
	w, user, a, b := officePair(t)
	b.dead = true
	if d := w.run(5*time.Second, user.usesNow(lanCIDR, a)); d > 2*time.Second {
		t.Errorf("switched over after %s", d)
	}
	a.dead = true // now it is rather the user who is cut off: nothing changes
	w.run(time.Minute)
	if got := user.uses(lanCIDR); got != "a" {
		t.Errorf("with both silent the user uses %s", got)
	}
}

// TestGatewayStops: one that says farewell is left at once.
func TestGatewayStops(t *testing.T) {
	w, user, a, b := officePair(t)
	if !b.leave() || user.leave() {
		t.Error("b has somebody to tell, the user has not")
	}
	if d := w.run(time.Second, user.usesNow(lanCIDR, a)); d > 50*time.Millisecond {
		t.Errorf("switched over after %s", d)
	}
}

// TestGatewayGone: a gateway that has left the map is not chosen, not spoken to, and not heard.
func TestGatewayGone(t *testing.T) {
	w, user, a, b := officePair(t)
	w.publish(b)
	if got := user.uses(lanCIDR); got != "a" {
		t.Errorf("at once, the user uses %s", got)
	}
	gone := b.record.Key.Raw()
	if user.traffic[gone] != nil || len(user.given[gone]) > 0 {
		t.Error("something of it is kept")
	}
	word, err := gateway.Append(nil, gateway.Report{Stamp: gateway.Stamp{Start: 1, Sequence: 1}, Health: []gateway.Told{{Prefix: lanCIDR, Health: gateway.Working}}})
	if err != nil {
		t.Fatal(err)
	}
	user.onWord(b.record.Key, word)
	user.onWord(b.record.Key, []byte("no word"))
	w.drain()
	if got := user.uses(lanCIDR); got != "a" {
		t.Errorf("the user uses %s", got)
	}
	w.publish(a, b)
	if _, ok := user.chosen[lanCIDR]; ok || !slices.Equal(user.state.Routes, prefixes("100.64.0.0/16")) {
		t.Errorf("without gateways: %v, routes %v", user.chosen, user.state.Routes)
	}
}

// TestGatewayUnsigned: a gateway whose record has the CIDR no more is not used, though the coordinator still says so.
func TestGatewayUnsigned(t *testing.T) {
	w, user, _, b := officePair(t)
	revoked := *b.record
	revoked.Routes = nil
	b.record = &revoked
	w.publish()
	w.drain()
	if got := user.uses(lanCIDR); got != "a" {
		t.Errorf("the user uses %s", got)
	}
}

// TestRefuseWhileUsed turns the use of others' CIDRs off and on.
func TestRefuseWhileUsed(t *testing.T) {
	w, user, _, _ := officePair(t)
	user.set(state.Routing{RefuseRoutes: true})
	w.run(5 * time.Second)
	if len(user.chosen) != 0 || !slices.Equal(user.state.Routes, prefixes("100.64.0.0/16")) {
		t.Errorf("refused, and %v is chosen, %v routed", user.chosen, user.state.Routes)
	}
	user.set(state.Routing{})
	if got := user.uses(lanCIDR); got != "b" || !slices.Contains(user.state.Routes, lanCIDR) {
		t.Errorf("the user uses %s, routes are %v", got, user.state.Routes)
	}
}

// TestBeginsToCarry: a device that carries a CIDR itself uses nobody else for it, and does again when it has ceased to.
func TestBeginsToCarry(t *testing.T) {
	w, user, _, _ := officePair(t)
	plain, carrier := user.record, *user.record
	carrier.Routes = []netip.Prefix{lanCIDR}
	user.set(state.Routing{Site: []string{lanCIDR.String()}})
	if got := user.uses(lanCIDR); got != "b" {
		t.Errorf("before it is approved, it uses %s", got)
	}
	user.record = &carrier
	w.publish()
	if _, ok := user.chosen[lanCIDR]; ok || len(user.state.Carried) != 1 || slices.Contains(user.state.Routes, lanCIDR) {
		t.Errorf("carried: %v, chosen %v, routes %v", user.state.Carried, user.chosen, user.state.Routes)
	}
	user.record = plain
	w.publish()
	if got := user.uses(lanCIDR); got != "b" || len(user.state.Carried) != 0 {
		t.Errorf("carried no more: uses %s, carries %v", got, user.state.Carried)
	}
}

func (n *node) health(p netip.Prefix) gateway.Health {
	for _, s := range n.carrier.Status() {
		if s.Prefix == p {
			return s.Health
		}
	}
	return gateway.Unknown
}

// TestLearntHosts: hosts of the LAN that are heard of are probed, but for this one, which answers whatever has become of the LAN.
func TestLearntHosts(t *testing.T) {
	own, host := netip.MustParseAddr("10.77.1.1"), netip.MustParseAddr("10.77.1.20")
	p := netip.MustParsePrefix("10.77.1.0/24")
	w := newWorld(t)
	g := w.add("gate", 100, state.Routing{Advertise: []string{"192.168.1.0/24=10.77.1.0/24"}}, p.String())
	g.links = []routeplan.Link{{Interface: "eth0", Prefixes: prefixes("192.168.1.0/24"), Own: []netip.Addr{netip.MustParseAddr("192.168.1.1")}}}
	g.seen = []tundev.Host{{Addr: own}, {Addr: host}}
	g.up[own], g.up[host] = true, true
	w.publish()
	w.run(5 * time.Second)
	if g.probed[own] > 0 || g.probed[host] == 0 || g.health(p) != gateway.Working {
		t.Errorf("probed %v, %s", g.probed, g.health(p))
	}
	g.up[host], g.seen = false, nil
	w.run(time.Minute)
	if h := g.health(p); h == gateway.Working {
		t.Errorf("with no host that answers: %s", h)
	}
}

// TestNeighbours: hosts that the kernel knows on the LAN are probed by the addresses that others see.
func TestNeighbours(t *testing.T) {
	w := newWorld(t)
	g := w.add("gate", 100, state.Routing{Advertise: []string{"192.168.1.0/24=10.77.1.0/24"}, AdvertiseExit: true}, "10.77.1.0/24", "0.0.0.0/0")
	g.neighbours = []netip.Addr{netip.MustParseAddr("192.168.1.30"), netip.MustParseAddr("192.168.2.30"), netip.MustParseAddr("10.77.1.40")}
	w.publish()
	w.run(5 * time.Second)
	if len(g.probed) != 1 || g.probed[netip.MustParseAddr("10.77.1.30")] == 0 {
		t.Errorf("probed %v", g.probed)
	}
}

// TestVirtualAddressMoves: a host that was learnt and whose address moves to this gateway shows nothing any more, unless it was named.
func TestVirtualAddressMoves(t *testing.T) {
	virtual := netip.MustParseAddr("10.1.0.1")
	for _, named := range []bool{false, true} {
		w := newWorld(t)
		routing := state.Routing{Site: []string{lanCIDR.String()}}
		if named {
			routing.Probe = []netip.Addr{virtual}
		}
		g := w.add("gate", 100, routing, lanCIDR.String())
		g.links = []routeplan.Link{{Interface: "eth0", Prefixes: []netip.Prefix{lanCIDR}, Own: []netip.Addr{netip.MustParseAddr("10.1.0.2")}}}
		g.seen, g.up[virtual] = []tundev.Host{{Addr: virtual}}, true
		w.publish()
		w.run(5 * time.Second)
		if h := g.health(lanCIDR); h != gateway.Working {
			t.Fatalf("%s", h)
		}
		g.links = []routeplan.Link{{Interface: "eth0", Prefixes: []netip.Prefix{lanCIDR}, Own: []netip.Addr{netip.MustParseAddr("10.1.0.2"), virtual}}}
		g.networkChanged(false)
		w.run(2 * time.Minute)
		if got := g.health(lanCIDR) == gateway.Working; got != named {
			t.Errorf("named %t: %s", named, g.health(lanCIDR))
		}
	}
}

// TestPresence: among gateways of which nothing is known, one that the coordinator sees is chosen.
func TestPresence(t *testing.T) {
	for _, present := range []string{"a", "b"} {
		w := newWorld(t)
		user, first := w.add("user", 100, state.Routing{}), w.add("first", 200, state.Routing{}, lanCIDR.String())
		a, b := w.add("a", 100, state.Routing{}, lanCIDR.String()), w.add("b", 100, state.Routing{}, lanCIDR.String())
		w.publish()
		user.presence(a.record.Key.Raw(), present == "a")
		user.presence(b.record.Key.Raw(), present == "b")
		user.presence(deviceKey{1}, true) // nobody
		if got := user.uses(lanCIDR); got != "first" {
			t.Errorf("the user uses %s", got)
		}
		w.publish(first)
		if got := user.uses(lanCIDR); got != present {
			t.Errorf("%s is there, and the user uses %s", present, got)
		}
	}
}

// TestSites: a network in which a gateway of the same CIDR sees this host is that site.
func TestSites(t *testing.T) {
	addr := netip.MustParseAddr
	w, user, a, _ := officePair(t)
	user.links = []routeplan.Link{{Interface: "wlan0", Prefixes: []netip.Prefix{lanCIDR}, Routers: []netip.Addr{addr("10.1.0.1")}, Generation: 1}}
	user.networkChanged(false)
	local := func() bool { return !slices.Contains(user.state.Routes, lanCIDR) }
	if local() || !slices.Contains(user.state.Local, netip.MustParsePrefix("10.1.0.1/32")) {
		t.Errorf("a café: local are %v", user.state.Local)
	}
	stranger := key.NewNode().Public()
	for _, e := range []seenAt{
		{stranger, addr("10.1.0.2"), addr("10.1.0.77")},
		{user.record.NodeKey, addr("10.1.0.2"), addr("10.1.0.77")},
		{a.record.NodeKey, addr("10.1.0.2"), addr("203.0.113.7")}, // passed on by whoever runs the café
		{a.record.NodeKey, addr("203.0.113.2"), addr("10.1.0.77")},
	} {
		user.onSeen(e.peer, e.remote, e.from)
	}
	w.drain()
	if local() {
		t.Error("what shows nothing is taken for evidence")
	}
	user.onSeen(a.record.NodeKey, addr("::ffff:10.1.0.2"), addr("10.1.0.77"))
	w.drain()
	if !local() {
		t.Errorf("at the site, routes are %v", user.state.Routes)
	}
	user.networkChanged(false)
	if !local() {
		t.Error("it is forgotten though nothing has changed")
	}
	user.links[0].Generation = 2
	user.networkChanged(true)
	if local() {
		t.Error("another network with the same addresses is taken for the site")
	}
}

// TestFull: the packet path never waits for those who take what it brings.
func TestFull(t *testing.T) {
	w := newWorld(t)
	n := w.add("user", 100, state.Routing{})
	word, err := gateway.Append(nil, gateway.Ping{Stamp: gateway.Stamp{Start: 1, Sequence: 1}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint16(1000) {
		n.onWord(n.record.Key, word)
		n.onProbe(lanHost, probeID, i)
		n.onProbe(lanHost, 1, i) // somebody else's
		n.onSeen(n.record.NodeKey, lanHost, lanHost)
		n.onUse()
	}
	if len(n.heard) != cap(n.heard) || len(n.echoed) != cap(n.echoed) || len(n.networks.seen) != cap(n.networks.seen) {
		t.Error("less is kept than there is room for")
	}
	for range cap(n.echoed) {
		<-n.echoed
	}
	n.onProbe(lanHost, 1, 1)
	if len(n.echoed) != 0 {
		t.Error("an answer to another program's probe is taken")
	}
}

// TestBeforeMap: with an exit node wanted nothing leaves past it, also while there is no map.
func TestBeforeMap(t *testing.T) {
	w := newWorld(t)
	n := w.add("user", 100, state.Routing{})
	n.begin()
	if n.state.Blocked.Any() {
		t.Error("all is blocked though no exit node is wanted")
	}
	n.set(state.Routing{ExitNode: "exit", KillSwitch: true})
	if n.state.Blocked != (router.Families{IPv4: true, IPv6: true}) || !n.state.KillSwitch {
		t.Errorf("set while there is no map: %+v", n.state)
	}
	again := w.add("again", 100, state.Routing{ExitNode: autoExit, AdvertiseExit: true}, "0.0.0.0/0", "::/0")
	again.links = []routeplan.Link{{Interface: "eth0", Prefixes: prefixes("192.168.7.0/24"), Routers: []netip.Addr{netip.MustParseAddr("192.168.7.1")}}}
	again.begin()
	if again.state.Blocked != (router.Families{IPv4: true, IPv6: true}) || again.state.Exit.Any() {
		t.Errorf("at the start: %+v", again.state)
	}
	if router := netip.MustParsePrefix("192.168.7.1/32"); !slices.Contains(again.state.Local, router) {
		t.Errorf("the link's router is not reached: %v", again.state.Local)
	}
	again.links = nil
	again.networkChanged(true)
	if len(again.state.Local) == 0 || slices.Contains(again.state.Local, netip.MustParsePrefix("192.168.7.1/32")) {
		t.Errorf("on another network: %v", again.state.Local)
	}
}

// TestHostFails: what could not be done is told, and tried again with the next reason to.
func TestHostFails(t *testing.T) {
	w := newWorld(t)
	n := w.add("user", 100, state.Routing{})
	n.err = errors.New("no nftables")
	w.publish()
	if err := n.problem(); !errors.Is(err, n.err) {
		t.Errorf("problem %v", err)
	}
	before := n.calls.Load()
	n.set(n.settings())
	if n.calls.Load() != before+1 {
		t.Errorf("applied %d times more after an error", n.calls.Load()-before)
	}
	n.err = nil
	n.reapply()
	before = n.calls.Load()
	n.set(n.settings())
	if err := n.problem(); err != nil || n.calls.Load() != before {
		t.Errorf("all is well: %v, applied %d times more", err, n.calls.Load()-before)
	}
}

// TestClosed: nothing is done to a host once it has been put back as it was, whoever still comes.
func TestClosed(t *testing.T) {
	w, user, a, _ := officePair(t)
	shut := errors.New("shut")
	if err := user.close(func() error { return shut }); !errors.Is(err, shut) {
		t.Errorf("%v", err)
	}
	before := user.calls.Load()
	user.set(state.Routing{ExitNode: autoExit, KillSwitch: true})
	user.reapply()
	user.networkChanged(true)
	w.publish(a)
	if user.calls.Load() != before {
		t.Errorf("applied %d times after the end", user.calls.Load()-before)
	}
	if user.leave() {
		t.Error("says that somebody is to be told")
	}
}

// TestRun: the loop answers words in time, and ends with its context.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		g, user := w.add("gate", 100, state.Routing{Site: []string{lanCIDR.String()}}, lanCIDR.String()), w.add("user", 100, state.Routing{})
		g.networks.now = time.Now
		w.publish()
		w.later = nil
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.run(ctx) }()
		word, err := gateway.Append(nil, gateway.Ping{Stamp: gateway.Stamp{Start: 1, Sequence: 1}, Uses: []gateway.Use{{Prefix: lanCIDR, Gateway: g.record.Key.Raw()}}})
		if err != nil {
			t.Fatal(err)
		}
		g.onWord(user.record.Key, word)
		synctest.Wait()
		if len(w.later) != 1 {
			t.Errorf("%d answers", len(w.later))
		}
		calls := g.calls.Load()
		select {
		case <-time.After(lookAtHost + time.Second):
		case err := <-done:
			t.Errorf("ended: %v", err)
		}
		synctest.Wait()
		if g.calls.Load() != calls+1 {
			t.Errorf("the host was looked at %d times in %s", g.calls.Load()-calls, lookAtHost)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
