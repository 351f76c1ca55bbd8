package inspect

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"warren/coord/server"
	"warren/coord/statedir"
	"warren/coord/store"
	"warren/coord/store/sqlite"
	"warren/proto/key"
	"warren/proto/record"
)

// newState makes a state directory with two devices.
func newState(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	s, err := server.Open(t.Context(), server.Config{StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	change(t, dir, func(tx store.Tx) error {
		return errors.Join(addDevice(tx, dir, "one", nil), addDevice(tx, dir, "two", nil))
	})
	return dir
}

func change(t *testing.T, dir string, f func(tx store.Tx) error) {
	t.Helper()
	st, err := sqlite.Open(t.Context(), filepath.Join(dir, statedir.Database))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(st.Update(t.Context(), f), st.Close()); err != nil {
		t.Fatal(err)
	}
}

// addDevice stores a device that alter, unless nil, has made another before it was signed.
func addDevice(tx store.Tx, dir, name string, alter func(d *store.Device)) error {
	keys, err := statedir.Read(dir)
	if err != nil {
		return err
	}
	n, _, err := store.ReadNetwork(tx)
	if err != nil {
		return err
	}
	all, err := tx.Devices()
	if err != nil {
		return err
	}
	four := n.Prefixes[0].Masked().Addr().As4()
	four[3] = byte(len(all) + 1)
	d := &store.Device{}
	d.Network, d.Version, d.Name = n.ID, record.Version{Generation: n.Generation, Counter: 1}, name
	d.Key, d.NodeKey, d.CreatedAt = key.NewDevice().Public(), key.NewNode().Public(), time.Now()
	d.Addresses, d.LastSeen = []netip.Addr{netip.AddrFrom4(four)}, time.Now()
	if alter != nil {
		alter(d)
	}
	if d.Signed, err = record.SignDevice(keys.Authority, &d.Device.Device); err != nil {
		return err
	}
	return tx.PutDevice(d)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDirectory(t *testing.T) {
	for name, test := range map[string]struct {
		harm  func(t *testing.T, dir string)
		check string // that finds it; empty: none may
		want  string
	}{
		"sound": {func(*testing.T, string) {}, "", ""},
		"open to all": {func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Join(dir, "authority.key"), 0o644)) },
			"permissions", `authority.key has mode 0644, so that others have access; run "chmod go= `},
		"open directory": {func(t *testing.T, dir string) { must(t, os.Chmod(dir, 0o755)) }, "permissions", "has mode 0755"},
		"no key":         {func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "relay.key"))) }, "keys", "relay.key"},
		"short key": {func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "signing.key"), []byte("x"), 0o600))
		},
			"keys", "signing.key is damaged"},
		"lost authority": {func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "authority.key"))) }, "layout", "has lost its file authority.key"},
		"another authority": {func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "authority.key"), bytes.Repeat([]byte{7}, 32), 0o600))
		}, "network", "not the one that the devices in the database were enrolled with"},
		"newer layout": {func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "version"), []byte("9"), 0o600))
		}, "layout", "newer"},
		"no database": {func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, statedir.Database), bytes.Repeat([]byte("x"), 9000), 0o600))
		}, "database", "not a database"},
		"damaged page": {func(t *testing.T, dir string) {
			path := filepath.Join(dir, statedir.Database)
			b, err := os.ReadFile(path)
			must(t, err)
			at := bytes.LastIndex(b, []byte("one")) &^ 4095
			must(t, os.WriteFile(path, append(append(b[:at:at], make([]byte, 4096)...), b[at+4096:]...), 0o600))
		}, "database", "malformed (11); restore a backup"},
		"forged record": {func(t *testing.T, dir string) {
			change(t, dir, func(tx store.Tx) error {
				return addDevice(tx, dir, "x", func(d *store.Device) { d.Network[0] ^= 1 })
			})
		}, "records", "device x"},
		"record from the future": {func(t *testing.T, dir string) {
			change(t, dir, func(tx store.Tx) error {
				return addDevice(tx, dir, "x", func(d *store.Device) { d.Version.Generation += 5 })
			})
		}, "records", "generation 6, and the network of 1"},
		"address from elsewhere": {func(t *testing.T, dir string) {
			change(t, dir, func(tx store.Tx) error {
				return addDevice(tx, dir, "x", func(d *store.Device) { d.Addresses = []netip.Addr{netip.MustParseAddr("203.0.113.1")} })
			})
		}, "records", "203.0.113.1 is not one of the network's"},
		"policy of another version": {func(t *testing.T, dir string) {
			change(t, dir, func(tx store.Tx) error {
				p, _, err := store.InForce(tx)
				return errors.Join(err, tx.MarkPolicy(p.Number, store.PolicyReplaced, time.Time{}),
					tx.AddPolicy(&store.Policy{Text: []byte(`{"zzz": 1}`), State: store.PolicyActive}))
			})
		}, "policy", "policy 2: "},
		"clock set back": {func(t *testing.T, dir string) {
			change(t, dir, func(tx store.Tx) error {
				return addDevice(tx, dir, "x", func(d *store.Device) { d.LastSeen = time.Now().Add(24 * time.Hour) })
			})
		}, "clock", "device x was here at"},
		"half a restore": {func(t *testing.T, dir string) { must(t, os.Mkdir(filepath.Join(dir, ".swap"), 0o700)) }, "restore", "was cut off"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := newState(t)
			test.harm(t, dir)
			r, err := Directory(t.Context(), Options{Dir: dir, Now: time.Now(), Scratch: t.TempDir()})
			must(t, err)
			if r.OK() != (test.check == "") {
				t.Errorf("sound: %v", r.OK())
			}
			found := test.check == ""
			for _, f := range r.Findings {
				if f.Detail == "" {
					t.Errorf("%s says nothing", f.Check)
				}
				if f.Check == test.check {
					found = !f.OK && strings.Contains(f.Detail, test.want)
				}
			}
			if !found {
				t.Errorf("want %s to find %q; %+v", test.check, test.want, r.Findings)
			}
		})
	}
}

// Where no coordinator has run there is nothing to check, and nothing is made.
func TestNoState(t *testing.T) {
	dir := t.TempDir()
	if _, err := Directory(t.Context(), Options{Dir: dir}); !errors.Is(err, statedir.ErrNone) || !strings.Contains(err.Error(), "--state") {
		t.Errorf("an empty directory: %v", err)
	}
	if _, err := Directory(t.Context(), Options{Dir: filepath.Join(dir, "x")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("made: %v, %v", entries, err)
	}
}
