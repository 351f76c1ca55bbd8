package daemon

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"warren/cmd/agent/internal/state"
	pb "warren/proto/warrenv1"
	"warren/tunnel/router"
)

// TestIdle: nobody looks at what is not used or not there, and the first packet has all looked at again.
func TestIdle(t *testing.T) {
	w, user, a, b := officePair(t)
	w.traffic = nil
	w.run(trafficEnds + lookAtTraffic)
	user.looks = 0
	if w.run(10 * time.Minute); user.looks > 0 || !user.due[dueHosts].IsZero() || !user.due[dueNeighbours].IsZero() {
		t.Errorf("traffic was looked at %d times while there was none; due are %v", user.looks, user.due)
	}
	b.dead = true
	w.traffic = []flow{{user, b, lanCIDR}}
	if d := w.run(5*time.Second, user.usesNow(lanCIDR, a)); d > 2500*time.Millisecond {
		t.Errorf("switched over %s after the first packet", d)
	}
	if w.run(time.Minute); user.looks == 0 || user.due[dueTraffic].IsZero() {
		t.Error("traffic is looked at no more, though there is some")
	}
	plain := w.add("plain", 100, state.Routing{AdvertiseExit: true}, "0.0.0.0/0")
	w.publish(user, a, b)
	if at := plain.next(); !at.IsZero() {
		t.Errorf("a device with neither routes nor a LAN is to do something at %s", at)
	}
}

// TestExitRenamed: the name of an exit node is what counts. Without one of that name nothing leaves.
func TestExitRenamed(t *testing.T) {
	w := newWorld(t)
	user := w.add("user", 100, state.Routing{ExitNode: "exit"})
	exit := w.add("exit", 100, state.Routing{AdvertiseExit: true}, "0.0.0.0/0", "::/0")
	w.publish()
	all := netip.MustParsePrefix("0.0.0.0/0")
	if user.uses(all) != "exit" || user.state.Blocked.Any() || !slices.Equal(user.state.DNS, exit.record.Addresses) {
		t.Fatalf("%+v", user.state)
	}
	renamed := *exit.record
	renamed.Name = "other"
	exit.record = &renamed
	w.publish()
	if _, ok := user.chosen[all]; ok || user.state.Blocked != (router.Families{IPv4: true, IPv6: true}) || len(user.state.DNS) > 0 {
		t.Errorf("renamed: %+v", user.state)
	}
	user.set(state.Routing{ExitNode: "other"})
	if user.uses(all) != "other" || user.state.Blocked.Any() {
		t.Errorf("%+v", user.state)
	}
	w.publish(exit)
	if _, ok := user.chosen[all]; ok || user.state.Blocked != (router.Families{IPv4: true, IPv6: true}) {
		t.Errorf("removed: %+v", user.state)
	}
}

// TestLoneGatewayStatus: of a gateway that there is no choice of nothing is known until it is used, and when it answered stays known. An exit node that has
// gone silent is told of.
func TestLoneGatewayStatus(t *testing.T) {
	w := newWorld(t)
	user := w.add("user", 100, state.Routing{ExitNode: "exit"})
	exit := w.add("exit", 100, state.Routing{AdvertiseExit: true}, "0.0.0.0/0", "::/0")
	lan := w.add("lan", 100, state.Routing{Site: []string{lanCIDR.String()}, Probe: []netip.Addr{lanHost}}, lanCIDR.String())
	lan.up[lanHost] = true
	w.publish()
	look := func() (g *pb.GatewayStatus, e *pb.ExitStatus) {
		var s pb.StatusResponse
		user.fill(&s)
		if len(s.GetRoutes()) != 1 || len(s.GetRoutes()[0].GetGateways()) != 1 {
			t.Fatalf("routes: %v", s.GetRoutes())
		}
		return s.GetRoutes()[0].GetGateways()[0], s.GetExit()
	}
	w.run(time.Minute)
	if g, e := look(); g.GetHealth() != "unknown" || g.GetAnswered() != nil || e.GetNode() != "exit" || e.GetProblem() != "" {
		t.Errorf("unused: %v, %v", g, e)
	}
	all := netip.MustParsePrefix("0.0.0.0/0")
	w.traffic = []flow{{user, lan, lanCIDR}, {user, exit, all}}
	w.run(10 * time.Second)
	if g, e := look(); g.GetHealth() != "working" || g.GetAnswered() == nil || e.GetProblem() != "" {
		t.Errorf("used: %v, %v", g, e)
	}
	exit.dead = true
	w.run(20 * time.Second)
	if _, e := look(); e.GetNode() != "exit" || e.GetProblem() != "exit does not answer" {
		t.Errorf("dead: %v", e)
	}
	w.traffic = nil
	w.run(10 * time.Minute)
	if g, _ := look(); g.GetHealth() != "unknown" || g.GetAnswered() == nil {
		t.Errorf("unused again: %v", g)
	}
}
