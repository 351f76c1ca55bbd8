package tundev

import (
	"errors"
	"os"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"golang.zx2c4.com/wireguard/tun"
)

// TestPump: what the inner device gives comes out whatever error it comes with; one that is passing does not end it, another does, for ever.
func TestPump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner, broken := newFakeTUN(), errors.New("broken")
		r := newPumpReader(inner)
		defer r.close()
		go func() {
			inner.batches <- fed{packets: [][]byte{to("10.0.0.1", 1), to("10.0.0.1", 2)}, err: tun.ErrTooManySegments}
			inner.batches <- fed{packets: [][]byte{to("10.0.0.1", 3)}, err: broken}
		}()
		bufs, sizes := buffers(2)
		for n := 1; n <= 3; n++ {
			if got, err := r.read(bufs, sizes, room); got != 1 || err != nil || numberOf(bufs[0][room:]) != n {
				t.Fatalf("read: %d, %v, packet %d, want %d", got, err, numberOf(bufs[0][room:]), n)
			}
		}
		for range 2 {
			if n, err := r.read(bufs, sizes, room); n != 0 || !errors.Is(err, broken) {
				t.Errorf("after the end: %d, %v", n, err)
			}
		}
		r.interrupt()
		r.interrupt() // does not block
	})
}

// TestPumpLeavesNothing: closing ends the goroutine also when nobody takes what it has read. The bubble does not end before it.
func TestPumpLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newFakeTUN()
		d := Wrap(inner, Config{})
		inner.feed(to("10.0.0.1", 1), to("10.0.0.1", 2))
		for range 2 {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
		<-d.inner.(*pumpReader).ended
		bufs, sizes := buffers(1)
		if _, err := d.Read(bufs, sizes, room); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Read of a closed device: %v", err)
		}
	})
}

// directTUN can be read and interrupted without a file.
type directTUN struct {
	*fakeTUN
	wake chan struct{}
}

func (f *directTUN) Ready() bool { return false }
func (f *directTUN) Interrupt()  { f.wake <- struct{}{} }

func (f *directTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case <-f.wake:
		return 0, os.ErrDeadlineExceeded
	case b := <-f.batches:
		for i, p := range b.packets {
			sizes[i] = copy(bufs[i][offset:], p)
		}
		return len(b.packets), b.err
	case <-f.closed:
		return 0, os.ErrClosed
	}
}

// TestDirectReader: such a device is read in whole batches, and a packet that was held comes out of a Read that waits in it.
func TestDirectReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner, ks := &directTUN{newFakeTUN(), make(chan struct{})}, keys(2)
		d := Wrap(inner, Config{})
		setMap(t, d, ks, all, route{"10.0.0.1/32", 0}, route{"10.0.0.2/32", 1})
		d.Configured(ks[0], true)
		var got []int
		go func() {
			bufs, sizes := buffers(4)
			for {
				n, err := d.Read(bufs, sizes, room)
				if err != nil {
					return
				}
				got = append(got, n)
			}
		}()
		inner.feed(to("10.0.0.1", 1), to("10.0.0.2", 2), to("10.0.0.1", 3))
		synctest.Wait()
		d.Configured(ks[1], true)
		synctest.Wait()
		if diff := cmp.Diff([]int{2, 1}, got); diff != "" {
			t.Errorf("batches: %s", diff)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}
