package mapsync

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// settled is an agent with a map of a world of four devices.
func settled(t *testing.T) *run {
	rng := rand.New(rand.NewPCG(3, 3))
	r := &run{world: newWorld(t), pick: rng.IntN, best: map[rawKey]record.Version{}}
	r.c = r.core()
	for _, name := range []string{"a", "b", "c"} {
		r.add(name)
	}
	for _, m := range r.stream(r.c.Position()) {
		if !r.handle(m) {
			t.Fatalf("refused: %v", m)
		}
	}
	return r
}

func TestSnapshotThenChanges(t *testing.T) {
	r := settled(t)
	m := r.c.Map(r.now)
	if m.Self == nil || m.Self.Name != "self" || m.Ticket == nil || m.SigningCert == nil || !m.CurrentAt.Equal(r.now) || len(m.Peers) != 3 {
		t.Fatalf("map %+v", m)
	}
	if !slices.IsSortedFunc(m.Peers, func(a, b *record.Device) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) }) {
		t.Error("peers are not in order of their names")
	}
	if e, rev := r.c.Position(); e != r.epoch || rev != r.revision {
		t.Errorf("position %d/%d", e, rev)
	}
	// A change does nothing until its statement comes, and then the position follows.
	at := r.revision
	b := r.members[2]
	b.Name = "x"
	r.put(b)
	msgs := r.since(at)
	if res, err := r.c.Handle(r.now, msgs[0]); err != nil || res != (Result{}) {
		t.Errorf("a record alone: %+v, %v", res, err)
	}
	if _, rev := r.c.Position(); rev != at {
		t.Errorf("position %d before the statement, want %d", rev, at)
	}
	if res, err := r.c.Handle(r.now, msgs[1]); err != nil || !res.Publish || !res.Store {
		t.Errorf("its statement: %+v, %v", res, err)
	}
	if got := r.c.Map(r.now); got.Peers[2].Name != "x" || m.Peers[1].Name != "b" {
		t.Error("the new map lacks the change, or the old map has it")
	}
	if res, err := r.c.Handle(r.now.Add(time.Minute), &pb.WatchResponse{Event: &pb.WatchResponse_KeepAlive{KeepAlive: &pb.KeepAlive{}}}); err != nil || res.Publish {
		t.Errorf("keep-alive: %+v, %v", res, err)
	}
	if got := r.c.Map(r.now).CurrentAt; !got.Equal(r.now.Add(time.Minute)) {
		t.Errorf("current at %s", got)
	}
}

// A device that has run out is out of the map although nobody said so.
func TestExpiry(t *testing.T) {
	r := settled(t)
	at := r.revision
	r.members[1].ExpiresAt, r.members[3].ExpiresAt = r.now.Add(2*time.Hour), r.now.Add(time.Hour)
	r.put(r.members[1])
	r.put(r.members[3])
	for _, m := range r.since(at) {
		r.handle(m)
	}
	for _, test := range []struct {
		after time.Duration
		peers int
		next  time.Duration
	}{{0, 3, time.Hour}, {time.Hour - 1, 3, time.Hour}, {time.Hour, 2, 2 * time.Hour}, {2 * time.Hour, 1, 0}} {
		m := r.c.Map(r.now.Add(test.after))
		want := time.Time{}
		if test.next > 0 {
			want = r.now.Add(test.next)
		}
		if len(m.Peers) != test.peers || !m.NextExpiry.Equal(want) {
			t.Errorf("after %s: %d peers, next expiry %s; want %d, %s", test.after, len(m.Peers), m.NextExpiry, test.peers, want)
		}
	}
}

// What a forger can send, each to an agent with a map, which must not change.
func TestForgeries(t *testing.T) {
	other := newWorld(t)
	foreign := other.add("foreign")
	type message = *pb.WatchResponse
	for name, make := range map[string]func(r *run) []message{
		"hello of another authority": func(*run) []message { return []message{other.hello()} },
		"hello without certificate":  func(*run) []message { return []message{{Event: &pb.WatchResponse_Hello{}}} },
		"another network's device":   func(r *run) []message { return []message{r.deviceChange(r.revision+1, foreign.Key, foreign.signed)} },
		"record under another id": func(r *run) []message {
			return []message{r.deviceChange(r.revision+1, r.members[2].Key, r.members[1].signed)}
		},
		"id of no key": func(r *run) []message {
			m := r.deviceChange(r.revision+1, r.members[1].Key, r.members[1].signed)
			m.GetChange().Id = []byte("short")
			return []message{m}
		},
		"no content": func(r *run) []message {
			m := r.deviceChange(r.revision+1, r.members[1].Key, r.members[1].signed)
			m.GetChange().Content = nil
			return []message{m}
		},
		"statement of another signer": func(r *run) []message {
			m := r.statementChange()
			m.GetChange().Content = other.statementChange().GetChange().GetContent()
			return []message{m}
		},
		"statement for another device": func(r *run) []message {
			r.self = r.members[1].Key
			defer func() { r.self = r.members[0].Key }()
			return []message{r.statementChange()}
		},
		"statement as a later one": func(r *run) []message {
			m := r.statementChange()
			m.GetChange().Revision++
			return []message{m}
		},
		"statement without body": func(r *run) []message {
			return []message{r.change(&pb.Change{Kind: pb.Kind_KIND_STATEMENT, Revision: r.revision})}
		},
		"ticket of another signer": func(*run) []message { return []message{other.ticket()} },
		"ticket of another device": func(r *run) []message {
			r.self = r.members[1].Key
			defer func() { r.self = r.members[0].Key }()
			return []message{r.ticket()}
		},
		"end without beginning": func(r *run) []message { return []message{end(r.mark)} },
		"end of another snapshot": func(r *run) []message {
			return []message{begin(r.mark), r.statementChange(), end(mark{r.epoch, r.revision + 1})}
		},
		"snapshot without statement": func(r *run) []message { return []message{begin(r.mark), end(r.mark)} },
		"snapshot that lacks a peer": func(r *run) []message { s := r.snapshot(); return slices.Delete(s, 2, 3) },
		"snapshot of two epochs": func(r *run) []message {
			s := r.snapshot()
			s[2].GetChange().Epoch++
			return s
		},
		"record of another epoch": func(r *run) []message {
			m := r.deviceChange(r.revision+1, r.members[1].Key, nil)
			m.GetChange().Epoch++
			return []message{m}
		},
		"a peer hidden": func(r *run) []message {
			return []message{r.deviceChange(r.revision+1, r.members[1].Key, nil), r.ticket(), r.statementChange()}
		},
	} {
		r := settled(t)
		_, was := r.contents()
		ended := false
		for _, m := range make(r) {
			ended = ended || !r.handle(m)
			if m.GetTicket() != nil {
				if _, is := r.contents(); !slices.Equal(was, is) {
					t.Errorf("%s: published %v without a statement", name, is)
				}
			}
		}
		if _, is := r.contents(); !ended || !slices.Equal(was, is) {
			t.Errorf("%s: accepted: %v; map %v, was %v", name, !ended, is, was)
		}
		r.settle()
	}
}

func TestUnknownKinds(t *testing.T) {
	r := settled(t)
	for _, m := range []*pb.WatchResponse{{}, r.change(&pb.Change{Kind: 99, Revision: r.revision + 1})} {
		if res, err := r.c.Handle(r.now, m); err != nil || res != (Result{}) {
			t.Errorf("of a newer coordinator: %+v, %v", res, err)
		}
	}
}

// A removal is remembered: neither a snapshot nor the record of before brings the device back, but a restored backup does.
func TestTombstones(t *testing.T) {
	r := settled(t)
	a, at := r.members[1], r.revision
	old := a.signed
	a.Removed = true
	r.put(a)
	for _, m := range r.since(at) {
		r.handle(m)
	}
	for _, m := range r.snapshot() {
		r.handle(m)
	}
	r.handle(r.deviceChange(r.revision+1, a.Key, old))
	r.handle(r.deviceChange(r.revision+1, a.Key, nil))
	if !r.handle(r.statementChange()) {
		t.Error("an old record of a removed device made the map drift")
	}
	if e := r.c.entries[a.Key.Raw()]; !e.removed() {
		t.Fatal("the tombstone is gone")
	}
	r.restore(true)
	for _, m := range r.stream(r.c.Position()) {
		r.handle(m)
	}
	if m := r.c.Map(r.now); len(m.Peers) != 3 {
		t.Errorf("%d peers after the restoration", len(m.Peers))
	}
}

func TestTombstonesAreBounded(t *testing.T) {
	entries := map[rawKey]entry{}
	for i := range uint64(maxTombstones + 100) {
		k := key.NewDevice().Public()
		entries[k.Raw()] = entry{device: &record.Device{Key: k, Removed: i%2 == 0 || i > 50, Version: record.Version{Counter: i}}}
	}
	dropTombstones(entries)
	tombstones, oldest := 0, uint64(1<<63)
	for _, e := range entries {
		if e.removed() {
			tombstones++
			oldest = min(oldest, e.device.Version.Counter)
		}
	}
	if tombstones != maxTombstones || len(entries) != maxTombstones+25 || oldest < 50 {
		t.Errorf("%d tombstones of %d records, the oldest of version %d", tombstones, len(entries), oldest)
	}
}

func TestSaved(t *testing.T) {
	r := settled(t)
	good, err := r.c.Save()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := r.core().Save(); b != nil || err != nil {
		t.Errorf("a core without a map gave %x, %v", b, err)
	}
	edit := func(f func(*pb.SavedMap)) []byte {
		var m pb.SavedMap
		if err := proto.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		f(&m)
		b, err := proto.Marshal(&m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, test := range []struct {
		name string
		b    []byte
		now  time.Time
		want error // nil: any
	}{
		{"empty", nil, r.now, nil},
		{"garbage", []byte("\xffgarbage"), r.now, nil},
		{"newer", edit(func(m *pb.SavedMap) { m.Layout = layout + 1 }), r.now, ErrNewer},
		{"over", good, r.now.Add(time.Hour), ErrTooOld},
		{"no statement", edit(func(m *pb.SavedMap) { m.Statement = nil }), r.now, nil},
		{"no certificate", edit(func(m *pb.SavedMap) { m.SigningCertificate = nil }), r.now, nil},
		{"a record lost", edit(func(m *pb.SavedMap) { m.Records = m.Records[1:] }), r.now, nil},
		{"no records", edit(func(m *pb.SavedMap) { m.Records = nil }), r.now, ErrDigest},
		{"a record changed", edit(func(m *pb.SavedMap) { m.Records[0].Payload[20] ^= 1 }), r.now, record.ErrSignature},
		{"the statement changed", edit(func(m *pb.SavedMap) { m.Statement.Payload[40] ^= 1 }), r.now, record.ErrSignature},
		{"the ticket changed", edit(func(m *pb.SavedMap) { m.Ticket.Payload[30] ^= 1 }), r.now, record.ErrSignature},
	} {
		c := r.core()
		err := c.Load(test.now, test.b)
		if err == nil && test.name == "a record lost" {
			if c.Map(r.now).Self != nil {
				t.Error("a lost record was not missed") // the own one may be lost: no digest covers it
			}
			continue
		}
		if err == nil || !errors.Is(err, test.want) && test.want != nil || c.Map(r.now) != nil {
			t.Errorf("%s: %v, map %v", test.name, err, c.Map(r.now))
		}
		if e, rev := c.Position(); err != nil && (e != 0 || rev != 0) {
			t.Errorf("%s: position %d/%d", test.name, e, rev)
		}
	}
	for name, cfg := range map[string]Config{
		"another network":   {record.NetworkID{8}, r.authority.Public(), r.self},
		"another authority": {r.network, key.NewAuthority().Public(), r.self},
		"another device":    {r.network, r.authority.Public(), r.members[1].Key},
	} {
		if err := New(cfg).Load(r.now, good); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
	// A position that does not fit the statement leads to a snapshot.
	c := r.core()
	if err := c.Load(r.now, edit(func(m *pb.SavedMap) { m.Revision += 5 })); err != nil {
		t.Error(err)
	}
	if e, rev := c.Position(); e != 0 || rev != 0 {
		t.Errorf("resumes at %d/%d", e, rev)
	}
}

// Whatever becomes of the file, a map that is loaded from it is the one that was saved.
func TestDamagedFiles(t *testing.T) {
	r := settled(t)
	good, err := r.c.Save()
	if err != nil {
		t.Fatal(err)
	}
	_, want := r.contents()
	check := func(what string, at int, b []byte) {
		r.c = r.core()
		if err := r.c.Load(r.now, b); err != nil {
			if r.c.Map(r.now) != nil {
				t.Fatalf("%s at %d: a map in spite of %v", what, at, err)
			}
			return
		}
		if _, got := r.contents(); !slices.Equal(got, want) {
			t.Fatalf("%s at %d: loaded %v, saved %v", what, at, got, want)
		}
	}
	for i := range good {
		if i%3 == 0 {
			check("cut", i, good[:i])
		}
		bent := bytes.Clone(good)
		bent[i] ^= 1 << (i % 8)
		check("bent", i, bent)
	}
}

func FuzzLoad(f *testing.F) {
	r := settled(new(testing.T))
	good, err := r.c.Save()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		c := r.core()
		err := c.Load(r.now, b)
		if m := c.Map(r.now); (err == nil) != (m != nil) {
			t.Errorf("%v with %v", err, m)
		}
	})
}

// A whole snapshot of before is as old as one of its parts, also when its epoch is over.
func TestOldSnapshots(t *testing.T) {
	for name, restored := range map[string]bool{"the same epoch": false, "the epoch before": true} {
		r := settled(t)
		old, at := r.snapshot(), r.mark
		r.now = r.now.Add(time.Minute)
		r.add("late")
		if restored {
			r.restore(false)
		}
		for _, m := range r.stream(at.epoch, at.revision) {
			if !r.handle(m) {
				t.Fatalf("%s: refused: %v", name, m)
			}
		}
		_, was := r.contents()
		whole := true
		for _, m := range old {
			whole = whole && r.handle(m)
		}
		if _, is := r.contents(); whole || !slices.Equal(was, is) {
			t.Errorf("%s: accepted: %v; map %v, was %v", name, whole, is, was)
		}
	}
}

// What a cut stream left behind does not disturb the next.
func TestCutStreams(t *testing.T) {
	r := settled(t)
	at := r.revision
	r.handle(r.deviceChange(at+1, r.members[1].Key, nil))
	r.c.Begin()
	r.add("late")
	for _, m := range r.since(at) {
		if !r.handle(m) {
			t.Fatalf("refused: %v", m)
		}
	}
	for _, m := range r.snapshot()[:3] {
		r.handle(m)
	}
	r.c.Begin()
	if res, err := r.c.Handle(r.now, r.statementChange()); err != nil || !res.Publish {
		t.Errorf("a statement after a snapshot that was cut off: %+v, %v", res, err)
	}
}

// TestGrantPeers: peers that grants name by bits are spelled out for the records that the statement sums up.
func TestGrantPeers(t *testing.T) {
	r := settled(t)
	r.grants = []*pb.Grant{{Id: "g", SourcePeers: []byte{0b10}, DestinationPeers: []byte{0b101}, Flows: []*pb.Flow{{LastPort: 65535}}}}
	check := func(what string, c *Core) {
		t.Helper()
		var byKey []*member
		for _, m := range r.members[1:] {
			if m.visible() {
				byKey = append(byKey, m)
			}
		}
		slices.SortFunc(byKey, func(a, b *member) int { return bytes.Compare(a.Key.Bytes(), b.Key.Bytes()) })
		prefixes := func(list ...int) (out []string) {
			for _, i := range list {
				out = append(out, byKey[i].Addresses[0].String()+"/32")
			}
			return out
		}
		texts := func(list []*pb.Prefix) (out []string) {
			all, err := record.PrefixesFromProto(list, record.MaxPrefixes)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range all {
				out = append(out, p.String())
			}
			return out
		}
		g := c.Map(r.now).Statement.GetGrants()[0]
		if got := texts(g.GetSources()); !slices.Equal(got, prefixes(1)) {
			t.Errorf("%s: sources %q, want %q", what, got, prefixes(1))
		}
		if got := texts(g.GetDestinations()); !slices.Equal(got, prefixes(0, 2)) {
			t.Errorf("%s: destinations %q, want %q", what, got, prefixes(0, 2))
		}
	}
	follow := func() {
		t.Helper()
		for _, m := range r.since(r.revision - 1) {
			if !r.handle(m) {
				t.Fatalf("refused: %v", m)
			}
		}
	}
	r.members[1].Name = "renamed"
	r.put(r.members[1])
	follow()
	check("a statement", r.c)
	r.members[2].hidden = true
	r.put(r.members[2])
	r.grants[0].DestinationPeers = []byte{0b11}
	follow() // the bits count among those who are left
	r.members[2].hidden = false
	r.put(r.members[2])
	r.grants[0].DestinationPeers = []byte{0b101}
	follow()
	check("a peer that came back", r.c)
	saved, err := r.c.Save()
	if err != nil {
		t.Fatal(err)
	}
	loaded := r.core()
	if err := loaded.Load(r.now, saved); err != nil {
		t.Fatal(err)
	}
	check("loaded", loaded)
	fresh := r.core()
	for _, m := range r.stream(0, 0) {
		if _, err := fresh.Handle(r.now, m); err != nil {
			t.Fatal(err)
		}
	}
	check("a snapshot", fresh)

	r.grants[0].SourcePeers = []byte{0b1000} // there are three
	if _, err := r.c.Handle(r.now, r.statementChange()); err == nil || !strings.Contains(err.Error(), "it names peer 4 of 3") {
		t.Errorf("a bit for nobody: %v", err)
	}
	check("refused", r.c)
}
