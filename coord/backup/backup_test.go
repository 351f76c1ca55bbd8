package backup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/coord/domain"
	"warren/coord/inspect"
	"warren/coord/statedir"
	"warren/coord/store"
	"warren/coord/store/sqlite"
	"warren/internal/dirswap"
	"warren/proto/key"
)

func TestRoundTrip(t *testing.T) {
	c := newCoordinator(t)
	c.device("kept")
	removed := c.device("removed-later")
	gone := c.device("gone-before")
	c.remove(gone)
	keysBefore, err := statedir.Read(c.dir)
	c.must(err)
	path := filepath.Join(t.TempDir(), "x.backup")
	m, err := CreateFile(t.Context(), c.source(), path)
	c.must(err)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info, err)
	}
	if m.Schema < 3 || m.Generation != 1 || m.Version != "test" || len(m.Files) != len(statedir.Files()) || !strings.HasPrefix(m.Authority, "authority:") {
		t.Errorf("manifest %+v", m)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("beside the backup: %v, %v", entries, err)
	}
	c.remove(removed)
	c.device("enrolled-later")

	b, err := os.ReadFile(path)
	c.must(err)
	r, err := c.restore(b, true)
	c.must(err)
	if !r.Replaced || !slices.Equal(r.Again, []string{"removed-later"}) || !slices.Equal(r.Lost, []string{"enrolled-later"}) || r.Devices != 2 {
		t.Errorf("result %+v", r)
	}
	if diff := cmp.Diff(map[string]uint64{"kept": r.Generation, "removed-later": r.Generation, "": 0}, c.generations()); diff != "" {
		t.Error(diff)
	}
	keysAfter, err := statedir.Read(c.dir)
	c.must(err)
	if !keysBefore.Authority.Public().Equal(keysAfter.Authority.Public()) || !keysBefore.TLS.Equal(keysAfter.TLS) {
		t.Error("other keys after the restore")
	}
	report, err := inspect.Directory(t.Context(), inspect.Options{Dir: c.dir, Now: time.Now()})
	if err != nil || !report.OK() {
		t.Errorf("check: %v, %v", err, report.Err())
	}
	c.must(c.open().Close())

	again, err := c.restore(b, true) // the same one, on the same day
	if err != nil || again.Generation <= r.Generation {
		t.Errorf("generation %d after %d, %v", again.Generation, r.Generation, err)
	}
}

// On a new machine there is nothing to replace, and nobody knows how high the generation was.
func TestNewMachine(t *testing.T) {
	c := newCoordinator(t)
	c.device("a")
	b := c.backup()
	other := &coordinator{T: t, dir: filepath.Join(t.TempDir(), "not", "there")}
	r, err := other.restore(b, false)
	c.must(err)
	if r.Replaced || r.Again != nil || r.Lost != nil || r.Generation < uint64(time.Now().Add(-time.Hour).Unix()) {
		t.Errorf("result %+v", r)
	}
	if info, err := os.Stat(other.dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", info, err)
	}
	c.must(other.open().Close())
}

// A coordinator that runs is backed up, and not restored.
func TestWhileRunning(t *testing.T) {
	c := newCoordinator(t)
	c.device("a")
	s := c.open()
	defer s.Close()
	_, _, err := s.CreateToken(t.Context(), domain.TokenWish{Owner: "ann", Life: time.Hour}) // still in the write-ahead log
	c.must(err)
	b := c.backup()
	if _, err := c.restore(b, true); !errors.Is(err, statedir.ErrLocked) {
		t.Errorf("restored under a running coordinator: %v", err)
	}
	other := &coordinator{T: t, dir: t.TempDir()}
	if r, err := other.restore(b, false); err != nil || r.Revoked != 1 || r.Devices != 1 {
		t.Errorf("the backup holds %+v, %v", r, err)
	}
}

func TestRefusesExisting(t *testing.T) {
	c := newCoordinator(t)
	b := c.backup()
	before := c.contents()
	if _, err := c.restore(b, false); !errors.Is(err, ErrThere) || !strings.Contains(err.Error(), "--replace") {
		t.Errorf("over a state: %v", err)
	}
	relay := &coordinator{T: t, dir: t.TempDir()}
	c.must(os.WriteFile(filepath.Join(relay.dir, statedir.RelayFile), []byte("{}"), 0o600))
	if _, err := relay.restore(b, false); !errors.Is(err, ErrThere) {
		t.Errorf("over a relay's state: %v", err)
	}
	if diff := cmp.Diff(before, c.contents()); diff != "" {
		t.Error(diff)
	}
}

// A backup that is cut off or altered anywhere changes nothing.
func TestDamaged(t *testing.T) {
	c := newCoordinator(t)
	c.device("a")
	b := c.backup()
	before := c.contents()
	refused := func(what string, b []byte) {
		t.Helper()
		if _, err := c.restore(b, true); err == nil {
			t.Errorf("%s: restored", what)
		}
		if diff := cmp.Diff(before, c.contents()); diff != "" {
			t.Fatalf("%s changed the state:\n%s", what, diff)
		}
		if dirswap.Pending(c.dir) {
			t.Errorf("%s: something is pending", what)
		}
	}
	for i := range 12 {
		at := len(b) * i / 12
		refused("cut off", b[:at])
		changed := bytes.Clone(b)
		changed[max(at, 10)] ^= 0x41 // before that is what gzip does not look at
		refused("altered", changed)
	}
	refused("without its end", b[:len(b)-1])
}

// repack makes a backup of what f makes of manifest and files.
func repack(t *testing.T, b []byte, f func(m map[string]any, files map[string][]byte)) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	in := tar.NewReader(z)
	files, order := map[string][]byte{}, []string{}
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
		order = append(order, h.Name)
	}
	m := map[string]any{}
	if err := json.Unmarshal(files[manifestName], &m); err != nil {
		t.Fatal(err)
	}
	delete(files, manifestName)
	f(m, files)
	if files[manifestName], err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	for name := range files {
		if !slices.Contains(order, name) {
			order = append(order, name)
		}
	}
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	packed := tar.NewWriter(w)
	for _, name := range order {
		if text, ok := files[name]; ok {
			if err := errors.Join(packed.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Mode: 0o600, Typeflag: tar.TypeReg})); err != nil {
				t.Fatal(err)
			}
			packed.Write(text)
		}
	}
	packed.Close()
	w.Close()
	return out.Bytes()
}

// refit writes size and checksum of the files into the manifest, as who makes a backup up would.
func refit(t *testing.T, m map[string]any, files map[string][]byte) {
	t.Helper()
	dir := t.TempDir()
	var list []File
	for _, name := range statedir.Files() {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, files[name], 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := describe(name, path)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, f)
	}
	m["files"] = list
}

func TestMadeUp(t *testing.T) {
	c := newCoordinator(t)
	c.device("a")
	other := newCoordinator(t)
	b := c.backup()
	before := c.contents()
	for what, test := range map[string]struct {
		change func(m map[string]any, files map[string][]byte)
		want   string
	}{
		"newer format":       {func(m map[string]any, _ map[string][]byte) { m["format"] = 2 }, "newer warren-coordinator"},
		"no format":          {func(m map[string]any, _ map[string][]byte) { delete(m, "format") }, "manifest is damaged"},
		"no files":           {func(m map[string]any, _ map[string][]byte) { m["files"] = []any{} }, "manifest is damaged"},
		"another network":    {func(m map[string]any, _ map[string][]byte) { m["network"] = "00" }, "manifest says"},
		"file missing":       {func(_ map[string]any, f map[string][]byte) { delete(f, "tls.key") }, "damaged before file tls.key"},
		"file more":          {func(_ map[string]any, f map[string][]byte) { f["../evil"] = []byte("x") }, "follows its last file"},
		"wrong checksum":     {func(_ map[string]any, f map[string][]byte) { f["relay.key"] = bytes.Repeat([]byte{1}, 32) }, "checksum"},
		"from tomorrow":      {func(m map[string]any, _ map[string][]byte) { m["at"] = time.Now().Add(24 * time.Hour) }, "set the clock"},
		"huge":               {func(m map[string]any, _ map[string][]byte) { m["files"].([]any)[1].(map[string]any)["size"] = 1 << 40 }, "manifest is damaged"},
		"name that leads up": {func(m map[string]any, _ map[string][]byte) { m["files"].([]any)[1].(map[string]any)["name"] = "../x" }, "manifest is damaged"},
		"another's key": {func(m map[string]any, f map[string][]byte) {
			f["authority.key"] = []byte(other.contents()["authority.key"])
			refit(t, m, f)
		}, "authority key is not the one"},
		"short key": {func(m map[string]any, f map[string][]byte) {
			f["signing.key"] = []byte("short")
			refit(t, m, f)
		}, "signing.key is damaged"},
		"newer layout": {func(m map[string]any, f map[string][]byte) {
			f["version"] = []byte("99\n")
			refit(t, m, f)
		}, "newer warren-coordinator"},
		"no database": {func(m map[string]any, f map[string][]byte) {
			f[statedir.Database] = bytes.Repeat([]byte("nothing "), 1000)
			refit(t, m, f)
		}, "not a database"},
	} {
		_, err := c.restore(repack(t, b, test.change), true)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want %q", what, err, test.want)
		}
	}
	if diff := cmp.Diff(before, c.contents()); diff != "" {
		t.Error(diff)
	}
	if r, err := c.restore(repack(t, b, func(m map[string]any, f map[string][]byte) { refit(t, m, f) }), true); err != nil || r.Devices != 1 {
		t.Errorf("packed anew without a change: %+v, %v", r, err)
	}
}

// A record that the authority did not sign is not taken from a backup, and not put into one.
func TestForgedRecord(t *testing.T) {
	c := newCoordinator(t)
	k := c.device("a")
	c.change(func(tx store.Tx, _ domain.Network, _ key.AuthorityPrivate) error {
		d, err := tx.Device(k)
		if err != nil {
			return err
		}
		d.Signed.Signature[0] ^= 1
		return tx.PutDevice(d)
	})
	if _, err := Create(t.Context(), c.source(), io.Discard); err == nil || !strings.Contains(err.Error(), "device a") {
		t.Errorf("backed up: %v", err)
	}
}

// A database of before a migration goes back beside the keys that are there, and nowhere else.
func TestDatabaseAlone(t *testing.T) {
	c := newCoordinator(t)
	c.device("a")
	before := filepath.Join(t.TempDir(), "warren.db.before-4")
	_, err := sqlite.Copy(t.Context(), filepath.Join(c.dir, statedir.Database), before)
	c.must(err)
	b, err := os.ReadFile(before)
	c.must(err)
	c.device("later")
	r, err := c.restore(b, true)
	if err != nil || !slices.Equal(r.Lost, []string{"later"}) || r.Generation < 2 {
		t.Errorf("%+v, %v", r, err)
	}
	for what, dir := range map[string]string{"nowhere": t.TempDir(), "another's keys": newCoordinator(t).dir} {
		other := &coordinator{T: t, dir: dir}
		before := other.contents()
		if _, err := other.restore(b, true); err == nil {
			t.Errorf("restored beside %s", what)
		}
		if diff := cmp.Diff(before, other.contents()); diff != "" {
			t.Error(diff)
		}
	}
}

// The backup takes the place of an older one, and of nothing else.
func TestCreateFileReplaces(t *testing.T) {
	c := newCoordinator(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "daily")
	c.must(os.Mkdir(filepath.Join(dir, ".daily.tmp"), 0o700)) // left over from a crash
	for range 2 {
		_, err := CreateFile(t.Context(), c.source(), path)
		c.must(err)
	}
	precious := filepath.Join(dir, "precious")
	c.must(os.WriteFile(precious, []byte("diary"), 0o600))
	if _, err := CreateFile(t.Context(), c.source(), precious); err == nil {
		t.Error("a diary was replaced")
	}
	if got, err := os.ReadFile(precious); err != nil || string(got) != "diary" {
		t.Errorf("the diary says %q, %v", got, err)
	}
	if _, err := CreateFile(t.Context(), Source{StateDir: t.TempDir()}, filepath.Join(dir, "none")); !errors.Is(err, statedir.ErrNone) {
		t.Errorf("of an empty directory: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// FuzzArchive reads what is no backup, or is one by chance: then its files are those of the manifest. Nothing is ever written elsewhere.
func FuzzArchive(f *testing.F) {
	f.Add(madeUpArchive(f, statedir.Files()))
	f.Add(madeUpArchive(f, append([]string{"../evil"}, statedir.Files()[1:]...)))
	f.Fuzz(func(t *testing.T, archive []byte) {
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, gzip.NoCompression) // so that its checksum is right
		if err != nil {
			t.Fatal(err)
		}
		z.Write(archive)
		z.Close()
		parent := t.TempDir()
		dir := filepath.Join(parent, "in")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		a, m, err := openArchive(&b)
		if err == nil {
			err = a.unpack(m, dir)
		}
		if entries, err := os.ReadDir(parent); err != nil || len(entries) != 1 {
			t.Errorf("outside: %v, %v", entries, err)
		}
		if err != nil {
			return
		}
		for _, want := range m.Files {
			if got, err := describe(want.Name, filepath.Join(dir, want.Name)); err != nil || got != want {
				t.Errorf("%+v, %v; the manifest says %+v", got, err, want)
			}
		}
	})
}

// madeUpArchive is a tar archive of small files with a manifest, not compressed.
func madeUpArchive(f *testing.F, names []string) []byte {
	dir, paths, m := f.TempDir(), map[string]string{}, Manifest{Format: Format, Version: "test"}
	for i, name := range names {
		path := filepath.Join(dir, string(rune('a'+i)))
		paths[name] = path
		err := os.WriteFile(path, []byte(name), 0o600)
		described, err2 := describe(name, path)
		if err := errors.Join(err, err2); err != nil {
			f.Fatal(err)
		}
		m.Files = append(m.Files, described)
	}
	var b bytes.Buffer
	if err := pack(&b, m, paths); err != nil {
		f.Fatal(err)
	}
	z, err := gzip.NewReader(&b)
	if err != nil {
		f.Fatal(err)
	}
	archive, err := io.ReadAll(z)
	if err != nil {
		f.Fatal(err)
	}
	return archive
}
