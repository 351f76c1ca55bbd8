package traversal

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"warren/nat/candidate"
	"warren/nat/path/pathtest"
	"warren/proto/key"
)

// TestRestoredPath: a device that takes over sends by the direct path of the one before, without a relay and without a word of its peer.
func TestRestoredPath(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Easy), w.add("b", pathtest.Easy)
		w.meet(a, b)
		w.talk(a, b)
		w.within(time.Second, "direct", both(a, b, Direct))
		pass(3 * time.Second)
		before := a.path(b)
		kept := a.tr.Keep(w.t.Context(), []key.NodePublic{b.node.Public(), key.NewNode().Public()})
		if len(kept) != 1 || !kept[0].Device.Equal(b.id.Public()) || kept[0].Path.Remote != before.Remote || kept[0].Path.Kind != Direct || len(kept[0].Candidates) == 0 {
			t.Fatalf("kept %+v, the path is %+v", kept, before)
		}
		a.stop()
		a.start(nil)
		a.tr.SetRelay(false, "", netip.AddrPort{})
		a.tr.SetPeers([]Peer{b.peer()})
		if got := a.tr.Restore(kept, []netip.Prefix{overlay}); len(got) != 1 || got[0].Path.Remote != before.Remote {
			t.Errorf("to be used at once: %+v", got)
		}
		a.tr.Active(b.node.Public())
		pass(0)
		if got := a.path(b); got.Kind != Direct || got.Remote != before.Remote || got.Local.Addr() != before.Local.Addr() {
			t.Errorf("path %+v, was %+v", got, before)
		}
		pass(time.Minute)
		for _, k := range a.told(b) {
			if k != Direct {
				t.Errorf("paths %v", a.told(b))
			}
		}
	})
}

// TestRestoreLeavesOut: nothing is sent to what is no address of a peer, and nothing is kept of strangers.
func TestRestoreLeavesOut(t *testing.T) {
	run(t, func(w *world) {
		a, b, stranger := w.add("a", pathtest.Easy), w.add("b", pathtest.Easy), w.add("stranger", pathtest.Easy)
		w.meet(a, b)
		at := func(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }
		inside := netip.AddrPortFrom(overlay.Addr().Next(), 7)
		good := Path{Kind: Direct, Remote: at("192.0.2.9:7")}
		for name, p := range map[string]Path{
			"inside the network": {Kind: Direct, Remote: inside}, "loopback": {Kind: Direct, Remote: at("127.0.0.1:7")}, "none": {Kind: Direct},
			"an extra socket": {Kind: Direct, Remote: good.Remote, Socket: 3}, "relayed": {Kind: Relay, Remote: good.Remote},
			"from inside": {Kind: Direct, Remote: good.Remote, Local: inside},
		} {
			got := a.tr.Restore([]Kept{{Device: b.id.Public(), Path: p, Candidates: []candidate.Candidate{{Addr: inside}, {Addr: good.Remote}}}}, []netip.Prefix{overlay})
			if len(got) != 1 || got[0].Path != (Path{}) || len(got[0].Candidates) != 1 {
				t.Errorf("%s: %+v", name, got)
			}
		}
		a.tr.Restore([]Kept{{Device: stranger.id.Public(), Path: good}}, []netip.Prefix{overlay})
		a.tr.Active(stranger.node.Public())
		pass(0)
		if got := a.path(stranger); got.Kind != None {
			t.Errorf("path to a stranger: %+v", got)
		}
		ended, cancel := context.WithCancel(w.t.Context())
		cancel()
		a.stop()
		if got := a.tr.Keep(ended, []key.NodePublic{b.node.Public()}); got != nil {
			t.Errorf("kept by one that has stopped: %+v", got)
		}
	})
}
