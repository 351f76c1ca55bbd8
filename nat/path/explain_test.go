package path_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"warren/nat/path"
	"warren/nat/path/pathtest"
)

func TestExplainStranger(t *testing.T) {
	s := newSim(t, 1)
	a := s.add(easy)
	s.run(time.Second)
	got := a.core.Explain(path.ID{99})
	want := path.Explanation{RelayUp: true, InterfaceMTU: path.DefaultMTU, Local: a.local}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{}, netip.Addr{})); diff != "" {
		t.Error(diff)
	}
	if n := a.core.Sessions(); n != 0 {
		t.Errorf("asking made %d sessions", n)
	}
}

// What is told of each pair is what really happened.
func TestExplainPairs(t *testing.T) {
	for name, tc := range map[string]struct {
		a, b     pathtest.NAT
		answered bool
		cause    path.Cause
	}{
		"direct":  {easy, easy, true, path.Found},
		"relayed": {hard, hard, false, path.InUse},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, 1)
			a, b := s.add(tc.a), s.add(tc.b)
			s.run(time.Second)
			a.flow(b, 20*time.Millisecond, true)
			s.run(5 * time.Second)
			e := a.core.Explain(b.id)
			if !e.Configured || !e.Awake || e.Gone || e.HeardAt.IsZero() || s.now.Sub(e.UsedAt) > time.Second || e.Calls != 0 {
				t.Errorf("session %+v", e)
			}
			if e.Path.Kind != a.link(b.id).path.Kind || e.Cause != tc.cause || e.Reason == "" {
				t.Errorf("path %v because %v (%q), want %v because %v", e.Path.Kind, e.Cause, e.Reason, a.link(b.id).path.Kind, tc.cause)
			}
			if len(e.Remote) != 2 || len(e.Pairs) < 2 {
				t.Fatalf("%d candidates and %d pairs", len(e.Remote), len(e.Pairs))
			}
			answered, current, sent := 0, 0, 0
			for _, p := range e.Pairs {
				answered, sent = answered+p.Answered, sent+p.Sent
				if p.Current {
					current++
					if p.Pair != e.Path.Pair || p.RTT == 0 || p.LastAnswer.IsZero() {
						t.Errorf("the pair in use is %+v, the path %+v", p, e.Path)
					}
				}
				if p.Answered > p.Sent || (p.Sent > 0) == p.LastSent.IsZero() {
					t.Errorf("pair %+v", p)
				}
			}
			if sent != a.checks || (answered > 0) != tc.answered || (current == 1) != tc.answered {
				t.Errorf("%d of %d sent (really %d), %d answered, %d in use", sent, a.checks, a.checks, answered, current)
			}
		})
	}
}

// The cause of each change is told, and the explanation stays as it was when the core goes on.
func TestExplainCauses(t *testing.T) {
	s := newSim(t, 1)
	a, b := s.add(easy), s.add(easy)
	s.run(time.Second)
	a.flow(b, 20*time.Millisecond, true)
	s.run(5 * time.Second)
	before := a.core.Explain(b.id)
	kept := before.Pairs[0].Sent
	cut(true, true)(a, b)
	s.run(5 * time.Second)
	after := a.core.Explain(b.id)
	if after.Path.Kind != path.Relay || after.Cause != path.Unanswered || !after.Cause.Demotion() {
		t.Errorf("after the fault: %v because %v", after.Path.Kind, after.Cause)
	}
	if before.Pairs[0].Sent != kept || before.Path.Kind != path.Direct {
		t.Error("an explanation changed afterwards")
	}
	a.handle(path.SetRelay{Up: false})
	if e := a.core.Explain(b.id); e.Cause != path.RelayDown || e.RelayUp || e.Path.Kind != path.None {
		t.Errorf("without a relay: %v because %v", e.Path.Kind, e.Cause)
	}
}

// What is told of the search for a hard NAT's port follows it from its beginning to its failure.
func TestExplainBirthday(t *testing.T) {
	s, e, h := easyHard(t, 1, true)
	e.host.Box.Become(blocked) // whatever is sent, nothing arrives
	s.run(4 * time.Second)
	if b := h.core.Explain(e.id).Birthday; !b.Trying || b.Sent != 256 || b.Failed != 0 || b.Off {
		t.Errorf("hard side, at first: %+v", b)
	}
	if b := e.core.Explain(h.id).Birthday; !b.Trying || b.Sent < 100 || b.Sent > 300 {
		t.Errorf("easy side, at first: %+v", b)
	}
	s.run(36 * time.Second)
	for name, b := range map[string]path.Birthday{"hard": h.core.Explain(e.id).Birthday, "easy": e.core.Explain(h.id).Birthday} {
		if wait := b.After.Sub(s.now); b.Trying || b.Failed != 1 || wait < 30*time.Minute || wait > time.Hour {
			t.Errorf("%s side, after the failure: %+v, again in %s", name, b, wait)
		}
	}
}

func TestCauses(t *testing.T) {
	texts, labels := map[string]bool{}, map[string]bool{}
	for _, c := range path.Causes() {
		if c.String() == "" || texts[c.String()] || labels[c.Label()] || c.Label() == "unknown" {
			t.Errorf("cause %d is %q, %q", c, c, c.Label())
		}
		texts[c.String()], labels[c.Label()] = true, true
	}
	if len(texts) != int(path.CauseMax) {
		t.Errorf("%d causes", len(texts))
	}
	if got := path.Cause(200).Label(); got != "unknown" {
		t.Errorf("cause 200 is %q", got)
	}
}
