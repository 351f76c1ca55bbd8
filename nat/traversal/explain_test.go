package traversal

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/nat/path"
	"warren/nat/path/pathtest"
	"warren/nat/signal"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

const (
	works     = pb.Reach_REACH_WORKS
	viaDirect = pb.PathKind_PATH_KIND_DIRECT
)

// ask waits no longer than a second of fake time.
func (d *device) ask(peer *device) bool {
	ctx, cancel := context.WithTimeout(d.w.t.Context(), time.Second)
	defer cancel()
	return d.tr.Ask(ctx, peer.node.Public())
}

func (d *device) explain(peer *device) Explanation {
	d.w.t.Helper()
	e, err := d.tr.Explain(d.w.t.Context(), peer.node.Public())
	if err != nil {
		d.w.t.Fatal(err)
	}
	return e
}

func causesOf(h []Change) (out []path.Cause) {
	for _, c := range h {
		out = append(out, c.Cause)
	}
	return out
}

// TestHistory: what happened to the path is kept with its reasons, in order.
func TestHistory(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Easy), w.add("b", pathtest.Easy)
		w.meet(a, b)
		began := time.Now()
		w.talk(a, b)
		w.within(time.Second, "direct", both(a, b, Direct))
		w.mu.Lock()
		w.net.Cut = func(*pathtest.Host, *pathtest.Host) bool { return true }
		w.mu.Unlock()
		w.within(2*time.Second, "relayed", both(a, b, Relay))
		e := a.explain(b)
		want := []path.Cause{path.InUse, path.Found, path.Unanswered}
		if diff := cmp.Diff(want, causesOf(e.History)); diff != "" {
			t.Fatal(diff)
		}
		for i, c := range e.History {
			if c.At.Before(began) || c.At.After(time.Now()) || i > 0 && c.At.Before(e.History[i-1].At) || c.Reason == "" {
				t.Errorf("change %d is %+v", i, c)
			}
		}
		if c := e.History[1]; c.Kind != Direct || c.Remote != b.candidates()[1].Addr || c.MTU == 0 || e.History[0].Relay != "home" {
			t.Errorf("history %+v", e.History)
		}
		if e.Path.Kind != Relay || e.Path.Relay != "home" || len(e.Pairs) == 0 || !e.Configured {
			t.Errorf("explanation %+v", e)
		}
		got := a.tr.Histories()[b.raw()]
		if diff := cmp.Diff(causesOf(e.History), causesOf(got)); diff != "" {
			t.Errorf("Histories differs from Explain: %s", diff)
		}
		stats := a.tr.Stats()
		if diff := cmp.Diff(map[path.Cause]uint64{path.InUse: 1, path.Found: 1, path.Unanswered: 1}, stats.Causes); diff != "" {
			t.Error(diff)
		}
		a.tr.SetPeers(nil)
		synctest.Wait()
		if n := len(a.tr.Histories()); n != 0 {
			t.Errorf("%d histories of peers that have left", n)
		}
	})
}

// TestHistoryBounded: a relay that comes and goes makes nothing grow, and the newest changes are those that stay.
func TestHistoryBounded(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Hard), w.add("b", pathtest.Hard)
		w.meet(a, b)
		w.talk(a, b)
		pass(time.Second)
		for range historyMax {
			a.setRelay(false)
			pass(100 * time.Millisecond)
			a.setRelay(true)
			pass(100 * time.Millisecond)
		}
		h := a.explain(b).History
		if len(h) != historyMax || h[historyMax-1].Cause != path.RelayUp || h[historyMax-2].Cause != path.RelayDown {
			t.Errorf("%d changes, the causes %v", len(h), causesOf(h))
		}
		if got := a.tr.Stats().Causes[path.RelayDown]; got != historyMax {
			t.Errorf("%d times without a relay were counted, want %d", got, historyMax)
		}
		h[0].Reason = "mine"
		if got := a.explain(b).History[0].Reason; got == "mine" {
			t.Error("the history is shared")
		}
	})
}

// TestViews: signals carry the sender's view, and Ask brings it up to date.
func TestViews(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Easy), w.add("b", pathtest.Easy)
		b.tr.SetView(signal.View{UDP: works, Mapping: pb.Mapping_MAPPING_ENDPOINT_INDEPENDENT, Path: 99, MTU: 7})
		w.meet(a, b)
		if e := a.explain(b); !e.TheirsAt.IsZero() || e.Theirs != (signal.View{}) {
			t.Errorf("before anything was said: %+v at %s", e.Theirs, e.TheirsAt)
		}
		w.talk(a, b)
		w.within(time.Second, "direct", both(a, b, Direct))
		pass(time.Minute)
		if e := a.explain(b); e.Theirs.Mapping != pb.Mapping_MAPPING_ENDPOINT_INDEPENDENT || time.Since(e.TheirsAt) < 30*time.Second {
			t.Errorf("from the first signals: %+v, %s ago", e.Theirs, time.Since(e.TheirsAt))
		}
		quiet := b.tr.Stats()
		if !a.ask(b) {
			t.Fatal("the peer does not tell")
		}
		e := a.explain(b)
		want := signal.View{UDP: works, Mapping: pb.Mapping_MAPPING_ENDPOINT_INDEPENDENT, Path: viaDirect, MTU: uint16(b.path(a).MTU)}
		if e.Theirs != want || time.Since(e.TheirsAt) > time.Second || e.Own.Path != viaDirect || e.Own.UDP != 0 {
			t.Errorf("the peer told %+v, want %+v; our own %+v", e.Theirs, want, e.Own)
		}
		if got := b.tr.Stats(); got.SignalsSent != quiet.SignalsSent+1 || !both(a, b, Direct)() || len(a.told(b)) != 2 {
			t.Errorf("asking had effects: %d signals, paths %v", got.SignalsSent-quiet.SignalsSent, a.told(b))
		}
	})
}

// TestAskInVain: who cannot be asked is not waited for without end, and a stranger is an error.
func TestAskInVain(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Easy), w.add("b", pathtest.Easy)
		if _, err := a.tr.Explain(w.t.Context(), b.node.Public()); !errors.Is(err, ErrUnknownPeer) {
			t.Errorf("a stranger: %v", err)
		}
		if a.ask(b) {
			t.Error("a stranger told")
		}
		w.meet(a, b)
		a.setRelay(false)
		began := time.Now()
		if a.ask(b) || time.Since(began) != 0 {
			t.Errorf("without a relay it took %s", time.Since(began))
		}
		a.setRelay(true)
		b.setRelay(false)
		if a.ask(b) || time.Since(began) != time.Second {
			t.Errorf("a peer without a relay: %s", time.Since(began))
		}
		// Those who still wait are told when the peer leaves the network, and are not too many.
		answers := make(chan bool, 2*askersMax)
		for range cap(answers) {
			go func() { answers <- a.tr.Ask(w.t.Context(), b.node.Public()) }()
		}
		synctest.Wait()
		if len(answers) < askersMax {
			t.Errorf("%d of %d wait", cap(answers)-len(answers), cap(answers))
		}
		a.tr.SetPeers(nil)
		synctest.Wait()
		if len(answers) != cap(answers) {
			t.Errorf("%d of %d still wait", cap(answers)-len(answers), cap(answers))
		}
	})
}

// TestAskedTooOften: a peer that asks without end is told twice a second, and nothing else comes of it.
func TestAskedTooOften(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Easy), w.add("b", pathtest.Easy)
		w.meet(a, b)
		pass(time.Second)
		keys, err := signal.NewKeys(b.node, a.node.Public())
		if err != nil {
			t.Fatal(err)
		}
		box := signal.NewBox()
		box.SetKeys(keys)
		before := a.tr.Stats().SignalsSent
		const seconds = 10
		for range 50 * seconds {
			s, err := box.Seal(signal.Signal{Talk: pb.Talk_TALK_ASK, Candidates: b.candidates(), Call: true})
			if err != nil {
				t.Fatal(err)
			}
			a.tr.HandleSignal(b.id.Public().Raw(), s)
			pass(time.Second / 50)
		}
		if got := a.tr.Stats().SignalsSent - before; got != 2*seconds {
			t.Errorf("%d signals in %d s, want %d", got, seconds, 2*seconds)
		}
		if len(a.told(b)) != 0 || len(a.wanted) != 0 {
			t.Error("a question changed something")
		}
	})
}

// TestHistoryAfterKeyChange: the history is the device's, whatever its node key.
func TestHistoryAfterKeyChange(t *testing.T) {
	run(t, func(w *world) {
		a, b := w.add("a", pathtest.Easy), w.add("b", pathtest.Easy)
		w.meet(a, b)
		w.talk(a, b)
		w.within(time.Second, "direct", both(a, b, Direct))
		next := key.NewNode().Public()
		a.tr.SetPeers([]Peer{{Device: b.id.Public(), Node: next}})
		synctest.Wait()
		e, err := a.tr.Explain(w.t.Context(), next)
		if err != nil || len(e.History) != 2 || len(a.tr.Histories()) != 1 {
			t.Errorf("history %v, %v", causesOf(e.History), err)
		}
	})
}
