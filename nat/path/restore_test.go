package path_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"warren/nat/candidate"
	"warren/nat/path"
)

// restart replaces a node's core by one that is told what the one before knew of a peer. Its relay connects later.
func (n *node) restart(t *testing.T, peer *node, relayAfter time.Duration) path.Restore {
	t.Helper()
	r, ok := n.core.Restorable(peer.id)
	if !ok {
		t.Fatal("there is nothing to restore")
	}
	n.relayUp, n.relaySet = false, n.sim.now
	n.start()
	n.handle(r)
	n.handle(path.Activate{Peer: peer.id})
	n.sim.after(relayAfter, func() {
		n.relayUp, n.relaySet = true, n.sim.now
		n.handle(path.SetRelay{Up: true})
	})
	return r
}

// TestRestore: the direct path of the process before is there from the first moment, before a relay is, and stays.
func TestRestore(t *testing.T) {
	s, a, b, _ := pairOf(t)
	before := a.link(b.id).path
	r := a.restart(t, b, 200*time.Millisecond)
	if diff := cmp.Diff(before.Pair, r.Pair, cmpopts.EquateComparable(path.Pair{})); diff != "" || r.RTT == 0 || len(r.Candidates) == 0 {
		t.Errorf("to be restored: %+v (-path +it)\n%s", r, diff)
	}
	if got := a.link(b.id).path; got.Kind != path.Direct || got.Pair != before.Pair {
		t.Fatalf("at once: %+v, want %+v", got, before)
	}
	a.flow(b, 20*time.Millisecond, true)
	s.run(10 * time.Second)
	// The tunnel is told of it twice: flow activates the peer as well.
	if got := a.link(b.id); !slices.Equal(got.history, []string{"direct", "direct"}) || got.path.Pair != before.Pair {
		t.Errorf("%d changes, now %+v:\n%v", got.changes, got.path, got.history)
	}
}

// TestRestoreOfAPathThatIsGone: a restored path that does not answer gives way to the relay in time.
func TestRestoreOfAPathThatIsGone(t *testing.T) {
	s, a, b, stop := pairOf(t)
	stop()
	a.restart(t, b, 0)
	cut(true, true)(a, b)
	began := s.now
	a.flow(b, 20*time.Millisecond, true)
	s.until("a takes the relay", func() bool { return a.link(b.id).path.Kind == path.Relay })
	if took := s.now.Sub(began); took > time.Second {
		t.Errorf("the relay carries the traffic after %s", took)
	}
}

// TestRestoreIsHostile: what makes no sense leaves the peer without a direct path, and nothing is kept of one that leaves or of another network.
func TestRestoreIsHostile(t *testing.T) {
	s, a, b, stop := pairOf(t)
	stop()
	s.lenient = true
	good, ok := a.core.Restorable(b.id)
	if !ok {
		t.Fatal("there is nothing to restore")
	}
	for name, c := range map[string]struct {
		change func(*path.Restore)
		then   []path.Event
		direct bool
	}{
		"as it was":         {func(*path.Restore) {}, nil, true},
		"no path":           {func(r *path.Restore) { r.Pair = path.Pair{} }, nil, false},
		"an extra socket":   {func(r *path.Restore) { r.Socket = 7 }, nil, false},
		"odd figures":       {func(r *path.Restore) { r.RTT, r.MTU = -time.Hour, -1 }, nil, true},
		"too many":          {func(r *path.Restore) { r.Candidates = append(r.Candidates, make([]candidate.Candidate, 1000)...) }, nil, true},
		"forgotten":         {func(*path.Restore) {}, []path.Event{path.Forget{Peer: b.id}}, false},
		"another network":   {func(*path.Restore) {}, []path.Event{path.NetworkChanged{}}, false},
		"another peer's":    {func(r *path.Restore) { r.Peer = path.ID{99} }, nil, false},
		"told twice":        {func(*path.Restore) {}, []path.Event{good}, true},
		"a peer that calls": {func(*path.Restore) {}, []path.Event{path.Signal{Peer: b.id, Call: true, Candidates: good.Candidates}}, true},
	} {
		r := good
		c.change(&r)
		a.relayUp = false
		a.start()
		a.handle(r)
		for _, e := range c.then {
			a.handle(e)
		}
		a.handle(path.Activate{Peer: b.id})
		if got := a.link(b.id).path.Kind == path.Direct; got != c.direct {
			t.Errorf("%s: path %+v", name, a.link(b.id).path)
		}
	}
}

// TestRestorableOnlyInUse: there is nothing to tell of a peer that is asleep or unknown.
func TestRestorableOnlyInUse(t *testing.T) {
	s, a, b, stop := pairOf(t)
	stop()
	s.run(time.Minute)
	for _, id := range []path.ID{b.id, {77}} {
		if r, ok := a.core.Restorable(id); ok {
			t.Errorf("%+v", r)
		}
	}
}
