package traversal

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/nat/check"
	"warren/nat/path/pathtest"
	"warren/nat/signal"
	"warren/nat/stunmsg"
	"warren/proto/key"
)

// TestRelayThenDirect: every pair is reached through the relay at once, and directly within a second where the boxes allow it.
func TestRelayThenDirect(t *testing.T) {
	for name, tc := range map[string]struct {
		a, b   pathtest.NAT
		direct bool
	}{
		"none-none": {pathtest.Public, pathtest.Public, true}, "easy-easy": {pathtest.Easy, pathtest.Easy, true},
		"easy-none": {pathtest.Easy, pathtest.Public, true}, "hard-none": {pathtest.Hard, pathtest.Public, true},
		"hard-hard": {pathtest.Hard, pathtest.Hard, false}, "blocked-easy": {pathtest.Blocked, pathtest.Easy, false},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(w *world) {
				a, b := w.add("a", tc.a), w.add("b", tc.b)
				w.meet(a, b)
				w.talk(a, b)
				w.within(100*time.Millisecond, "through the relay", func() bool { return a.path(b).Kind != None && b.path(a).Kind != None })
				if k := a.told(b)[0]; k != Relay {
					t.Errorf("the first path is %s", k)
				}
				if p := a.path(b); p.Kind == Relay && (p.Relay != "home" || p.RelayAddr != relayAddr) {
					t.Errorf("the relayed path is %+v", p)
				}
				if !tc.direct {
					pass(30 * time.Second)
					if !both(a, b, Relay)() {
						t.Errorf("paths %+v and %+v, which no packet can take", a.path(b), b.path(a))
					}
					return
				}
				w.within(time.Second, "direct", both(a, b, Direct))
				p := a.path(b)
				if p.Local != a.host.At || p.RTT < 2*oneWay || p.RTT > 3*oneWay || p.Since.IsZero() {
					t.Errorf("the direct path is %+v", p)
				}
				if diff := cmp.Diff(Direct, a.tr.Paths()[b.raw()].Kind); diff != "" {
					t.Error(diff)
				}
				s := a.tr.Stats()
				if s.ChecksSent == 0 || s.Answers == 0 || s.Requests == 0 || s.SignalsSent == 0 || s.ToRelay == 0 || s.ToDirect == 0 {
					t.Errorf("not counted: %+v", s)
				}
			})
		})
	}
}

// TestBrokenPath: when a direct path breaks the relay carries the traffic within a second, and the path comes back.
func TestBrokenPath(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Easy), w.add("b", pathtest.Easy)
		w.meet(a, b)
		w.talk(a, b)
		w.within(2*time.Second, "direct", both(a, b, Direct))
		pass(10 * time.Second)
		w.mu.Lock()
		w.net.Cut = func(from, to *pathtest.Host) bool { return true }
		w.mu.Unlock()
		w.within(time.Second, "back on the relay", both(a, b, Relay))
		w.mu.Lock()
		w.net.Cut = nil
		w.mu.Unlock()
		w.within(10*time.Second, "direct again", both(a, b, Direct))
	})
}

// TestRemovedPeer: of a peer that left the map nothing is kept, and nothing that it sends is answered.
func TestRemovedPeer(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Easy), w.add("b", pathtest.Easy)
		w.meet(a, b)
		w.talk(a, b)
		w.within(2*time.Second, "direct", both(a, b, Direct))
		remote := a.path(b).Remote
		a.tr.SetPeers(nil)
		pass(0)
		if p := a.path(b); p.Kind != None {
			t.Errorf("the tunnel still has %+v", p)
		}
		if n := len(a.tr.Paths()); n != 0 {
			t.Errorf("%d paths are shown", n)
		}
		before := a.tr.Stats()
		requests, answers := a.checksTo(remote)
		told := len(a.told(b))
		pass(10 * time.Second) // b knows nothing of it, and goes on checking and calling
		after := a.tr.Stats()
		if after.Refused == before.Refused {
			t.Error("b sent nothing, so this test shows nothing")
		}
		if r, n := a.checksTo(remote); len(r) != len(requests) || n != answers || after.SignalsSent != before.SignalsSent || len(a.told(b)) != told {
			t.Errorf("the removed peer still gets: %d checks, %d answers, %d signals", len(r)-len(requests), n-answers, after.SignalsSent-before.SignalsSent)
		}
		a.tr.SetPeers([]Peer{b.peer()})
		a.tr.Active(b.node.Public())
		w.within(10*time.Second, "direct again, once it is back", both(a, b, Direct))
	})
}

// TestKeyChange: the node key of b rotates. While both keys are good the path stays; b restarts with the next key and is reached under it; at
// the end nothing is known under the old one.
func TestKeyChange(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Easy), w.add("b", pathtest.Easy)
		w.meet(a, b)
		stop := w.talk(a, b)
		w.within(2*time.Second, "direct", both(a, b, Direct))
		old, next := b.node, key.NewNode()
		kinds := len(a.told(b))
		a.tr.SetPeers([]Peer{{Device: b.id.Public(), Node: old.Public(), NextNode: next.Public()}})
		pass(5 * time.Second)
		if got := a.told(b)[kinds:]; slices.Contains(got, None) || slices.Contains(got, Relay) || !both(a, b, Direct)() {
			t.Errorf("announcing a next key moved the path: %v", got)
		}
		before := a.tr.Stats()
		ahead, err := check.NewKeys(next, a.node.Public())
		if err != nil {
			t.Fatal(err)
		}
		a.tr.HandlePacket(a.host.At.Addr(), b.path(a).Local, ahead.Request(stunmsg.NewTxID()))
		a.tr.HandleSignal(b.id.Public().Raw(), sealedBy(t, next, a.node.Public()))
		pass(0)
		if after := a.tr.Stats(); after.Requests != before.Requests+1 || after.Refused != before.Refused {
			t.Errorf("a check and a signal under the next key: %+v after %+v", after, before)
		}
		stop()
		b.stop()
		b.node = next
		b.start(nil)
		b.tr.SetPeers([]Peer{a.peer()})
		w.talk(a, b)
		w.within(time.Second, "reached under the next key", func() bool { return a.path(b).Kind != None && b.path(a).Kind != None })
		a.tr.Idle(old.Public())
		a.tr.SetPeers([]Peer{b.peer()})
		w.within(5*time.Second, "direct under the next key", both(a, b, Direct))
		if _, ok := a.tr.Paths()[old.Public().Raw()]; ok {
			t.Error("a path is still shown under the old key")
		}
		if a.tr.Paths()[b.raw()].Kind != Direct {
			t.Errorf("shown: %+v", a.tr.Paths())
		}
	})
}

// sealedBy gives a signal of the device with this node key.
func sealedBy(t *testing.T, self key.NodePrivate, peer key.NodePublic) []byte {
	t.Helper()
	k, err := signal.NewKeys(self, peer)
	if err != nil {
		t.Fatal(err)
	}
	box := signal.NewBox()
	box.SetKeys(k)
	b, err := box.Seal(signal.Signal{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPeerGone: the relay's word that a peer is not there counts until the peer is heard.
func TestPeerGone(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Hard), w.add("b", pathtest.Hard)
		w.meet(a, b)
		w.talk(a, b)
		w.within(time.Second, "through the relay", both(a, b, Relay))
		b.setRelay(false)
		a.tr.PeerGone(b.id.Public())
		w.within(time.Second, "nothing", func() bool { return a.path(b).Kind == None && b.path(a).Kind == None })
		b.setRelay(true)
		w.within(5*time.Second, "through the relay again", both(a, b, Relay))
	})
}

// TestWithoutRelay: a direct path does not need the relay, and comes to no harm by its name changing.
func TestWithoutRelay(t *testing.T) {
	run(t, func(w *world) {
		a, b, c := w.add("a", pathtest.Easy), w.add("b", pathtest.Easy), w.add("c", pathtest.Blocked)
		a.tr.SetPeers([]Peer{b.peer(), c.peer()})
		b.tr.SetPeers([]Peer{a.peer()})
		c.tr.SetPeers([]Peer{a.peer()})
		w.talk(a, b)
		w.talk(a, c)
		w.within(2*time.Second, "direct", both(a, b, Direct))
		w.within(time.Second, "through the relay", both(a, c, Relay))
		direct := len(a.told(b))
		other := netip.MustParseAddrPort("203.0.113.2:443")
		a.tr.SetRelay(true, "other", other)
		pass(0)
		if p := a.path(c); p.Kind != Relay || p.Relay != "other" || p.RelayAddr != other || a.tr.Paths()[c.raw()] != p {
			t.Errorf("the relayed path is %+v, shown as %+v", p, a.tr.Paths()[c.raw()])
		}
		a.setRelay(false)
		w.within(100*time.Millisecond, "no way to c", func() bool { return a.path(c).Kind == None })
		pass(20 * time.Second)
		if got := a.told(b); !both(a, b, Direct)() || len(got) != direct {
			t.Errorf("the direct path suffered: %v", got[direct:])
		}
	})
}

// TestCallWakes: a peer that is not in use is wanted when it calls, and is forgotten when nobody uses it any more.
func TestCallWakes(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Easy), w.add("b", pathtest.Easy)
		w.meet(a, b)
		pass(time.Minute)
		if s := a.tr.Stats(); s.ChecksSent+s.SignalsSent != 0 {
			t.Errorf("a peer that nobody uses costs packets: %+v", s)
		}
		a.tr.Active(b.node.Public())
		w.within(time.Second, "b is asked to configure a", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(b.wanted) > 0 && b.wanted[0].Equal(a.node.Public())
		})
		stop := w.talk(a, b)
		w.within(2*time.Second, "direct", both(a, b, Direct))
		stop()
		for _, d := range []struct{ of, peer *device }{{a, b}, {b, a}} {
			d.of.tr.Idle(d.peer.node.Public())
		}
		w.within(2*time.Minute, "forgotten", func() bool { return len(a.tr.Paths())+len(b.tr.Paths()) == 0 })
		if a.path(b).Kind != None || b.path(a).Kind != None {
			t.Errorf("the tunnel keeps %+v and %+v", a.path(b), b.path(a))
		}
		before := a.tr.Stats()
		pass(10 * time.Minute)
		if after := a.tr.Stats(); after.ChecksSent != before.ChecksSent || after.SignalsSent != before.SignalsSent {
			t.Errorf("packets for a peer that nobody uses: %+v after %+v", after, before)
		}
	})
}

// TestNetworkChanged: a host that moves to another network is reached again within a second.
func TestNetworkChanged(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Easy), w.add("b", pathtest.Easy)
		w.meet(a, b)
		w.talk(a, b)
		w.within(2*time.Second, "direct", both(a, b, Direct))
		w.mu.Lock()
		a.host.At = netip.MustParseAddrPort("10.77.0.2:51820")
		a.host.Box = pathtest.NewBox(pathtest.Easy, netip.MustParseAddr("192.0.2.77"), 77)
		w.mu.Unlock()
		a.tr.SetCandidates(a.candidates(), nil)
		a.tr.NetworkChanged()
		w.within(time.Second, "direct from the new address", func() bool {
			return a.path(b).Local == a.host.At && b.path(a).Remote.Addr() == a.host.Box.External()
		})
	})
}

// TestOverlayRefused: nothing goes into or comes out of the tunnel itself.
func TestOverlayRefused(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Public), w.add("b", pathtest.Public)
		w.meet(a, b)
		w.talk(a, b)
		w.within(time.Second, "direct", both(a, b, Direct))
		request, _ := b.checksTo(a.host.At)
		inside := netip.MustParseAddrPort("100.70.0.9:51820")
		before := a.tr.Stats()
		a.tr.HandlePacket(a.host.At.Addr(), inside, request[0])
		a.tr.HandlePacket(inside.Addr(), b.host.At, request[0])
		pass(0)
		if got := a.tr.Stats().Refused - before.Refused; got != 2 {
			t.Errorf("%d of 2 packets of the tunnel were refused", got)
		}
		if r, n := a.checksTo(inside); len(r)+n != 0 {
			t.Error("something was sent into the tunnel")
		}
	})
}
