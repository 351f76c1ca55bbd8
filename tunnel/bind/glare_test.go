package bind

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"warren/proto/key"
)

// TestGlare plays calls and answers of both sides. Steps: "out" our call may leave, "in" the peer's is delivered (a ! before it: is not), "late" and
// "due": ours or the peer's, which was kept back, goes on; "answered" ours was answered, "answers" we answer the peer's, and WireGuard need or need not be asked for a call, "unsent" ours did not
// leave, "again" it does now, "forget".
func TestGlare(t *testing.T) {
	type step struct {
		at   time.Duration
		what string
	}
	for name, c := range map[string]struct {
		stands bool
		steps  []step
	}{
		"alone":                               {true, []step{{0, "out"}, {0, "answered"}, {0, "!due"}}},
		"called alone":                        {true, []step{{0, "in"}, {1, "answers"}, {1 + 250e6, "out"}}},
		"both, ours stands":                   {true, []step{{1, "out"}, {2, "!in"}, {3, "answered"}, {1e9, "!due"}}},
		"both, ours stands, and takes long":   {true, []step{{1, "out"}, {600e6, "!in"}, {1e9, "!due"}, {1e9, "answered"}, {1 + 1e9, "!due"}}},
		"both, ours stands, but is lost":      {true, []step{{1, "out"}, {2, "!in"}, {1e9, "!due"}, {1 + 1e9, "due"}, {1 + 1e9, "!due"}, {2 + 1e9, "!out"}, {3 + 1e9, "answers, recall"}}},
		"both, theirs stands":                 {false, []step{{1, "out"}, {2, "in"}, {3, "answers, recall"}, {4, "answers"}}},
		"ours is old":                         {true, []step{{1, "out"}, {1 + 1e9, "in"}}},
		"ours is too old to matter":           {true, []step{{1, "out"}, {5e9, "in"}, {1 + 5e9, "answers"}}},
		"crossed, behind the answer":          {true, []step{{1, "out"}, {900e6, "answered"}, {1e9, "!in"}, {2e9, "due"}}},
		"started anew, behind the answer":     {true, []step{{1, "out"}, {2, "answered"}, {3, "!in"}, {1 + 250e6, "!due"}, {2 + 250e6, "due"}, {3 + 250e6, "!out"}}},
		"started anew, long after the answer": {true, []step{{1, "out"}, {2, "answered"}, {2 + 250e6, "in"}, {3 + 250e6, "answers"}}},
		"called while theirs waits":           {true, []step{{1, "out"}, {2, "!in"}, {300e6, "out"}, {1 + 1e9, "!due"}, {300e6 + 1e9, "due"}}},
		"answered, ours does not stand":       {false, []step{{1, "out"}, {2, "answered"}, {3, "in"}, {4, "answers"}}},
		"called again while theirs waits":     {true, []step{{1, "out"}, {2, "!in"}, {3, "!in"}, {4, "answered"}, {5, "!due"}}},
		"no call while one is to be answered": {false, []step{{1, "in"}, {2, "!out"}, {799e6, "!out"}, {1 + 800e6, "late"}, {1 + 800e6, "out"}}},
		"a call made before the answer":       {false, []step{{1, "in"}, {2, "!out"}, {3, "answers"}, {4, "!late"}}},
		"a late call, and then the answer":    {false, []step{{1, "in"}, {2, "!out"}, {800e6, "late"}, {900e6, "answers, recall"}, {901e6, "recalled"}, {902e6, "answers, recall"}}},
		"a call sent after the answer":        {false, []step{{1, "in"}, {900e6, "answers"}, {1e9, "!out"}, {4 + 1e9, "!late"}, {900e6 + 250e6, "out"}}},
		"a late call stands like any":         {true, []step{{1, "in"}, {2, "!out"}, {801e6, "late"}, {802e6, "!in"}, {1800e6, "!in"}, {1802e6, "in"}}},
		"ours did not leave":                  {true, []step{{1, "out"}, {2, "unsent"}, {3, "in"}, {4, "!out"}, {5, "answers"}}},
		"a late call that did not leave":      {true, []step{{1, "in"}, {2, "!out"}, {801e6, "late"}, {802e6, "unsent"}, {803e6, "in"}}},
		"stuck, and free again":               {true, []step{{1, "out"}, {2, "unsent"}, {4e9, "again"}, {4e9, "!again"}}},
		"stuck for too long":                  {true, []step{{1, "out"}, {2, "unsent"}, {2 + 5e9, "!again"}}},
		"stuck, then called":                  {false, []step{{1, "out"}, {2, "unsent"}, {3, "in"}, {4, "!again"}}},
		"stuck, then made anew":               {false, []step{{1, "out"}, {2, "unsent"}, {3, "out"}, {4, "!again"}}},
		"stuck, then forgotten":               {false, []step{{1, "out"}, {2, "unsent"}, {3, "forget"}, {4, "!again"}}},
		"forgotten":                           {true, []step{{1, "out"}, {2, "!in"}, {3, "forget"}, {4, "!due"}, {4, "in"}, {5, "forget"}, {5, "out"}}},
	} {
		var g glare
		for i, s := range c.steps {
			now := int64(s.at) + 1
			want, what := true, s.what
			if what[0] == '!' {
				want, what = false, what[1:]
			}
			got := true
			switch what {
			case "out":
				got, _ = g.leaves(new(call), now)
			case "late":
				got = g.late(now) != nil
			case "in":
				got, _ = g.arrives(new(call), c.stands, now)
			case "due":
				m, wait := g.due(now)
				if got = m != nil; got && wait != 0 {
					t.Errorf("%s, step %d: due, and to be waited for", name, i+1)
				}
			case "answered":
				g.answered(now)
			case "answers":
				got = !g.answers(now)
			case "answers, recall":
				got = g.answers(now)
			case "recalled":
				g.recalled()
			case "unsent":
				g.failed(new(call), now)
			case "again":
				got = g.stuck(now) && g.unstick(now) != nil
			case "forget":
				g.forget()
			default:
				t.Fatal(what)
			}
			if got != want {
				t.Errorf("%s, step %d: %s is %v", name, i+1, what, got)
			}
		}
	}
}

// TestUnsentCall: a call that found no relay does not hold the peer's back, now or when it was late.
func TestUnsentCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newDoor(), newDoor()
		if bytes.Compare(a.admission.public[:], b.admission.public[:]) < 0 {
			a, b = b, a
		}
		refused := errors.New("no relay is connected")
		a.cfg.SendRelay = func(key.NodePublic, [][]byte) error { return refused }
		a.Release(b.private.Public())
		send := func(n uint64) error {
			return a.Send([][]byte{caller{a.private, b.private.Public()}.initiation(t, n)}, a.endpoints.get(b.private.Public()))
		}
		if err := send(1); !errors.Is(err, refused) {
			t.Fatal(err)
		}
		a.knock(t, b.private, 2)
		if got := len(a.delivered()); got != 1 {
			t.Errorf("%d calls of the peer's are delivered", got)
		}
		if err := send(3); err != nil { // kept back, since the peer's is to be answered
			t.Fatal(err)
		}
		<-time.After(answerWait) // of the bubble's clock
		synctest.Wait()
		a.knock(t, b.private, 4)
		if got := len(a.delivered()); got != 1 {
			t.Errorf("behind a late call, %d calls of the peer's are delivered", got)
		}
	})
}

// TestCallsCross: of two Binds whose calls cross, one delivers the other's call and one does not, unless its own goes unanswered.
func TestCallsCross(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newDoor(), newDoor()
		if bytes.Compare(a.admission.public[:], b.admission.public[:]) < 0 {
			a, b = b, a
		}
		for i, answered := range []bool{true, false} {
			response := make([]byte, responseSize)
			response[0] = 2
			for _, pair := range [][2]*door{{b, a}, {a, b}} {
				us, peer := pair[0], pair[1].private
				us.cfg.SendRelay = func(key.NodePublic, [][]byte) error { return nil }
				us.Release(peer.Public())
				ours := caller{us.private, peer.Public()}.initiation(t, uint64(10+i))
				if err := us.Send([][]byte{ours}, us.endpoints.get(peer.Public())); err != nil {
					t.Fatal(err)
				}
				us.knock(t, peer, uint64(10+i))
				copy(response[8:], ours[4:8])
			}
			if got := len(b.delivered()); got != 1 {
				t.Errorf("the smaller key's side delivers %d calls", got)
			}
			if got := len(a.delivered()); got != 0 {
				t.Errorf("the larger key's side delivers %d calls at once", got)
			}
			if answered {
				a.InjectRelay(b.private.Public(), [][]byte{response})
				if got := len(a.delivered()); got != 1 {
					t.Errorf("the answer came %d times", got)
				}
			}
			<-time.After(glareWait) // of the bubble's clock
			synctest.Wait()
			if got := len(a.delivered()); (got == 1) != !answered {
				t.Errorf("answered %v: then it delivers %d calls", answered, got)
			}
		}
	})
}
