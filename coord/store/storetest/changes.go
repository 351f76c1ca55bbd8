package storetest

import (
	"errors"
	"time"

	"warren/coord/domain"
	"warren/coord/store"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

func (s *suite) append(c store.Change) store.Change {
	s.Helper()
	s.update(func(tx store.Tx) (err error) {
		c.Revision, err = tx.Append(c)
		return err
	})
	return c
}

// changes reads the rows for everybody, and those for the audiences.
func (s *suite) changes(after uint64, limit int, audience ...key.DevicePublic) (out []store.Change) {
	s.Helper()
	s.view(func(tx store.Tx) (err error) {
		out, err = tx.Changes(after, append(audience, key.DevicePublic{})[0], limit)
		return err
	})
	return out
}

func (s *suite) revision() (r uint64) {
	s.Helper()
	s.view(func(tx store.Tx) (err error) {
		r, err = tx.Revision()
		return err
	})
	return r
}

func (s *suite) floor() (r uint64) {
	s.Helper()
	s.view(func(tx store.Tx) (err error) {
		r, err = tx.Floor()
		return err
	})
	return r
}

func changeLog(s *suite) {
	if r, f := s.revision(), s.floor(); r != 0 || f != 0 {
		s.Errorf("an empty log has revision %d and floor %d", r, f)
	}
	a, b := s.device(1, nil), s.device(2, nil)
	first := s.append(store.Change{Kind: pb.Kind_KIND_DEVICE, ID: a.Key.Bytes(), Body: a.Signed})
	second := s.append(store.Change{Kind: pb.Kind_KIND_DEVICE, ID: b.Key.Bytes()}) // out of sight
	third := s.append(store.Change{Kind: pb.Kind_KIND_DEVICE, ID: b.Key.Bytes(), Body: b.Signed, Audience: a.Key})
	if first.Revision == 0 || second.Revision <= first.Revision || third.Revision <= second.Revision || s.revision() != third.Revision {
		s.Errorf("revisions %d, %d, %d, newest %d do not grow", first.Revision, second.Revision, third.Revision, s.revision())
	}
	same(s, "the log for a", s.changes(0, 100, a.Key), []store.Change{first, second, third})
	same(s, "what came after the first", s.changes(first.Revision, 100, a.Key), []store.Change{second, third})
	same(s, "what came after the newest", s.changes(third.Revision, 100, a.Key), []store.Change(nil))
	same(s, "the log for b", s.changes(0, 100, b.Key), []store.Change{first, second})
	same(s, "the log for everybody", s.changes(0, 100), []store.Change{first, second})
}

// audiences: rows for one device are counted, replaced by one that asks for a snapshot, and gone with the device.
func audiences(s *suite) {
	a, b, c := s.device(1, nil), s.device(2, nil), s.device(3, nil)
	s.put(a)
	own := func(k key.DevicePublic) (n int) {
		s.view(func(tx store.Tx) (err error) {
			n, err = tx.OwnChanges(k)
			return err
		})
		return n
	}
	all := s.append(store.Change{Kind: pb.Kind_KIND_DEVICE, ID: b.Key.Bytes(), Body: b.Signed})
	s.append(store.Change{Kind: pb.Kind_KIND_DEVICE, ID: b.Key.Bytes(), Audience: a.Key})
	s.append(store.Change{Kind: pb.Kind_KIND_DEVICE, ID: c.Key.Bytes(), Body: c.Signed, Audience: a.Key})
	s.append(store.Change{Kind: pb.Kind_KIND_DEVICE, ID: c.Key.Bytes(), Audience: a.Key})
	s.append(store.Change{Kind: pb.Kind_KIND_STATEMENT, Audience: a.Key})
	other := s.append(store.Change{Kind: pb.Kind_KIND_DEVICE, ID: a.Key.Bytes(), Audience: b.Key})
	if na, nb, nc := own(a.Key), own(b.Key), own(c.Key); na != 3 || nb != 1 || nc != 0 {
		s.Errorf("%d, %d, %d rows of their own; want 3, 1, 0", na, nb, nc)
	}
	again := s.append(store.Change{Kind: store.KindResnapshot, Audience: a.Key})
	last := s.append(store.Change{Kind: pb.Kind_KIND_DEVICE, ID: b.Key.Bytes(), Audience: a.Key})
	same(s, "the log for a", s.changes(0, 100, a.Key), []store.Change{all, again, last})
	same(s, "the log for b", s.changes(0, 100, b.Key), []store.Change{all, other})
	gone := a.Device
	gone.Removed, gone.RemovedAt = true, time.Unix(1_800_000_000, 0).UTC()
	gone.Version.Counter++
	s.put(s.sign(&gone))
	same(s, "the log for a removed device", s.changes(0, 100, a.Key), []store.Change{all})
	if s.floor() != 0 {
		s.Errorf("floor %d: nobody misses the rows of a removed device", s.floor())
	}
}

func replaced(s *suite) {
	a, b := s.device(1, nil), s.device(2, nil)
	s.append(store.Change{Kind: pb.Kind_KIND_DEVICE, ID: a.Key.Bytes(), Body: a.Signed})
	other := s.append(store.Change{Kind: pb.Kind_KIND_DEVICE, ID: b.Key.Bytes(), Body: b.Signed})
	forB := s.append(store.Change{Kind: pb.Kind_KIND_DEVICE, ID: a.Key.Bytes(), Audience: b.Key})
	statement := s.append(store.Change{Kind: pb.Kind_KIND_STATEMENT})
	newest := s.append(store.Change{Kind: pb.Kind_KIND_DEVICE, ID: a.Key.Bytes(), Body: b.Signed})
	same(s, "one row for each object and audience", s.changes(0, 100, b.Key), []store.Change{other, forB, statement, newest})
	if s.floor() != 0 {
		s.Errorf("floor %d: a replaced row is not a gap", s.floor())
	}
}

func paging(s *suite) {
	var want []store.Change
	for i := range byte(7) {
		d := s.device(i, nil)
		want = append(want, s.append(store.Change{Kind: pb.Kind_KIND_DEVICE, ID: d.Key.Bytes(), Body: d.Signed}))
	}
	var got []store.Change
	after := uint64(0)
	for {
		page := s.changes(after, 3)
		if len(page) == 0 {
			break
		}
		if len(page) > 3 {
			s.Fatalf("a page of %d, asked for 3", len(page))
		}
		got = append(got, page...)
		after = page[len(page)-1].Revision
	}
	same(s, "pages", got, want)
}

func pruning(s *suite) {
	day := func(n int) time.Time { return time.Unix(1_800_000_000, 0).UTC().Add(time.Duration(n) * 24 * time.Hour) }
	remove := func(d *store.Device, at time.Time) store.Change {
		next := domain.Device{RemovedAt: at}
		next.Network, next.Key, next.Version, next.Removed = s.network, d.Key, d.Version, true
		next.Version.Counter++
		gone := s.sign(&next)
		s.put(gone)
		return s.append(store.Change{Kind: pb.Kind_KIND_DEVICE, ID: d.Key.Bytes(), Body: gone.Signed})
	}
	old, recent, member := s.device(1, nil), s.device(2, nil), s.device(3, nil)
	s.put(old, recent, member)
	stays := s.append(store.Change{Kind: pb.Kind_KIND_DEVICE, ID: member.Key.Bytes(), Body: member.Signed})
	oldGone := remove(old, day(1))
	recentGone := remove(recent, day(10))
	s.update(func(tx store.Tx) error {
		return errors.Join(
			tx.PutToken(&domain.Token{ID: "old", Hash: [32]byte{1}, ExpiresAt: day(1)}),
			tx.UseToken("old", member.Key, [32]byte{}, day(1)),
			tx.PutToken(&domain.Token{ID: "new", Hash: [32]byte{2}, ExpiresAt: day(10)}))
	})
	for range 2 { // again changes nothing
		var gone []key.DevicePublic
		s.update(func(tx store.Tx) (err error) {
			gone, err = tx.Prune(day(5))
			return err
		})
		if len(gone) > 1 || (len(gone) == 1 && !gone[0].Equal(old.Key)) {
			s.Errorf("pruned %v", gone)
		}
		same(s, "the log", s.changes(0, 100), []store.Change{stays, recentGone})
		if f, r := s.floor(), s.revision(); f != oldGone.Revision || r != recentGone.Revision {
			s.Errorf("floor %d, revision %d; want %d, %d", f, r, oldGone.Revision, recentGone.Revision)
		}
	}
	s.view(func(tx store.Tx) error {
		_, err := tx.Device(old.Key)
		missing(s, "the old tombstone", err)
		_, err = tx.Token("old")
		missing(s, "the old token", err)
		_, err1 := tx.Device(recent.Key)
		_, err2 := tx.Token("new")
		return errors.Join(err1, err2)
	})
	// The newest row may go too, and the revision must not fall back then.
	s.update(func(tx store.Tx) error {
		_, err := tx.Prune(day(20))
		return err
	})
	if f, r := s.floor(), s.revision(); f != recentGone.Revision || r != recentGone.Revision {
		s.Errorf("floor %d, revision %d after all tombstones are gone; want both %d", f, r, recentGone.Revision)
	}
}
