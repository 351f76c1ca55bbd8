package server

import (
	"testing"
	"testing/synctest"

	"warren/coord/domain"
)

const (
	nothing  = `{}`
	openHand = `{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}`
)

// set puts a policy into force, which must work.
func (c *coordinator) set(text string) {
	c.Helper()
	_, r, err := c.srv.SetPolicy(c.Context(), PolicyWish{Text: []byte(text), Author: "ann"})
	if err != nil {
		c.Fatalf("%v: %+v", err, r)
	}
}

// Word of a peer's coming that waits for a statement is not sent if the peer is out of sight by then.
func TestPresenceOfLostPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPiped(t, nil)
		tok := c.token(domain.TokenWish{Reusable: true})
		a, b := c.member(tok, "a"), c.member(tok, "b")
		f := a.watch(0, 0)
		f.sees("a", "b")
		c.rename("a", "x")
		f.until("the rename", func() bool { return f.changes == 1 }) // a statement is owed, but one was sent just now
		b.watch(0, 0)
		synctest.Wait() // b is here, and a's Watch knows
		c.set(nothing)
		f.sees("x")
		c.rename("x", "a")
		f.sees("a")
		if len(f.online) > 0 {
			t.Errorf("told of %v", f.online)
		}
	})
}

// A peer that went while it was out of sight is away when it is seen again, also by a snapshot that sums all of it up.
func TestPresenceAfterResnapshot(t *testing.T) {
	c := start(t, nil)
	c.srv.bounds.ownChanges = 0 // every change of sight is too much
	tok := c.token(domain.TokenWish{Reusable: true})
	a, b := c.member(tok, "a"), c.member(tok, "b")
	join := func(d *device) *watch {
		w := newWatch(session{device: d.key.Public(), role: d.role, me: instance{id: d.instance}})
		if refused := c.srv.hub.join(w, c.now()); refused != nil {
			t.Fatal(refused)
		}
		return w
	}
	wa, wb := join(a), join(b)
	told := map[rawKey]bool{}
	wa.take(told)
	if !told[b.key.Public().Raw()] {
		t.Fatal("not told that b is here")
	}
	clear(told)
	c.set(nothing)
	c.srv.hub.leave(wb, c.now())
	c.set(openHand)
	if v := c.srv.hub.take(wa); len(v.changes) != 1 {
		t.Errorf("changes %v, want one that asks for a snapshot", v.changes)
	}
	c.srv.hub.snapshot(wa, true)
	wa.take(told)
	if online, ok := told[b.key.Public().Raw()]; !ok || online {
		t.Errorf("told %v of b, which is away", told)
	}
}
