package state

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/token"
	pb "warren/proto/warrenv1"
)

func enrolled(t *testing.T) *State {
	t.Helper()
	authority, device, node := key.NewAuthority(), key.NewDevice(), key.NewNode()
	network := record.NetworkID{1, 2, 3}
	signed, err := record.SignDevice(authority, &record.Device{
		Network: network, Key: device.Public(), Version: record.Version{Generation: 1, Counter: 1}, Name: "laptop",
		NodeKey: node.Public(), Addresses: []netip.Addr{netip.MustParseAddr("100.64.0.5")}, CreatedAt: time.Unix(1e9, 0),
	})
	if err != nil {
		t.Fatal(err)
	}
	return &State{
		Device: device, Node: node, Up: true, Name: "laptop", Operator: "group:staff", Port: 51820,
		Membership: &Membership{
			Network: network, Authority: authority.Public(), Record: signed,
			Endpoints: []token.Endpoint{{URL: "https://198.51.100.1:443", Mode: pb.TLSMode_TLS_MODE_SELF}},
		},
	}
}

func open(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestSaveLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "state")
	d := open(t, path)
	if s, err := d.Load(); err != nil || s.Membership != nil || !s.Device.IsZero() {
		t.Fatalf("fresh directory: %+v, %v", s, err)
	}
	want := enrolled(t)
	if err := d.Save(want); err != nil {
		t.Fatal(err)
	}
	got, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	if !got.Device.Public().Equal(want.Device.Public()) || !got.Node.Public().Equal(want.Node.Public()) {
		t.Error("keys changed")
	}
	if got.Up != want.Up || got.Name != want.Name || got.Operator != want.Operator || got.Port != want.Port {
		t.Errorf("got %+v, want %+v", got, want)
	}
	g, w := got.Membership, want.Membership
	if g.Network != w.Network || !g.Authority.Equal(w.Authority) || len(g.Endpoints) != 1 || g.Endpoints[0] != w.Endpoints[0] {
		t.Errorf("membership %+v, want %+v", g, w)
	}
	if _, err := record.OpenDevice(g.Authority, g.Network, g.Record); err != nil {
		t.Errorf("own record: %v", err)
	}
	info, err := os.Stat(filepath.Join(path, fileName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("state file: mode %v, %v", info.Mode(), err)
	}
}

func TestLocked(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	if _, err := Open(path); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Fatalf("second daemon: %v", err)
	}
	d.Close()
	open(t, path)
}

func TestForget(t *testing.T) {
	d := open(t, t.TempDir())
	s := enrolled(t)
	if err := d.Save(s); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.MapFile(), []byte("map"), 0o600); err != nil {
		t.Fatal(err)
	}
	kept, err := d.Forget(s)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*State{kept, loaded} {
		if !s.Device.IsZero() || s.Membership != nil || s.Up || s.Operator != "group:staff" {
			t.Errorf("left over: %+v", s)
		}
	}
	if _, err := os.Stat(d.MapFile()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("map file: %v", err)
	}
	if _, err := d.Forget(loaded); err != nil {
		t.Errorf("forgetting twice: %v", err)
	}
}

// TestDamaged feeds Load what a disk or a person may have left there; every case is an error that names the file.
func TestDamaged(t *testing.T) {
	d := open(t, t.TempDir())
	if err := d.Save(enrolled(t)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(filepath.Dir(d.MapFile()), fileName)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(change func(map[string]any)) []byte {
		var m map[string]any
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	membership := func(m map[string]any) map[string]any { return m["membership"].(map[string]any) }
	for name, tc := range map[string]struct {
		content []byte
		want    string
	}{
		"empty":         {nil, "damaged"},
		"half":          {good[:len(good)/2], "damaged"},
		"zeros":         {make([]byte, 512), "damaged"},
		"huge":          {append([]byte(nil), make([]byte, maxFile+1)...), "damaged"},
		"newer":         {edit(func(m map[string]any) { m["version"] = 99; m["unheard_of"] = 1 }), "newer warren"},
		"no version":    {edit(func(m map[string]any) { delete(m, "version") }), "damaged"},
		"unknown field": {edit(func(m map[string]any) { m["surprise"] = 1 }), "damaged"},
		"short key":     {edit(func(m map[string]any) { m["device_key"] = "AAAA" }), "device key"},
		"no node key":   {edit(func(m map[string]any) { delete(m, "node_key") }), "node key"},
		"no device key": {edit(func(m map[string]any) { delete(m, "device_key") }), "without a device key"},
		"short network": {edit(func(m map[string]any) { membership(m)["network"] = "AAAA" }), "network id"},
		"bad authority": {edit(func(m map[string]any) { membership(m)["authority"] = "x" }), "authority key"},
		"unknown TLS": {edit(func(m map[string]any) {
			membership(m)["endpoints"] = []any{map[string]any{"url": "https://a", "tls": "x"}}
		}), "TLS mode"},
		"no endpoint URL": {edit(func(m map[string]any) { membership(m)["endpoints"] = []any{map[string]any{"tls": "TLS_MODE_SELF"}} }), "coordinator address"},
		"no endpoint":     {edit(func(m map[string]any) { membership(m)["endpoints"] = []any{} }), "no coordinator"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(file, tc.content, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := d.Load()
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), file) {
				t.Errorf("Load: %+v, %v; want an error with %q and the file's name", s, err, tc.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":1,"up":true}`))
	f.Add([]byte(`{"version":1,"device_key":"AA==","membership":{}}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parse(b)
		if err == nil && s.Membership != nil && (s.Device.IsZero() || len(s.Membership.Endpoints) == 0) {
			t.Error("a membership that cannot be used was accepted")
		}
	})
}

func TestNotWritable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(file, "state")); err == nil || !strings.Contains(err.Error(), "--state") {
		t.Errorf("a directory below a file: %v", err)
	}
}
