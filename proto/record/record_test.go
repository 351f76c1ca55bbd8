package record

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// at is the time of these tests, in whole seconds as records have it.
func at() time.Time { return time.Unix(1_800_000_000, 0).UTC() }

func comparers() cmp.Options {
	return cmp.Options{
		cmp.Comparer(key.DevicePublic.Equal), cmp.Comparer(key.NodePublic.Equal), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}),
	}
}

func device() *Device {
	return &Device{
		Network: NetworkID{1, 2}, Key: key.NewDevice().Public(), Version: Version{3, 4}, Name: "web-1",
		NodeKey: key.NewNode().Public(), NextNodeKey: key.NewNode().Public(),
		Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("fd00::1")},
		Routes:    []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::/0")},
		Tags:      []string{"web"}, Owner: "ann", CreatedAt: at(), ExpiresAt: at().Add(time.Hour), Ephemeral: true,
	}
}

func TestDevice(t *testing.T) {
	authority := key.NewAuthority()
	whole, plain, gone := device(), device(), device()
	plain.NextNodeKey, plain.Routes, plain.Tags, plain.Owner, plain.ExpiresAt, plain.Ephemeral = key.NodePublic{}, nil, nil, "", time.Time{}, false
	gone.Removed = true
	for name, d := range map[string]*Device{"whole": whole, "plain": plain, "tombstone": gone} {
		s, err := SignDevice(authority, d)
		if err != nil {
			t.Fatal(name, err)
		}
		want := d
		if d.Removed { // nothing else of it counts
			want = &Device{Network: d.Network, Key: d.Key, Version: d.Version, Removed: true}
		}
		got, err := OpenDevice(authority.Public(), d.Network, s)
		if err != nil {
			t.Fatal(name, err)
		}
		if diff := cmp.Diff(want, got, comparers()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if parsed, err := ParseDevice(s); err != nil || cmp.Diff(got, parsed, comparers()) != "" {
			t.Errorf("%s: ParseDevice: %v, %v", name, parsed, err)
		}
		if _, err := OpenDevice(authority.Public(), NetworkID{9}, s); err == nil {
			t.Errorf("%s: opened in another network", name)
		}
		if _, err := OpenDevice(key.NewAuthority().Public(), d.Network, s); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: opened under another authority: %v", name, err)
		}
	}
	if whole.Expired(at()) || !whole.Expired(whole.ExpiresAt) || plain.Expired(at().Add(1e6*time.Hour)) {
		t.Error("Expired is wrong")
	}
}

// What is not fit to be opened is not signed either.
func TestDeviceBounds(t *testing.T) {
	authority := key.NewAuthority()
	many := func(n int, text string) (out []string) {
		for range n {
			out = append(out, text)
		}
		return out
	}
	for name, test := range map[string]struct {
		change func(*Device)
		ok     bool
	}{
		"as it is":           {func(*Device) {}, true},
		"no name":            {func(d *Device) { d.Name = "" }, false},
		"name of 63":         {func(d *Device) { d.Name = strings.Repeat("a", 63) }, true},
		"name of 64":         {func(d *Device) { d.Name = strings.Repeat("a", 64) }, false},
		"upper case":         {func(d *Device) { d.Name = "Web" }, false},
		"two labels":         {func(d *Device) { d.Name = "a.b" }, false},
		"terminal escape":    {func(d *Device) { d.Name = "a\x1b[2J" }, false},
		"edge hyphen":        {func(d *Device) { d.Name = "a-" }, false},
		"no addresses":       {func(d *Device) { d.Addresses = nil }, false},
		"16 addresses":       {func(d *Device) { d.Addresses = slicesOf(16, d.Addresses[0]) }, true},
		"17 addresses":       {func(d *Device) { d.Addresses = slicesOf(17, d.Addresses[0]) }, false},
		"loopback":           {func(d *Device) { d.Addresses[0] = netip.MustParseAddr("127.0.0.1") }, false},
		"unspecified":        {func(d *Device) { d.Addresses[0] = netip.IPv4Unspecified() }, false},
		"multicast":          {func(d *Device) { d.Addresses[0] = netip.MustParseAddr("ff02::1") }, false},
		"IPv4-mapped":        {func(d *Device) { d.Addresses[0] = netip.MustParseAddr("::ffff:1.2.3.4") }, false},
		"1024 routes":        {func(d *Device) { d.Routes = slicesOf(1024, d.Routes[0]) }, true},
		"1025 routes":        {func(d *Device) { d.Routes = slicesOf(1025, d.Routes[0]) }, false},
		"unmasked route":     {func(d *Device) { d.Routes[0] = netip.MustParsePrefix("10.0.0.1/8") }, false},
		"64 tags":            {func(d *Device) { d.Tags = many(64, "t") }, true},
		"65 tags":            {func(d *Device) { d.Tags = many(65, "t") }, false},
		"hostile tag":        {func(d *Device) { d.Tags = []string{"a\nb"} }, false},
		"long tag":           {func(d *Device) { d.Tags = []string{strings.Repeat("t", 64)} }, false},
		"owner of 256":       {func(d *Device) { d.Owner = strings.Repeat("o", 256) }, true},
		"owner of 257":       {func(d *Device) { d.Owner = strings.Repeat("o", 257) }, false},
		"no node key":        {func(d *Device) { d.NodeKey = key.NodePublic{} }, false},
		"no device key":      {func(d *Device) { d.Key = key.DevicePublic{} }, false},
		"expiry in 10000":    {func(d *Device) { d.ExpiresAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, false},
		"tombstone, no name": {func(d *Device) { d.Removed, d.Name = true, "" }, true},
	} {
		d := device()
		test.change(d)
		if _, err := SignDevice(authority, d); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func slicesOf[T any](n int, v T) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = v
	}
	return out
}

// Bits of the wire format that no record of ours has, signed by the authority all the same.
func TestHostileRecord(t *testing.T) {
	authority := key.NewAuthority()
	for name, change := range map[string]func(*pb.DeviceRecord){
		"no network":           func(m *pb.DeviceRecord) { m.NetworkId = nil },
		"long network":         func(m *pb.DeviceRecord) { m.NetworkId = make([]byte, 17) },
		"short key":            func(m *pb.DeviceRecord) { m.DeviceKey = m.DeviceKey[:31] },
		"short node key":       func(m *pb.DeviceRecord) { m.NodeKey = m.NodeKey[:31] },
		"short next node key":  func(m *pb.DeviceRecord) { m.NextNodeKey = []byte{1} },
		"zero next node key":   func(m *pb.DeviceRecord) { m.NextNodeKey = make([]byte, 32) },
		"address of 5 bytes":   func(m *pb.DeviceRecord) { m.Addresses = [][]byte{make([]byte, 5)} },
		"address of no bytes":  func(m *pb.DeviceRecord) { m.Addresses = [][]byte{nil} },
		"route longer than it": func(m *pb.DeviceRecord) { m.Routes = []*pb.Prefix{{Address: []byte{10, 0, 0, 0}, Bits: 33}} },
		"route of 2^32-1 bits": func(m *pb.DeviceRecord) { m.Routes = []*pb.Prefix{{Address: []byte{10, 0, 0, 0}, Bits: 1<<32 - 1}} },
		"empty route":          func(m *pb.DeviceRecord) { m.Routes = []*pb.Prefix{{}} },
		"mapped route": func(m *pb.DeviceRecord) {
			m.Routes = []*pb.Prefix{{Address: append(append(make([]byte, 10), 255, 255), 1, 2, 3, 4), Bits: 128}}
		},
		// A record that runs out at a time which cannot be read must not be one that never does.
		"unreadable expiry": func(m *pb.DeviceRecord) { m.ExpiresAt = &timestamppb.Timestamp{Nanos: -1} },
	} {
		s, err := SignDevice(authority, device())
		if err != nil {
			t.Fatal(err)
		}
		var m pb.DeviceRecord
		if err := proto.Unmarshal(s.GetPayload(), &m); err != nil {
			t.Fatal(err)
		}
		change(&m)
		if s, err = Sign(authority, ContextDevice, &m); err != nil {
			t.Fatal(err)
		}
		if d, err := OpenDevice(authority.Public(), NetworkID{1, 2}, s); err == nil {
			t.Errorf("%s: opened as %+v", name, d)
		}
		if d, err := ParseDevice(s); err == nil {
			t.Errorf("%s: parsed as %+v", name, d)
		}
	}
	for name, s := range map[string]*pb.Signed{"none": nil, "empty": {}, "garbage": {Payload: []byte("\xff\xff"), Signature: make([]byte, 64)}} {
		if _, err := OpenDevice(authority.Public(), NetworkID{}, s); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func contexts() []Context {
	return []Context{
		ContextDevice, ContextSigningKey, ContextTLS, ContextStatement, ContextTicket, ContextEnrolToken, ContextEnrolDevice, ContextLogin,
		ContextApply, ContextRelay,
	}
}

// A signature made in one context verifies in no other, not even when the bytes around the border are moved.
func TestContexts(t *testing.T) {
	k := key.NewDevice()
	payload := []byte("payload")
	for _, made := range contexts() {
		s := k.Sign(Message(made, payload))
		for _, used := range contexts() {
			if err := Verify(k.Public(), used, payload, s); (err == nil) != (made == used) || (err != nil && !errors.Is(err, ErrSignature)) {
				t.Errorf("made for %q, used for %q: %v", made, used, err)
			}
		}
		if err := Verify(k.Public(), made, append([]byte{0}, payload...), s); err == nil {
			t.Errorf("%q: a byte moved", made)
		}
		if err := Verify(k.Public(), made[:len(made)-1], append([]byte(made[len(made)-1:]+"\x00"), payload...), s); err == nil {
			t.Errorf("%q: the border moved", made)
		}
		if err := Verify(k.Public(), "", append([]byte(made+"\x00"), payload...), s); err == nil {
			t.Errorf("%q: signed without context", made)
		}
		if strings.ContainsRune(string(made), 0) {
			t.Errorf("%q holds the separator", made)
		}
	}
}

// The signature covers the very bytes that came: fields of a newer program stay, and an equal message in another encoding is another.
func TestExactBytes(t *testing.T) {
	authority := key.NewAuthority()
	d := device()
	s, err := SignDevice(authority, d)
	if err != nil {
		t.Fatal(err)
	}
	newer := protowire.AppendTag(bytes.Clone(s.GetPayload()), 999, protowire.BytesType)
	newer = protowire.AppendString(newer, "a field that is not known yet")
	if _, err := OpenDevice(authority.Public(), d.Network, &pb.Signed{Payload: newer, Signature: s.GetSignature()}); !errors.Is(err, ErrSignature) {
		t.Errorf("a field added by the carrier: %v", err)
	}
	got, err := OpenDevice(authority.Public(), d.Network, &pb.Signed{Payload: newer, Signature: authority.Sign(Message(ContextDevice, newer))})
	if err != nil || got.Name != d.Name {
		t.Errorf("a field of a newer authority: %+v, %v", got, err)
	}
	twice := append(bytes.Clone(s.GetPayload()), s.GetPayload()[:18]...) // the network id again: the same message
	if _, err := OpenDevice(authority.Public(), d.Network, &pb.Signed{Payload: twice, Signature: s.GetSignature()}); !errors.Is(err, ErrSignature) {
		t.Errorf("another encoding: %v", err)
	}
	for i := range s.GetPayload() {
		bent := proto.CloneOf(s)
		bent.Payload[i] ^= 1
		if _, err := OpenDevice(authority.Public(), d.Network, bent); !errors.Is(err, ErrSignature) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	}
}

func TestPayloadBound(t *testing.T) {
	k := key.NewDevice()
	for n, ok := range map[int]bool{MaxPayload: true, MaxPayload + 1: false} {
		payload := make([]byte, n)
		if err := Verify(k.Public(), ContextLogin, payload, k.Sign(Message(ContextLogin, payload))); (err == nil) != ok {
			t.Errorf("%d bytes: %v", n, err)
		}
		if err := Parse(ContextLogin, payload, new(pb.LoginBody)); err == nil || strings.Contains(err.Error(), fmt.Sprint(MaxPayload+1)) == ok {
			t.Errorf("parsing %d bytes: %v", n, err)
		}
	}
}

func TestVersions(t *testing.T) {
	ordered := []Version{{}, {0, 1}, {0, 1<<64 - 1}, {1, 0}, {1, 2}, {2, 1}, {1<<64 - 1, 0}}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := a.Compare(b); (got < 0) != (i < j) || (got == 0) != (i == j) {
				t.Errorf("%v against %v: %d", a, b, got)
			}
		}
	}
}

// The digest is a set's: order does not matter, toggling twice takes away, and no part of a version is left out.
func TestDigest(t *testing.T) {
	a, b := key.NewDevice().Public(), key.NewDevice().Public()
	var x, y Digest
	x.Toggle(a, Version{1, 2})
	x.Toggle(b, Version{1, 3})
	y.Toggle(b, Version{1, 3})
	y.Toggle(a, Version{1, 2})
	if x != y || x == (Digest{}) {
		t.Error("the order matters")
	}
	seen := map[Digest]bool{}
	for _, v := range []Version{{1, 2}, {2, 1}, {1, 3}, {2, 2}, {1, 2 << 32}} {
		for _, k := range []key.DevicePublic{a, b} {
			var d Digest
			d.Toggle(k, v)
			if seen[d] {
				t.Errorf("%v has another's digest", v)
			}
			seen[d] = true
			if d.Toggle(k, v); d != (Digest{}) {
				t.Error("toggling twice left something")
			}
		}
	}
	raw := a.Raw()
	want := sha256.Sum256(append(raw[:], 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2))
	var one Digest
	if one.Toggle(a, Version{1, 2}); one != want {
		t.Errorf("%x, want %x", one, want)
	}
}

func FuzzDevice(f *testing.F) {
	authority := key.NewAuthority()
	s, err := SignDevice(authority, device())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.GetPayload())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, payload []byte) {
		d, err := ParseDevice(&pb.Signed{Payload: payload})
		if err != nil {
			return
		}
		if s, err = SignDevice(authority, d); err != nil {
			t.Fatalf("parsed, but not fit to be signed: %v", err)
		}
		again, err := OpenDevice(authority.Public(), d.Network, s)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(d, again, comparers(), cmpopts.EquateEmpty()); diff != "" && !d.Removed {
			t.Error(diff)
		}
	})
}
