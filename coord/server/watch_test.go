package server

import (
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/coord/domain"
	"warren/coord/reason"
	"warren/coord/store"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// Whatever happens to other devices reaches a Watch as single changes, each summed up by a statement.
func TestWatch(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	a, b := c.member(tok, "a"), c.member(tok, "b")
	f := a.watch(0, 0)
	f.sees("a", "b")
	f.until("the snapshot's end", func() bool { return f.snapshots == 1 })
	if f.tickets != 1 || f.changes != 0 || f.hello.GetKeepAliveSeconds() != 60 || f.hello.GetReturnWithinMilliseconds() != 2 {
		t.Errorf("%d tickets, %d changes, hello %v", f.tickets, f.changes, f.hello)
	}
	if got := f.statement; len(got.GetGrants()) != 2 || len(got.GetRelays()) != 1 || len(got.GetEndpoints()) != 1 || len(got.Prefixes) != 2 {
		t.Errorf("statement %v", got)
	}
	steps := []struct {
		what string
		do   func()
		sees []string
	}{
		{"enrolment", func() { c.member(tok, "c") }, []string{"a", "b", "c"}},
		{"rename by an administrator", func() { c.rename("c", "y") }, []string{"a", "b", "y"}},
		{"rename by the device", func() { _, err := b.apply(setName("z")); c.must(err) }, []string{"a", "y", "z"}},
		{"its own rename", func() { _, err := a.apply(setName("me")); c.must(err) }, []string{"me", "y", "z"}},
		{"removal", func() { c.remove("y") }, []string{"me", "z"}},
		{"expiry", func() { c.expire("z", nil) }, []string{"me"}},
		{"renewal", func() { _, err := b.enrol(tok); c.must(err) }, []string{"me", "z"}},
		{"departure", func() { _, err := b.apply(leave()); c.must(err) }, []string{"me"}},
	}
	for i, s := range steps {
		s.do()
		f.sees(s.sees...)
		if f.changes != i+1 || f.snapshots != 1 {
			t.Errorf("after %s: %d changes and %d snapshots, want %d and 1", s.what, f.changes, f.snapshots, i+1)
		}
	}
	f = a.watch(0, 0)
	f.sees("me")
	if got := f.hello.GetReturnWithinMilliseconds(); got != 1 { // one for each device that may come
		t.Errorf("devices are to return within %d ms", got)
	}
}

// A Watch that comes again gets what it missed, and nothing else, whether the coordinator has it in memory or in the database.
func TestResume(t *testing.T) {
	// The log keeps the newest state of each device.
	for name, changes := range map[string]int{"while it runs": 4, "after a restart": 4} {
		t.Run(name, func(t *testing.T) {
			c := start(t, nil)
			tok := c.token(domain.TokenWish{Reusable: true})
			a := c.member(tok, "a")
			for _, n := range []string{"b", "c", "d", "e"} {
				c.member(tok, n)
			}
			f := a.watch(0, 0)
			f.sees("a", "b", "c", "d", "e")
			f.close()

			f = f.resume()
			f.until("a statement", func() bool { return f.statements == 1 })
			if f.changes != 0 || f.snapshots != 0 {
				t.Errorf("with nothing missed: %d changes, %d snapshots", f.changes, f.snapshots)
			}
			f.close()

			c.remove("b")
			c.rename("c", "x")
			c.rename("x", "y")
			c.expire("d", nil)
			c.member(tok, "f")
			if name == "after a restart" {
				c.restart()
			}
			f = f.resume()
			f.sees("a", "e", "f", "y")
			if f.changes != changes || f.snapshots != 0 || f.tickets != 1 {
				t.Errorf("%d changes, %d snapshots, %d tickets; want %d, 0, 1", f.changes, f.snapshots, f.tickets, changes)
			}
			c.rename("e", "g")
			f.sees("a", "f", "g", "y")
			fresh := a.watch(0, 0)
			fresh.sees(f.names()...)
		})
	}
}

// Where a position is of no use there is a snapshot, between marks.
func TestPositionsWithoutUse(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	a := c.member(tok, "a")
	c.member(tok, "b")
	epoch, newest := c.srv.network.Epoch, c.srv.hub.newest()
	for name, p := range map[string][2]uint64{
		"none": {0, 0}, "another epoch": {epoch + 2, newest}, "no revision": {epoch, 0}, "the future": {epoch, newest + 1}, "far": {1 << 63, 1<<64 - 1},
	} {
		f := a.watch(p[0], p[1])
		f.sees("a", "b")
		f.until("the snapshot's end", func() bool { return f.snapshots == 1 })
		if f.epoch != epoch || f.revision != newest {
			t.Errorf("%s: snapshot of %d/%d, want %d/%d", name, f.epoch, f.revision, epoch, newest)
		}
		f.close()
	}
}

// Once the log was compacted, absence from a snapshot is how a removal is learnt.
func TestCompaction(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true, Life: 365 * 24 * time.Hour})
	a := c.member(tok, "a")
	c.member(tok, "b")
	f := a.watch(0, 0)
	f.sees("a", "b")
	f.close()
	c.remove("b")
	c.member(tok, "c")
	c.must(c.srv.prune(t.Context()))
	resumed := f.resume()
	resumed.sees("a", "c")
	if resumed.snapshots != 0 {
		t.Error("a snapshot though the tombstone is young")
	}
	resumed.close()

	c.advance(pruneAfter*DefaultMapMaxAge + time.Hour)
	c.must(c.srv.prune(t.Context()))
	f = f.resume()
	f.until("the snapshot's end", func() bool { return f.snapshots == 1 })
	f.sees("a", "c")
	if f.changes != 0 {
		t.Errorf("%d changes besides the snapshot", f.changes)
	}
	if d := c.srv.hub.devices; len(d) != 2 {
		t.Errorf("%d devices in memory, want the tombstone forgotten", len(d))
	}
}

// After a restored backup every record is new, of a new epoch.
func TestRaisedGeneration(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	a := c.member(tok, "a")
	c.member(tok, "b")
	f := a.watch(0, 0)
	f.sees("a", "b")
	f.close()
	old := maps.Clone(f.peers)
	c.stop()
	var err error
	c.srv, err = Open(t.Context(), c.cfg)
	c.must(err)
	done, err := c.srv.AfterRestore(t.Context(), 0)
	c.must(err)
	if done.Generation < uint64(c.cfg.Now().Add(-time.Hour).Unix()) || done.Devices != 2 || done.Revoked != 0 {
		t.Errorf("restored: %+v", done)
	}
	c.serve()
	f = f.resume()
	f.until("the snapshot's end", func() bool { return f.snapshots == 1 })
	f.sees("a", "b")
	if f.epoch != c.srv.network.Epoch {
		t.Errorf("epoch %d", f.epoch)
	}
	for k, d := range f.peers {
		if d.Version.Generation != done.Generation || d.Version.Compare(old[k].Version) <= 0 {
			t.Errorf("%s: version %v after %v", d.Name, d.Version, old[k].Version)
		}
	}
	c.restart()
	if got := c.srv.network.Generation; got != done.Generation {
		t.Errorf("generation %d after a restart", got)
	}
}

// A device that ceases to be a member is told why, and relays stop serving it.
func TestEndOfMembership(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	for _, test := range []struct {
		name   string
		do     func(*device)
		reason string
	}{
		{"removed", func(*device) { c.remove("x") }, reason.Removed},
		{"expired", func(*device) { c.expire("x", nil) }, reason.Expired},
		{"left", func(d *device) { _, err := d.apply(leave()); c.must(err) }, reason.Removed},
		{"run out", func(*device) {
			c.expire("x", timestamppb.New(c.now().Add(time.Hour)))
			c.advance(time.Hour)
		}, reason.Expired},
	} {
		d := c.member(tok, "x")
		f := d.watch(0, 0)
		f.until("a statement", func() bool { return f.statement != nil })
		if c.isBlocked(d) {
			t.Errorf("%s: blocked before", test.name)
		}
		test.do(d)
		c.refused(test.name+": the Watch", f.end(), test.reason, connect.CodePermissionDenied)
		_, err := d.login()
		c.refused(test.name+": login", err, test.reason, connect.CodePermissionDenied)
		_, err = d.apply(setName("y"))
		c.refused(test.name+": apply", err, test.reason, connect.CodePermissionDenied)
		if !c.isBlocked(d) {
			t.Errorf("%s: relays serve it still", test.name)
		}
		if test.reason == reason.Expired {
			_, err := d.enrol(tok)
			c.must(err)
			if c.isBlocked(d) {
				t.Errorf("%s: blocked after its renewal", test.name)
			}
			c.remove("x")
		}
	}
}

func TestBlockedAtStart(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	a, b, d := c.member(tok, "a"), c.member(tok, "b"), c.member(tok, "d")
	c.remove("a")
	c.expire("b", nil)
	c.stop()
	clear(c.blocked)
	c.start()
	f := d.watch(0, 0)
	f.sees("d")
	c.until("the blocked ones are announced", func() bool { return c.isBlocked(a) && c.isBlocked(b) })
	if c.isBlocked(d) {
		t.Error("a member is blocked")
	}
}

// until polls for what no event tells.
func (c *coordinator) until(what string, ok func() bool) {
	c.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); !ok(); {
		select {
		case <-tick.C:
		case <-deadline:
			c.Fatalf("still not: %s", what)
		}
	}
}

func TestPresence(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	a, b := c.member(tok, "a"), c.member(tok, "b")
	fa := a.watch(0, 0)
	fa.sees("a", "b")
	fb := b.watch(0, 0)
	online := func(f *follower, d *device, want bool) {
		t.Helper()
		f.until(d.hostname+" online or not", func() bool { got, told := f.online[d.key.Public().Raw()]; return told && got == want })
	}
	online(fa, b, true)
	online(fb, a, true)
	fb.close()
	online(fa, b, false)
	fb = fb.resume()
	online(fa, b, true)
	online(fb, a, true)
	if l := c.list(); !l["a"].GetOnline() || l["a"].GetRemote() == "" || l["a"].GetLastSeen() == nil {
		t.Errorf("the list shows %v", l["a"])
	}

	// A device that expired comes back by a token: its peers forgot that it was online.
	c.expire("b", nil)
	fa.sees("a")
	delete(fa.online, b.key.Public().Raw())
	_, err := b.enrol(tok)
	c.must(err)
	b.watch(0, 0)
	fa.sees("a", "b")
	online(fa, b, true)
}

// A device that expired can be back before its old Watch has ended. Its peers, who forgot it, are told that it is online.
func TestPresenceOverlap(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	a, b := c.member(tok, "a"), c.member(tok, "b")
	join := func(d *device) *watch {
		w := newWatch(session{device: d.key.Public(), role: d.role, me: instance{id: d.instance}})
		if refused := c.srv.hub.join(w, c.now()); refused != nil {
			t.Fatal(refused)
		}
		return w
	}
	wa, old := join(a), join(b)
	c.expire("b", nil)
	_, err := b.enrol(tok)
	c.must(err)
	told := map[rawKey]bool{}
	wa.take(told)
	clear(told) // the peer's map had no b in between
	join(b)
	c.srv.hub.leave(old, c.now())
	wa.take(told)
	if online := told[b.key.Public().Raw()]; !online {
		t.Errorf("the peer was told %v", told)
	}
}

// A newer start of a device takes its Watch over; its peers see no gap.
func TestTakeover(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	a, b := c.member(tok, "a"), c.member(tok, "b")
	fa := a.watch(0, 0)
	fa.sees("a", "b")
	old := b.watch(0, 0)
	old.sees("a", "b")
	fa.until("b online", func() bool { return fa.online[b.key.Public().Raw()] })
	newer := b.copy("b").watch(0, 0)
	c.refused("the older start", old.end(), reason.Superseded, connect.CodeAborted)
	newer.sees("a", "b")
	c.rename("b", "c")
	fa.sees("a", "c")
	if !fa.online[b.key.Public().Raw()] || !c.srv.online(b.key.Public()) {
		t.Error("b went offline")
	}
}

// Many changes at once are summed up by few statements, none of which may be wrong.
func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPiped(t, nil)
		tok := c.token(domain.TokenWish{Reusable: true})
		f := c.member(tok, "first").watch(0, 0)
		f.sees("first")
		before, began := f.statements, time.Now()
		const many = 60
		done := make(chan error, many)
		for range many {
			d := c.device("host")
			go func() {
				_, err := d.enrol(tok)
				done <- err
			}()
		}
		f.until("all", func() bool { return len(f.peers) == many+1 && f.statement.GetRevision() == c.srv.hub.newest() })
		for range many {
			c.must(<-done)
		}
		took := time.Since(began)
		if n := f.statements - before; n > 2+int(took/statementGap) || took > time.Second { // one may have been on its way, and one is due at once
			t.Errorf("%d statements for %d changes in %s", n, many, took)
		}
		if record.Digest(f.statement.GetDigest()) == (record.Digest{}) {
			t.Error("a digest of nothing")
		}
	})
}

// A watcher for whom more was published than is kept in memory reads it from the store.
func TestOverrunQueue(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	a := c.member(tok, "a")
	c.member(tok, "b")
	w := newWatch(session{device: a.key.Public(), role: a.role})
	for range maxQueue {
		w.push(store.Change{Kind: pb.Kind_KIND_STATEMENT})
	}
	if len(w.queue) != maxQueue || w.behind {
		t.Errorf("%d changes kept, behind %v", len(w.queue), w.behind)
	}
	w.push(store.Change{Kind: pb.Kind_KIND_STATEMENT})
	w.push(store.Change{Kind: pb.Kind_KIND_STATEMENT})
	if len(w.queue) != 0 || !w.behind {
		t.Errorf("%d changes kept, behind %v", len(w.queue), w.behind)
	}
	w.push(store.Change{Kind: store.KindResnapshot})
	if len(w.queue) != 1 || w.behind {
		t.Errorf("a snapshot makes up for what was missed: %d changes kept, behind %v", len(w.queue), w.behind)
	}

	f := a.watch(0, 0)
	f.sees("a", "b")
	f.until("the snapshot's end", func() bool { return f.snapshots == 1 })
	open := c.srv.hub.watches[a.key.Public().Raw()]
	c.srv.hub.mu.Lock()
	open.queue, open.behind = nil, true
	c.srv.hub.mu.Unlock()
	c.rename("b", "x")
	c.member(tok, "c")
	f.sees("a", "c", "x")
	if f.snapshots != 1 || f.changes != 2 {
		t.Errorf("%d snapshots, %d changes", f.snapshots, f.changes)
	}
	c.srv.hub.mu.Lock()
	open.push(store.Change{Kind: store.KindResnapshot})
	c.srv.hub.mu.Unlock()
	f.until("another snapshot", func() bool { return f.snapshots == 2 })
	f.sees("a", "c", "x")
}
