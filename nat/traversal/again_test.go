package traversal

import (
	"testing"
	"time"

	"warren/nat/path/pathtest"
)

// TestRestartIsHeard: a device that begins anew is unknown to its peer's Box, and is heard by it after one question all the same.
func TestRestartIsHeard(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Easy), w.add("b", pathtest.Easy)
		w.meet(a, b)
		w.talk(a, b)
		w.within(time.Second, "direct", both(a, b, Direct))
		for range 3 {
			a.stop()
			pass(10 * time.Second)
			a.start(nil)
			a.tr.SetPeers([]Peer{b.peer()})
			a.tr.Active(b.node.Public())
			w.within(time.Second, "direct again", both(a, b, Direct))
			pass(3 * time.Second)
		}
	})
}

// TestOldSignals: a relay that brings signals of a peer's earlier starts over and over has us ask no more than ten times a second, and moves
// nothing.
func TestOldSignals(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Easy), w.add("b", pathtest.Easy)
		w.meet(a, b)
		w.talk(a, b)
		w.within(time.Second, "direct", both(a, b, Direct))
		pass(time.Second)
		w.mu.Lock()
		old := w.signals
		w.mu.Unlock()
		a.stop()
		a.start(nil)
		a.tr.SetPeers([]Peer{b.peer()})
		a.tr.Active(b.node.Public())
		w.within(time.Second, "direct again", both(a, b, Direct))
		pass(5 * time.Second)
		before, paths := b.tr.Stats(), len(b.told(a))
		const seconds = 10
		for range seconds * 50 {
			for _, s := range old {
				b.tr.HandleSignal(a.id.Public().Raw(), s)
			}
			pass(20 * time.Millisecond)
		}
		after := b.tr.Stats()
		if n := after.SignalsSent - before.SignalsSent; n < seconds || n > 11*seconds {
			t.Errorf("%d signals in %d s of old ones", n, seconds)
		}
		if !both(a, b, Direct)() || len(b.told(a)) != paths {
			t.Errorf("paths %v and %v; told %v", a.path(b).Kind, b.path(a).Kind, b.told(a)[paths:])
		}
	})
}
