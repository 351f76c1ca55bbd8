package server

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/coord/domain"
)

// A device that comes online right after it enrolled, while the statement that lets its peers use its record waits for its turn: word of
// its presence comes after that statement, for before it no peer has a device by that key.
func TestPresenceAfterStatement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPiped(t, nil)
		tok := c.token(domain.TokenWish{Reusable: true})
		f := c.member(tok, "a").watch(0, 0)
		f.sees("a")
		c.member(tok, "b")
		f.sees("a", "b")
		began := time.Now()
		d := c.member(tok, "c")
		d.watch(0, 0)
		f.until("c online", func() bool { return f.online[d.key.Public().Raw()] })
		if f.names()[2] != "c" || f.statement.GetRevision() != f.revision {
			t.Errorf("sees %v by a statement of %d at %d", f.names(), f.statement.GetRevision(), f.revision)
		}
		if took := time.Since(began); took > statementGap {
			t.Errorf("known after %s", took)
		}
	})
}

// What is removed, runs out or leaves is gone from everybody's map within a second, however busy the network is.
func TestGoneWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPiped(t, nil)
		tok := c.token(domain.TokenWish{Reusable: true})
		f := c.member(tok, "a").watch(0, 0)
		f.sees("a")
		var d *device
		for what, do := range map[string]func() (due time.Time){
			"removed": func() time.Time { c.remove("x"); return time.Now() },
			"expired": func() time.Time { c.expire("x", nil); return time.Now() },
			"left":    func() time.Time { _, err := d.apply(leave()); c.must(err); return time.Now() },
			"run out": func() time.Time {
				at := time.Now().Add(5 * time.Second)
				c.expire("x", timestamppb.New(at))
				return at
			},
		} {
			d = c.member(tok, "x")
			f.sees("a", "x")
			c.rename("a", "b")
			due := do()
			f.until(what, func() bool { return f.statement.GetRevision() == f.revision && len(f.peers) == 1 })
			if late := time.Since(due); late < 0 || late > time.Second {
				t.Errorf("%s: gone %s after it was due", what, late)
			}
			c.rename("b", "a")
			f.sees("a")
			if c.list()["x"] != nil {
				c.remove("x")
				f.sees("a")
			}
		}
	})
}

// An ephemeral device is removed once it has been away for long enough, not while it is here; a restart of the coordinator gives it time.
func TestEphemeral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPiped(t, nil)
		stays := c.member(c.token(domain.TokenWish{}), "stays").watch(0, 0)
		stays.sees("stays")
		d := c.member(c.token(domain.TokenWish{Ephemeral: true}), "job")
		f := d.watch(0, 0)
		stays.sees("job", "stays")
		c.advance(10 * DefaultEphemeralAfter)
		synctest.Wait()
		if c.list()["job"] == nil {
			t.Fatal("removed while it was here")
		}
		f.close()
		c.advance(DefaultEphemeralAfter - time.Minute)
		synctest.Wait()
		if c.list()["job"] == nil {
			t.Fatal("removed too early")
		}
		c.advance(time.Minute)
		stays.sees("stays")
		if _, err := d.login(); err == nil {
			t.Error("a removed ephemeral device logged in")
		}
		if c.list()["stays"] == nil {
			t.Error("another device was removed")
		}
	})
}

// Silence is broken by keep-alives, and ticket and statement are renewed before half of their life is over.
func TestKeepAlivesAndRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPiped(t, func(cfg *Config) { cfg.KeepAlive, cfg.MapMaxAge = 5*time.Second, 20*time.Second })
		f := c.member(c.token(domain.TokenWish{}), "a").watch(0, 0)
		f.sees("a")
		first, began := f.statement.GetGoodUntil().AsTime(), time.Now()
		f.until("a keep-alive", func() bool { return f.keepAlives == 1 })
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("silent for %s", took)
		}
		for i := range 5 {
			tickets := f.tickets
			f.until("a new ticket", func() bool { return f.tickets > tickets })
			f.until("a new statement", func() bool { return f.statement.GetGoodUntil().AsTime().After(first) })
			if left := time.Until(first); left < 10*time.Second {
				t.Errorf("renewal %d with %s left of 20 s", i, left)
			}
			first = f.statement.GetGoodUntil().AsTime()
		}
	})
}
