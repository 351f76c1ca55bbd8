package backup

import (
	"bytes"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"warren/coord/domain"
	"warren/coord/server"
	"warren/coord/statedir"
	"warren/coord/store"
	"warren/coord/store/sqlite"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// coordinator is a state directory in which one has run.
type coordinator struct {
	*testing.T
	dir string
	n   byte // devices so far
}

func newCoordinator(t *testing.T) *coordinator {
	c := &coordinator{T: t, dir: filepath.Join(t.TempDir(), "state")}
	c.must(c.open().Close())
	return c
}

func (c *coordinator) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *coordinator) open() *server.Server {
	c.Helper()
	s, err := server.Open(c.Context(), server.Config{
		StateDir: c.dir, Endpoints: []*pb.Endpoint{{Url: "https://coordinator.example", TlsMode: pb.TLSMode_TLS_MODE_SELF}},
	})
	c.must(err)
	return s
}

// change works on the database as a coordinator does.
func (c *coordinator) change(f func(tx store.Tx, n domain.Network, by key.AuthorityPrivate) error) {
	c.Helper()
	keys, err := statedir.Read(c.dir)
	c.must(err)
	st, err := sqlite.Open(c.Context(), filepath.Join(c.dir, statedir.Database))
	c.must(err)
	err = st.Update(c.Context(), func(tx store.Tx) error {
		n, _, err := store.ReadNetwork(tx)
		return errors.Join(err, f(tx, n, keys.Authority))
	})
	c.must(errors.Join(err, st.Close()))
}

// device adds one.
func (c *coordinator) device(name string) key.DevicePublic {
	c.Helper()
	c.n++
	d := &store.Device{}
	d.Key, d.NodeKey, d.Name = key.NewDevice().Public(), key.NewNode().Public(), name
	d.CreatedAt = time.Now().Truncate(time.Second)
	c.change(func(tx store.Tx, n domain.Network, by key.AuthorityPrivate) (err error) {
		four := n.Prefixes[0].Masked().Addr().As4()
		four[3] += 1 + c.n
		d.Network, d.Version, d.Addresses = n.ID, record.Version{Generation: n.Generation, Counter: 1}, []netip.Addr{netip.AddrFrom4(four)}
		if d.Signed, err = record.SignDevice(by, &d.Device.Device); err != nil {
			return err
		}
		return tx.PutDevice(d)
	})
	return d.Key
}

func (c *coordinator) remove(k key.DevicePublic) {
	c.Helper()
	c.change(func(tx store.Tx, n domain.Network, by key.AuthorityPrivate) error {
		d, err := tx.Device(k)
		if err != nil {
			return err
		}
		gone, err := domain.Remove(&n, &d.Device, time.Now())
		if err != nil {
			return err
		}
		next := &store.Device{Device: *gone}
		if next.Signed, err = record.SignDevice(by, &gone.Device); err != nil {
			return err
		}
		return tx.PutDevice(next)
	})
}

// generations gives those of all records, and 0 for one that is removed, which has no name.
func (c *coordinator) generations() map[string]uint64 {
	c.Helper()
	out := map[string]uint64{}
	c.change(func(tx store.Tx, _ domain.Network, _ key.AuthorityPrivate) error {
		all, err := tx.Devices()
		for _, d := range all {
			out[d.Name] = d.Version.Generation
			if d.Removed {
				out[d.Name] = 0
			}
		}
		return err
	})
	return out
}

func (c *coordinator) source() Source {
	return Source{StateDir: c.dir, Version: "test", Now: time.Now(), Scratch: c.TempDir()}
}

func (c *coordinator) backup() []byte {
	c.Helper()
	var b bytes.Buffer
	_, err := Create(c.Context(), c.source(), &b)
	c.must(err)
	return b.Bytes()
}

func (c *coordinator) restore(b []byte, replace bool) (Result, error) {
	return Restore(c.Context(), bytes.NewReader(b), Target{StateDir: c.dir, Replace: replace, Now: time.Now, Scratch: c.TempDir()})
}

// contents reads the files of the state, but for what comes and goes.
func (c *coordinator) contents() map[string]string {
	c.Helper()
	out := map[string]string{}
	for _, name := range statedir.Files() {
		b, err := os.ReadFile(filepath.Join(c.dir, name))
		if !errors.Is(err, fs.ErrNotExist) {
			c.must(err)
			out[name] = string(b)
		}
	}
	return out
}
