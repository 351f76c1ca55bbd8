package tundev

import (
	"errors"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// fileTUN reads from a file that the poller knows, as a real interface does: here one end of a pair of sockets.
type fileTUN struct {
	*fakeTUN
	file  *os.File
	reads chan struct{} // gets a token before each read, if there is room
}

func (f *fileTUN) File() *os.File { return f.file }

func (f *fileTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case f.reads <- struct{}{}:
	default:
	}
	n, err := f.file.Read(bufs[0][offset:])
	if err != nil {
		return 0, err
	}
	sizes[0] = n
	return 1, nil
}

func (f *fileTUN) Close() error { return f.file.Close() }

func newFileTUN(t *testing.T) (inner *fileTUN, host *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	host = os.NewFile(uintptr(fds[1]), "host")
	t.Cleanup(func() { host.Close() })
	return &fileTUN{newFakeTUN(), os.NewFile(uintptr(fds[0]), "tun"), make(chan struct{}, 1)}, host
}

// TestFileReader: held packets come out of a Read that is blocked in the file, time after time, and none is lost on the way.
func TestFileReader(t *testing.T) {
	inner, host := newFileTUN(t)
	ks := keys(1)
	wanted := make(chan struct{}, 1)
	d := Wrap(inner, Config{Wanted: wantedOnce(wanted)})
	if _, ok := d.inner.(*fileReader); !ok {
		t.Fatalf("reads by %T", d.inner)
	}
	setMap(t, d, ks, all, route{"10.0.0.1/32", 0})
	reads := readAll(d, 4)
	send := func(n int) {
		if _, err := host.Write(to("10.0.0.1", n)); err != nil {
			t.Fatal(err)
		}
	}
	for n := 1; n < 400; n += 4 {
		send(n)
		<-wanted
		var group sync.WaitGroup
		group.Go(func() { d.Configured(ks[0], true) })
		send(n + 1) // at the same time as the interruption
		group.Wait()
		send(n + 2)
		for want := n; want <= n+2; want++ {
			if got := numberOf(<-reads.got); got != want {
				t.Fatalf("packet %d, want %d", got, want)
			}
		}
		d.Configured(ks[0], false)
	}
	d.inner.interrupt()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := <-reads.err; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read of a closed device: %v", err)
	}
	d.inner.interrupt()
}

// TestReadable: a file is ready when there is something to read, or when a read would end for another reason.
func TestReadable(t *testing.T) {
	inner, host := newFileTUN(t)
	r := newReader(inner)
	bufs, sizes := buffers(1)
	check := func(what string, want bool) {
		t.Helper()
		if got := r.ready(); got != want {
			t.Errorf("%s: ready %v", what, got)
		}
	}
	check("at first", false)
	if _, err := host.Write(to("10.0.0.1", 1)); err != nil {
		t.Fatal(err)
	}
	check("with a packet", true)
	if n, err := r.read(bufs, sizes, room); n != 1 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	check("after it", false)
	r.interrupt()
	check("interrupted", true)
	if _, err := r.read(bufs, sizes, room); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	check("after that", false)
	inner.Close()
	check("closed", true)
}
