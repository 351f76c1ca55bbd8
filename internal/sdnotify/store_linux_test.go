package sdnotify

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// heardFile is what the manager was sent, and the file that came along, if any.
func heardFile(t *testing.T, c *net.UnixConn) (string, *os.File) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b, oob := make([]byte, 512), make([]byte, 128)
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		t.Fatal(err)
	}
	if len(messages) == 0 {
		return string(b[:n]), nil
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(messages) != 1 || len(fds) != 1 {
		t.Fatalf("%d messages with files %v: %v", len(messages), fds, err)
	}
	f := os.NewFile(uintptr(fds[0]), "received")
	t.Cleanup(func() { f.Close() })
	return string(b[:n]), f
}

// TestKeep: what the manager is given is the very socket, by its name, and the giver's own goes on working.
func TestKeep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c := manager(t, path)
	n := Notifier{socket: path}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Keep("control", l.(*net.TCPListener)); err != nil {
		t.Fatal(err)
	}
	l.Close()
	state, f := heardFile(t, c)
	if state != "FDSTORE=1\nFDPOLL=0\nFDNAME=control" || f == nil {
		t.Fatalf("%q with file %v", state, f)
	}
	again, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Addr().String() != l.Addr().String() {
		t.Errorf("the kept socket is at %s, want %s", again.Addr(), l.Addr())
	}
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatalf("refused, though the socket is kept: %v", err)
	}
	conn.Close()
	if err := n.Forget("control"); err != nil {
		t.Fatal(err)
	}
	if state, f := heardFile(t, c); state != "FDSTOREREMOVE=1\nFDNAME=control" || f != nil {
		t.Errorf("%q with file %v", state, f)
	}
}

func TestKeepRefuses(t *testing.T) {
	n := Notifier{socket: filepath.Join(t.TempDir(), "gone")}
	for _, name := range []string{"", "a:b", "a\nFDSTOREREMOVE=1", "ä", strings.Repeat("x", 256)} {
		if err := n.Keep(name); err == nil {
			t.Errorf("%q was taken for a name", name)
		}
		if err := n.Forget(name); err == nil {
			t.Errorf("%q was taken for a name", name)
		}
	}
	if err := n.Keep("stdin", os.Stdin); err == nil || !strings.Contains(err.Error(), n.socket) {
		t.Errorf("to a manager that is gone: %v", err)
	}
	if err := (Notifier{}).Keep("stdin", os.Stdin); err != nil {
		t.Errorf("to no manager: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := n.Keep("closed", l.(*net.TCPListener)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed socket: %v", err)
	}
}

// TestBarrier: it waits for the manager, and no longer than its context says.
func TestBarrier(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c := manager(t, path)
	n := Notifier{socket: path}
	done := make(chan error, 1)
	go func() { done <- n.Barrier(t.Context()) }()
	state, f := heardFile(t, c)
	if state != "BARRIER=1" || f == nil {
		t.Fatalf("%q with file %v", state, f)
	}
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	default:
	}
	f.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- n.Barrier(ctx) }()
	heardFile(t, c)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a manager that does nothing: %v", err)
	}
	if err := (Notifier{}).Barrier(t.Context()); err != nil {
		t.Errorf("no manager: %v", err)
	}
}

func TestInheritedNames(t *testing.T) {
	for _, test := range []struct {
		fds, pid, names string
		want            []string
		fails           bool
	}{
		{"2", "7", "tun:udp", []string{"tun", "udp"}, false},
		{"2", "7", "tun:", []string{"tun", "unknown"}, false},
		{"2", "7", "tun", []string{"unknown", "unknown"}, false},
		{"1", "7", "", []string{"unknown"}, false},
		{"0", "7", "", []string{}, false},
		{"2", "8", "tun:udp", nil, false},
		{"2", "", "tun:udp", nil, false},
		{"", "7", "", nil, false},
		{"x", "7", "", nil, true}, {"-1", "7", "", nil, true}, {"4097", "7", "", nil, true},
	} {
		got, err := inheritedNames(test.fds, test.pid, test.names, 7)
		if diff := cmp.Diff(test.want, got); diff != "" || (err != nil) != test.fails {
			t.Errorf("LISTEN_FDS=%s LISTEN_PID=%s LISTEN_FDNAMES=%s: %s %v", test.fds, test.pid, test.names, diff, err)
		}
	}
}

// TestInherited starts this test again with files passed to it.
func TestInherited(t *testing.T) {
	if os.Getenv("SDNOTIFY_TEST_INHERITS") != "" {
		inherits(t)
		return
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	// The shell's process becomes the test's, so that its number is the right one.
	cmd := exec.Command("/bin/sh", "-c", `export LISTEN_PID=$$; exec "$0" -test.run='^TestInherited$'`, os.Args[0])
	cmd.Env = append(os.Environ(), "SDNOTIFY_TEST_INHERITS=1", "LISTEN_FDS=2", "LISTEN_FDNAMES=words:other")
	cmd.ExtraFiles = []*os.File{w, w}
	out, err := cmd.CombinedOutput()
	w.Close()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := io.ReadAll(r)
	if want := "words 3, other 4"; string(got) != want || err != nil {
		t.Errorf("%q (%v), want %q", got, err, want)
	}
}

func inherits(t *testing.T) {
	kept, err := Inherited()
	if err != nil || len(kept) != 2 {
		t.Fatalf("%v %v", kept, err)
	}
	for _, k := range kept {
		flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, k.File.Fd(), syscall.F_GETFD, 0)
		if errno != 0 || flags&syscall.FD_CLOEXEC == 0 {
			t.Errorf("%s would be inherited further (%v)", k.Name, errno)
		}
	}
	for _, name := range []string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} {
		if v, left := os.LookupEnv(name); left {
			t.Errorf("%s=%s is left for children", name, v)
		}
	}
	if again, err := Inherited(); len(again) != 0 || err != nil {
		t.Errorf("a second time: %v %v", again, err)
	}
	said := kept[0].Name + " " + strconv.Itoa(int(kept[0].File.Fd())) + ", " + kept[1].Name + " " + strconv.Itoa(int(kept[1].File.Fd()))
	if _, err := kept[0].File.WriteString(said); err != nil {
		t.Fatal(err)
	}
}

// TestInheritedClosed: a file that is announced and not there is told of, and the others are given.
func TestInheritedClosed(t *testing.T) {
	t.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	t.Setenv("LISTEN_FDS", "nonsense")
	if kept, err := Inherited(); len(kept) != 0 || err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("%v %v", kept, err)
	}
	if _, err := inherit(1<<20, "none"); !errors.Is(err, syscall.EBADF) {
		t.Errorf("a file that is not open: %v", err)
	}
}
