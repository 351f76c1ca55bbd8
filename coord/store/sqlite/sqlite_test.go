package sqlite

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"warren/coord/domain"
	"warren/coord/store"
	"warren/coord/store/storetest"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

func openFile(t *testing.T, path string) *Store {
	t.Helper()
	st, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return openFile(t, filepath.Join(t.TempDir(), "a b?c#%.db")) })
}

func TestDurability(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	st := openFile(t, path)
	defer st.Close()
	for name, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "10000"} {
		var got string
		if err := st.write.QueryRowContext(t.Context(), "PRAGMA "+name).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", name, got, err, want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

// A crash leaves the files as they are at some moment. A copy of them, taken while the store is in use, opens with all that was committed
// before the copy began.
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.db")
	st := openFile(t, path)
	defer st.Close()
	for i := range 5 {
		err := st.Update(t.Context(), func(tx store.Tx) error { return tx.SetMeta("n", fmt.Append(nil, i)) })
		if err != nil {
			t.Fatal(err)
		}
		err = st.Update(t.Context(), func(tx store.Tx) error { // a crash in the middle of an update
			if err := tx.SetMeta("n", []byte("uncommitted")); err != nil {
				return err
			}
			copied := filepath.Join(t.TempDir(), "x.db")
			for _, suffix := range []string{"", "-wal"} {
				copyFile(t, path+suffix, copied+suffix)
			}
			again := openFile(t, copied)
			defer again.Close()
			return again.View(t.Context(), func(tx store.Tx) error {
				got, err := tx.Meta("n")
				if err != nil || string(got) != fmt.Sprint(i) {
					t.Errorf("after a crash: %q, %v; want %d", got, err, i)
				}
				return errors.New("roll back")
			})
		})
		if err == nil || err.Error() != "roll back" {
			t.Fatal(err)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
}

func TestDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("this is no database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("garbage: %v; want an error that names the file", err)
	}
	if _, err := Open(t.Context(), filepath.Join(t.TempDir(), "no", "such", "directory.db")); err == nil {
		t.Error("a database in a directory that does not exist was opened")
	}
}

// TestDamagedRow: who lists gets an error and no rows, of which some would be nil.
func TestDamagedRow(t *testing.T) {
	st := openFile(t, filepath.Join(t.TempDir(), "x.db"))
	defer st.Close()
	for _, insert := range []string{
		"INSERT INTO tokens VALUES ('a', x'01', 0, 0, 0, 0, '', '[]', 0, 0, 0)",
		"INSERT INTO devices (key, name, " + deviceColumns + ") VALUES (x'01', 'a', x'ff', x'', 0, 0, 0, '', '', '', '', 0, '[]', '[]')",
	} {
		if _, err := st.write.ExecContext(t.Context(), insert); err != nil {
			t.Fatal(err)
		}
	}
	err := st.View(t.Context(), func(tx store.Tx) error {
		if got, err := tx.Tokens(); err == nil || len(got) > 0 {
			t.Errorf("tokens %v, %v", got, err)
		}
		if got, err := tx.Devices(); err == nil || len(got) > 0 {
			t.Errorf("devices %v, %v", got, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestNewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	st := openFile(t, path)
	if _, err := st.write.ExecContext(t.Context(), "PRAGMA user_version = 999"); err != nil {
		t.Fatal(err)
	}
	st.Close()
	_, err := Open(t.Context(), path)
	if !errors.Is(err, store.ErrNewer) || !strings.Contains(err.Error(), "999") || !strings.Contains(err.Error(), path) {
		t.Errorf("a newer schema: %v", err)
	}
}

// withNext adds migrations to the real ones.
func withNext(t *testing.T, more ...string) []step {
	t.Helper()
	all, err := steps(migrations)
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range more {
		all = append(all, step{all[len(all)-1].number + 1, sql})
	}
	return all
}

func TestMigration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	st := openFile(t, path)
	if err := st.Update(t.Context(), func(tx store.Tx) error { return tx.SetMeta("n", []byte("kept")) }); err != nil {
		t.Fatal(err)
	}
	st.Close()

	// The second step fails: nothing of the first is left, and the old program still works.
	broken := withNext(t, "CREATE TABLE extra (x INTEGER) STRICT;", "CREATE TABLE nonsense (;")
	last := broken[len(broken)-1].number
	if _, err := open(t.Context(), path, broken); err == nil || !strings.Contains(err.Error(), fmt.Sprint("migration ", last)) {
		t.Fatalf("a broken migration: %v", err)
	}
	openFile(t, path).Close()

	good := withNext(t, "CREATE TABLE extra (x INTEGER) STRICT;", "UPDATE meta SET value = CAST('changed' AS BLOB) WHERE name = 'n';")
	upgraded, err := open(t.Context(), path, good)
	if err != nil {
		t.Fatal(err)
	}
	check := func(st *Store, want string) {
		t.Helper()
		err := st.View(t.Context(), func(tx store.Tx) error {
			got, err := tx.Meta("n")
			if string(got) != want {
				t.Errorf("value %q, want %q", got, want)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	check(upgraded, "changed")
	upgraded.Close()
	if _, err := Open(t.Context(), path); !errors.Is(err, store.ErrNewer) {
		t.Errorf("the old program on the new schema: %v", err)
	}
	// What was there before is in the backup, which the old program opens.
	backup := fmt.Sprint(path, ".before-", last)
	if info, err := os.Stat(backup); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("backup: %v, %v", info, err)
	}
	old := openFile(t, backup)
	defer old.Close()
	check(old, "kept")
}

// A database of the first schema is opened by this program: what it held is there, and what came since works.
func TestFirstSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	all, err := steps(migrations)
	if err != nil {
		t.Fatal(err)
	}
	old, err := open(t.Context(), path, all[:1])
	if err != nil {
		t.Fatal(err)
	}
	authority, d := key.NewAuthority(), new(record.Device)
	d.Network, d.Key, d.NodeKey, d.Name = record.NetworkID{1}, key.NewDevice().Public(), key.NewNode().Public(), "old"
	d.Addresses = []netip.Addr{netip.MustParseAddr("100.64.0.2")}
	signed, err := record.SignDevice(authority, d)
	if err != nil {
		t.Fatal(err)
	}
	_, err = old.write.ExecContext(t.Context(), "INSERT INTO devices VALUES (?, 'old', ?, ?, 0, 0, 7, 'host', 'linux', '1', 0)", d.Key.Bytes(),
		signed.GetPayload(), signed.GetSignature())
	if err != nil {
		t.Fatal(err)
	}
	change := store.Change{Kind: pb.Kind_KIND_DEVICE, ID: []byte{1}, Body: &pb.Signed{Payload: []byte{2}, Signature: []byte{3}}}
	err = old.Update(t.Context(), func(tx store.Tx) (err error) {
		change.Revision, err = tx.Append(change)
		return errors.Join(err, tx.SetMeta("n", []byte("kept")))
	})
	if err != nil {
		t.Fatal(err)
	}
	old.Close()
	st := openFile(t, path)
	defer st.Close()
	err = st.Update(t.Context(), func(tx store.Tx) error {
		if err := tx.AddPolicy(&store.Policy{Text: []byte("{}"), State: store.PolicyActive}); err != nil {
			return err
		}
		n, err0 := tx.Meta("n")
		if string(n) != "kept" {
			t.Errorf("value %q", n)
		}
		device, err := tx.Device(d.Key)
		if err != nil {
			return err
		}
		if device.Name != "old" || device.Sequence != 7 || len(device.Advertised)+len(device.Rulings) > 0 {
			t.Errorf("device %+v", device)
		}
		device.Rulings = []domain.Ruling{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Approved: true, By: "ann", At: time.Unix(1, 0).UTC()}}
		if err := tx.PutDevice(device); err != nil {
			return err
		}
		again, err := tx.Device(d.Key)
		if err != nil || !slices.Equal(again.Rulings, device.Rulings) {
			t.Errorf("rulings %+v, %v", again.Rulings, err)
		}
		log, err1 := tx.Changes(0, key.NewDevice().Public(), 10)
		if len(log) != 1 || log[0].Revision != change.Revision || log[0].Body.String() != change.Body.String() {
			t.Errorf("log %v", log)
		}
		return errors.Join(err0, err1)
	})
	if err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(fmt.Sprint(path, ".before-", all[len(all)-1].number)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("backup: %v, %v", info, err)
	}
}

func TestSteps(t *testing.T) {
	sorted, err := steps(fstest.MapFS{
		"migrations/0010_b.sql": {Data: []byte("b")}, "migrations/0002_a.sql": {Data: []byte("a")}, "migrations/readme": {Data: []byte("x")},
	})
	if err != nil || len(sorted) != 2 || sorted[0] != (step{2, "a"}) || sorted[1] != (step{10, "b"}) {
		t.Errorf("steps: %v, %v", sorted, err)
	}
	if _, err := steps(fstest.MapFS{"migrations/first.sql": {}}); err == nil {
		t.Error("a migration without a number was taken")
	}
}

func TestBackup(t *testing.T) {
	dir := t.TempDir()
	st := openFile(t, filepath.Join(dir, "x.db"))
	defer st.Close()
	if err := st.Update(t.Context(), func(tx store.Tx) error { return tx.SetMeta("n", []byte("kept")) }); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "copy.db")
	if err := st.Backup(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	if err := st.Backup(t.Context(), to); !errors.Is(err, os.ErrExist) {
		t.Errorf("a backup over another one: %v", err)
	}
	again := openFile(t, to)
	defer again.Close()
	err := again.View(t.Context(), func(tx store.Tx) error {
		got, err := tx.Meta("n")
		if string(got) != "kept" {
			t.Errorf("backup holds %q", got)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
