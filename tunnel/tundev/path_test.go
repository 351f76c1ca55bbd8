package tundev

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"golang.zx2c4.com/wireguard/tun"

	"warren/tunnel/filter"
)

// direct is a reader that gives one batch, for tests of what Read does with it.
type direct struct {
	packets [][]byte
	err     error
}

func (r *direct) read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for i, p := range r.packets {
		sizes[i] = copy(bufs[i][offset:], p)
	}
	return len(r.packets), r.err
}

func (r *direct) ready() bool { return true }
func (r *direct) interrupt()  {}
func (r *direct) close()      {}

// TestReadCompacts: packets move up in a batch, and buffers stay where they are.
func TestReadCompacts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ks := keys(1)
		d := Wrap(newFakeTUN(), Config{})
		defer d.Close()
		setMap(t, d, ks, "10.0.0.0/24", route{"10.0.0.0/16", 0})
		d.Configured(ks[0], true)
		short := to("10.0.0.1", 3)[:19]
		for _, failure := range []error{nil, tun.ErrTooManySegments} {
			d.inner.close()
			d.inner = &direct{err: failure, packets: [][]byte{
				to("10.9.0.1", 1), to("10.0.0.1", 2), short, {}, packet(us, "10.0.0.1", 4, 300), to("10.0.1.1", 5), to("10.0.0.1", 6),
			}}
			bufs, sizes := buffers(7)
			places := slices.Clone(bufs)
			n, err := d.Read(bufs, sizes, room)
			if n != 3 || err != failure {
				t.Fatalf("Read: %d, %v", n, err)
			}
			want := [][]byte{to("10.0.0.1", 2), packet(us, "10.0.0.1", 4, 300), to("10.0.0.1", 6)}
			for i := range n {
				if diff := cmp.Diff(want[i], bufs[i][room:room+sizes[i]]); diff != "" {
					t.Errorf("packet %d (-want +got):\n%s", i, diff)
				}
			}
			for i := range bufs {
				if &bufs[i][0] != &places[i][0] {
					t.Errorf("buffer %d was swapped", i)
				}
			}
		}
	})
}

func TestWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner, ks := newFakeTUN(), keys(3)
		d := Wrap(inner, Config{})
		defer d.Close()
		in := func(src, dst string, n int) []byte {
			return append(make([]byte, room), packet(src, dst, n, 0)...)
		}
		setMap(t, d, ks, us+"/32", route{"0.0.0.0/0", 0}, route{"10.1.0.0/16", 1}, route{"10.2.0.0/16", 2})
		d.Configured(ks[0], true)
		d.Configured(ks[1], true)
		tcp := in("10.1.0.1", us, 6)
		tcp[room+9] = 6
		batch := [][]byte{
			in("10.1.0.1", us, 1),
			in("10.1.0.1", "10.1.0.2", 2), // not for us
			in("10.2.0.1", us, 3),         // of a peer that is not configured: forged by the one with the wider prefix
			in(us, us, 4),                 // from our own address
			in("9.9.9.9", us, 5),          // of the peer with the wider prefix
			tcp,                           // which no grant allows
			in("10.1.0.1", us, 7)[:room+19],
			in("10.1.0.1", us, 8),
		}
		if n, err := d.Write(batch, room); n != len(batch) || err != nil {
			t.Errorf("Write: %d, %v", n, err)
		}
		if diff := cmp.Diff([][]byte{packet("10.1.0.1", us, 1, 0), packet("9.9.9.9", us, 5, 0), packet("10.1.0.1", us, 8, 0)}, inner.written); diff != "" {
			t.Errorf("written (-want +got):\n%s", diff)
		}
		want := Counters{NotOurs: 1, Forged: 2, Filter: filter.Counters{In: [4]uint64{filter.Pass: 3, filter.Malformed: 1}}, Table: filter.Stats{Flows: 2}}
		if diff := cmp.Diff(want, d.Counters()); diff != "" {
			t.Errorf("counters (-want +got):\n%s", diff)
		}
		d.Configured(ks[2], true)
		d.Configured(ks[1], false)
		inner.written, inner.fail = nil, nil
		if n, err := d.Write([][]byte{in("10.1.0.1", us, 9)}, room); n != 1 || err != nil || inner.written != nil {
			t.Errorf("a peer that was removed: %d, %v, %v", n, err, inner.written)
		}
		if d.Write([][]byte{in("10.2.0.1", us, 10)}, room); len(inner.written) != 1 {
			t.Error("a peer that was configured is not heard")
		}
		inner.fail = errors.New("no")
		if n, err := d.Write([][]byte{in("10.2.0.1", us, 11)}, room); n != 0 || !errors.Is(err, inner.fail) {
			t.Errorf("a write that fails: %d, %v", n, err)
		}
	})
}
