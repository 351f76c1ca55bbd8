package domain

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"warren/proto/key"
	"warren/proto/record"
)

// stream is randomness that a seed decides.
type stream struct {
	seed, n uint64
}

func (s *stream) Read(b []byte) (int, error) {
	for i := range b {
		var in [16]byte
		binary.BigEndian.PutUint64(in[:8], s.seed)
		binary.BigEndian.PutUint64(in[8:], s.n)
		s.n++
		h := sha256.Sum256(in[:])
		b[i] = h[0]
	}
	return len(b), nil
}

// dry is randomness that has run out.
type dry struct{}

func (dry) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

var start = time.Unix(1_800_000_000, 0).UTC()

func testNetwork() *Network {
	return &Network{
		ID: record.NetworkID{1}, Generation: 3, Epoch: 9,
		Prefixes: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/16"), netip.MustParsePrefix("fd00:1:2::/48")},
	}
}

func nothingTaken() Taken {
	return Taken{
		Name: func(string) bool { return false }, Address: func(netip.Addr) bool { return false }, Node: func(key.NodePublic) bool { return false },
	}
}

func enrolled(t *testing.T, n *Network) *Device {
	t.Helper()
	r := Request{Device: key.NewDevice().Public(), Node: key.NewNode().Public(), Host: Host{Hostname: "laptop"}}
	d, err := Enrol(n, nil, r, &Token{}, nothingTaken(), &stream{}, start)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestEnrol(t *testing.T) {
	n := testNetwork()
	r := Request{
		Device: key.NewDevice().Public(), Node: key.NewNode().Public(), Host: Host{Hostname: "Ann's-Laptop.example.com", OS: "linux", AgentVersion: "1\x1b[31m"}, Counter: 41,
	}
	tok := &Token{Owner: "ann", Tags: []string{"web"}, Ephemeral: true}
	d, err := Enrol(n, nil, r, tok, nothingTaken(), &stream{}, start)
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case d.Name != "anns-laptop", d.Owner != "ann", len(d.Tags) != 1, !d.Ephemeral, d.AgentVersion != "1[31m", len(d.Addresses) != 2:
		t.Errorf("enrolled %+v", d)
	case d.Version != record.Version{Generation: 3, Counter: 42}:
		t.Errorf("version %+v, want 3.42: after every one that was given", d.Version)
	case !d.Key.Equal(r.Device), !d.NodeKey.Equal(r.Node), !d.CreatedAt.Equal(start), !d.Member(start), !d.Visible():
		t.Errorf("enrolled %+v", d)
	}
	if _, err := record.SignDevice(key.NewAuthority(), &d.Device); err != nil {
		t.Errorf("the record cannot be signed: %v", err)
	}

	// Renewing with nothing new makes no new version.
	r.Counter = 1000
	taken := nothingTaken()
	taken.Name = func(s string) bool { return s == d.Name }
	taken.Node = func(k key.NodePublic) bool { return k.Equal(d.NodeKey) }
	taken.Address = func(netip.Addr) bool { return true }
	again, err := Enrol(n, d, r, tok, taken, dry{}, start.Add(time.Hour))
	if err != nil || again.Version != d.Version || again.Name != d.Name {
		t.Errorf("renewed as %+v, %v", again, err)
	}
	// A new node key or another owner do.
	r.Node = key.NewNode().Public()
	again, err = Enrol(n, d, r, &Token{Owner: "bob"}, taken, dry{}, start.Add(time.Hour))
	if err != nil || again.Version.Compare(d.Version) <= 0 || again.Owner != "bob" || !again.NodeKey.Equal(r.Node) || again.Addresses[0] != d.Addresses[0] {
		t.Errorf("renewed as %+v, %v", again, err)
	}
	if d.Owner != "ann" {
		t.Error("the old state was changed")
	}
}

func TestEnrolRefused(t *testing.T) {
	n := testNetwork()
	d := enrolled(t, n)
	gone, err := Remove(n, d, start)
	if err != nil {
		t.Fatal(err)
	}
	r := Request{Device: d.Key, Node: d.NodeKey}
	if _, err := Enrol(n, gone, r, &Token{}, nothingTaken(), &stream{}, start); !errors.Is(err, ErrRemoved) {
		t.Errorf("a removed device: %v", err)
	}
	taken := nothingTaken()
	taken.Node = func(key.NodePublic) bool { return true }
	if _, err := Enrol(n, nil, r, &Token{}, taken, &stream{}, start); !errors.Is(err, ErrNodeKey) {
		t.Errorf("another's node key: %v", err)
	}
	taken = nothingTaken()
	taken.Name = func(string) bool { return true }
	if _, err := Enrol(n, nil, Request{Device: d.Key, Node: d.NodeKey, Name: "x"}, &Token{}, taken, &stream{}, start); !errors.Is(err, ErrNameTaken) || !errors.Is(err, ErrName) {
		t.Errorf("a taken name: %v", err)
	}
	if _, err := Enrol(n, nil, r, &Token{}, nothingTaken(), dry{}, start); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("no randomness: %v", err)
	}
}

func TestExpiry(t *testing.T) {
	n := testNetwork()
	d := enrolled(t, n)
	later := start.Add(time.Hour)
	timed, err := Expire(n, d, later, start)
	if err != nil || timed.Gone || !timed.Member(start) || timed.Member(later) || !timed.Visible() {
		t.Fatalf("expires in an hour: %+v, %v", timed, err)
	}
	if same := Lapse(n, timed, later.Add(-1)); same != timed {
		t.Error("lapsed before its time")
	}
	lapsed := Lapse(n, timed, later)
	if !lapsed.Gone || lapsed.Visible() || lapsed.Version.Compare(timed.Version) <= 0 {
		t.Errorf("lapsed: %+v", lapsed)
	}
	if again := Lapse(n, lapsed, later.Add(time.Hour)); again != lapsed {
		t.Error("lapsed twice")
	}
	now, err := Expire(n, d, start, start)
	if err != nil || !now.Gone {
		t.Errorf("expired at once: %+v, %v", now, err)
	}
	// A token brings it back.
	back, err := Enrol(n, lapsed, Request{Device: d.Key, Node: d.NodeKey}, &Token{}, nothingTaken(), dry{}, later)
	if err != nil || !back.Visible() || !back.Member(later) || back.Name != d.Name || back.Version.Compare(lapsed.Version) <= 0 {
		t.Errorf("renewed: %+v, %v", back, err)
	}
	gone, _ := Remove(n, d, start)
	if _, err := Expire(n, gone, start, start); !errors.Is(err, ErrRemoved) {
		t.Errorf("a tombstone expires: %v", err)
	}
	if Lapse(n, gone, later) != gone {
		t.Error("a tombstone lapsed")
	}
}

func TestRotation(t *testing.T) {
	n := testNetwork()
	d := enrolled(t, n)
	free := func(key.NodePublic) bool { return false }
	next := key.NewNode().Public()
	announced, err := RotateNodeKey(n, d, next, free)
	if err != nil || !announced.NodeKey.Equal(d.NodeKey) || !announced.NextNodeKey.Equal(next) {
		t.Fatalf("announced: %+v, %v", announced, err)
	}
	if again, err := RotateNodeKey(n, announced, next, free); err != nil || again != announced {
		t.Errorf("an answer that was lost: %+v, %v", again, err)
	}
	if same, err := UseNodeKey(n, announced, d.NodeKey); err != nil || same != announced {
		t.Errorf("still on the current key: %v", err)
	}
	used, err := UseNodeKey(n, announced, next)
	if err != nil || !used.NodeKey.Equal(next) || !used.NextNodeKey.IsZero() || used.Version.Compare(announced.Version) <= 0 {
		t.Errorf("on the next key: %+v, %v", used, err)
	}
	if _, err := UseNodeKey(n, used, d.NodeKey); !errors.Is(err, ErrNodeKey) {
		t.Errorf("on the former key: %v", err)
	}
	if _, err := UseNodeKey(n, d, key.NodePublic{}); !errors.Is(err, ErrNodeKey) {
		t.Errorf("no key at all: %v", err)
	}
	back, err := RotateNodeKey(n, announced, d.NodeKey, free)
	if err != nil || !back.NextNodeKey.IsZero() || back.Version == announced.Version {
		t.Errorf("taken back: %+v, %v", back, err)
	}
	if same, err := RotateNodeKey(n, d, d.NodeKey, free); err != nil || same != d {
		t.Errorf("nothing to take back: %v", err)
	}
	if _, err := RotateNodeKey(n, d, next, func(key.NodePublic) bool { return true }); !errors.Is(err, ErrNodeKey) {
		t.Errorf("another's node key: %v", err)
	}
}

func TestApplySelf(t *testing.T) {
	n := testNetwork()
	d := enrolled(t, n)
	d.Sequence = 5
	next := key.NewNode().Public()
	expired, _ := Expire(n, d, start, start)
	removed, _ := Remove(n, d, start)
	for name, c := range map[string]struct {
		on     *Device
		change SelfChange
		err    error
		check  func(*Device) bool
	}{
		"rename":                 {d, SelfChange{By: d.Key, Sequence: 6, Name: "new"}, nil, func(x *Device) bool { return x.Name == "new" }},
		"same name":              {d, SelfChange{By: d.Key, Sequence: 6, Name: d.Name}, nil, func(x *Device) bool { return x == d }},
		"no name":                {d, SelfChange{By: d.Key, Sequence: 6}, ErrName, nil},
		"rotate":                 {d, SelfChange{By: d.Key, Sequence: 6, Node: next}, nil, func(x *Device) bool { return x.NextNodeKey.Equal(next) }},
		"leave":                  {d, SelfChange{By: d.Key, Sequence: 6, Leave: true}, nil, func(x *Device) bool { return x.Removed && x.RemovedAt.Equal(start) }},
		"leave when expired":     {expired, SelfChange{By: d.Key, Sequence: 6, Leave: true}, nil, func(x *Device) bool { return x.Removed }},
		"leave twice":            {removed, SelfChange{By: d.Key, Sequence: 6, Leave: true}, nil, func(x *Device) bool { return x == removed }},
		"rename when expired":    {expired, SelfChange{By: d.Key, Sequence: 6, Name: "new"}, ErrExpired, nil},
		"rename when removed":    {removed, SelfChange{By: d.Key, Sequence: 6, Name: "new"}, ErrRemoved, nil},
		"rotate when removed":    {removed, SelfChange{By: d.Key, Sequence: 6, Node: next}, ErrRemoved, nil},
		"another device":         {d, SelfChange{By: key.NewDevice().Public(), Sequence: 6, Leave: true}, ErrNotOwn, nil},
		"played again":           {d, SelfChange{By: d.Key, Sequence: 5, Leave: true}, ErrSequence, nil},
		"older":                  {d, SelfChange{By: d.Key, Sequence: 1, Name: "new"}, ErrSequence, nil},
		"played again, and gone": {removed, SelfChange{By: d.Key, Sequence: 5, Leave: true}, ErrSequence, nil},
	} {
		got, err := ApplySelf(n, c.on, c.change, nothingTaken(), start)
		if !errors.Is(err, c.err) || (err == nil && !c.check(got)) {
			t.Errorf("%s: %+v, %v; want error %v", name, got, err, c.err)
		}
	}
}

func TestRestore(t *testing.T) {
	n := testNetwork()
	d := enrolled(t, n)
	gone, _ := Remove(n, d, start)
	raised := *n
	raised.Generation++
	for _, old := range []*Device{d, gone} {
		lost := *old // what the coordinator had said since the backup
		lost.Version.Counter += 1000
		if next := Restore(&raised, old); next.Version.Compare(lost.Version) <= 0 {
			t.Errorf("restored as %+v, older than what was lost %+v", next.Version, lost.Version)
		}
	}
}

func TestPickName(t *testing.T) {
	long := strings.Repeat("x", 63)
	for _, c := range []struct {
		wish, host string
		taken      []string
		want       string
		err        error
	}{
		{"", "laptop", nil, "laptop", nil},
		{"", "Laptop.Example.COM", nil, "laptop", nil},
		{"", "laptop", []string{"laptop"}, "laptop-2", nil},
		{"", "laptop", []string{"laptop", "laptop-2", "laptop-3"}, "laptop-4", nil},
		{"", "my_lap top", nil, "my-lap-top", nil},
		{"", "--x--", nil, "x", nil},
		{"", "", nil, "device", nil},
		{"", "localhost.localdomain", []string{"device"}, "device-2", nil},
		{"", "日本", nil, "device", nil},
		{"", long + "yyy", nil, long, nil},
		{"", long, []string{long}, long[:61] + "-2", nil},
		{"", strings.Repeat("x", 60) + "--y", []string{strings.Repeat("x", 60) + "--y"}, strings.Repeat("x", 60) + "-2", nil},
		{"", strings.Repeat("-", 70) + "a", nil, "a", nil},
		{"web", "laptop", nil, "web", nil},
		{"web", "laptop", []string{"web"}, "", ErrNameTaken},
		{"Web", "laptop", nil, "", ErrName},
		{"-web", "laptop", nil, "", ErrName},
		{"web.example", "laptop", nil, "", ErrName},
		{long + "x", "laptop", nil, "", ErrName},
		{"xn--80ak6aa92e\x1b", "", nil, "", ErrName},
	} {
		taken := map[string]bool{}
		for _, n := range c.taken {
			taken[n] = true
		}
		got, err := PickName(c.wish, c.host, func(n string) bool { return taken[n] }, dry{})
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("wish %q, host %q, taken %q: %q, %v; want %q, %v", c.wish, c.host, c.taken, got, err, c.want, c.err)
		}
	}
}

// Many devices of one name cost no more to name than a few.
func TestManyOfOneName(t *testing.T) {
	taken, asked := map[string]bool{}, 0
	random := &stream{}
	for i := range 3000 {
		asked = 0
		name, err := PickName("", "host", func(n string) bool { asked++; return taken[n] }, random)
		if err != nil || taken[name] || record.CheckLabel(name) != nil {
			t.Fatalf("device %d: %q, %v", i, name, err)
		}
		if asked > orderly+drawn {
			t.Fatalf("device %d asked %d times", i, asked)
		}
		taken[name] = true
	}
	if _, err := PickName("", "host", func(string) bool { return true }, random); !errors.Is(err, ErrNameTaken) {
		t.Errorf("all names taken: %v", err)
	}
}

func FuzzPickName(f *testing.F) {
	for _, s := range []string{"laptop", "A.b", "", "----", "ü-1", "localhost", strings.Repeat("-a", 100)} {
		f.Add(s, uint8(1))
	}
	f.Fuzz(func(t *testing.T, host string, suffixes uint8) {
		left := int(suffixes % 80)
		name, err := PickName("", host, func(string) bool { left--; return left >= 0 }, &stream{})
		if err != nil || record.CheckLabel(name) != nil {
			t.Errorf("host %q became %q, %v", host, name, err)
		}
	})
}

func FuzzClip(f *testing.F) {
	for _, s := range []string{"laptop", "\x1b[31m", "a\u202eb", "\xff\xfe", strings.Repeat("ü", 100), "\u009b1m"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Clip(s)
		if len(got) > 128 || !utf8.ValidString(got) || strings.ContainsAny(got, "\x1b\n\r\x00\u202e\u009b") || Clip(got) != got {
			t.Errorf("%q became %q", s, got)
		}
	})
}
