package sdnotify

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// manager listens as systemd does.
func manager(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func heard(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 256)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// silent checks that the manager has heard nothing that was not read: a word of the test's own, sent now, is the next.
func silent(t *testing.T, c *net.UnixConn) {
	t.Helper()
	const end = "the end"
	own, err := net.Dial("unixgram", c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if _, err := own.Write([]byte(end)); err != nil {
		t.Fatal(err)
	}
	if got := heard(t, c); got != end {
		t.Errorf("%q was sent too", got)
	}
}

func TestWords(t *testing.T) {
	for name, path := range map[string]string{"file": filepath.Join(t.TempDir(), "notify"), "abstract": "@warren-sdnotify-" + filepath.Base(t.TempDir()) + t.Name()} {
		c := manager(t, path)
		t.Setenv("NOTIFY_SOCKET", path)
		n := FromEnvironment()
		if v, left := os.LookupEnv("NOTIFY_SOCKET"); left {
			t.Errorf("%s: NOTIFY_SOCKET=%s is left for children", name, v)
		}
		if err := n.ready("serving\non [::]:443\nMAINPID=1"); err != nil {
			t.Fatal(err)
		}
		if got, want := heard(t, c), "READY=1\nSTATUS=serving on [::]:443 MAINPID=1"; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
		if err := n.stopping(); err != nil {
			t.Fatal(err)
		}
		if got := heard(t, c); got != "STOPPING=1" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestNobodyListens(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "1000")
	n := FromEnvironment()
	if err := errors.Join(n.ready("x"), n.stopping()); err != nil {
		t.Error(err)
	}
	n.watch(context.Background(), func(context.Context) error { t.Error("checked for nobody"); return nil }, nil) // returns at once
	gone := filepath.Join(t.TempDir(), "gone")
	t.Setenv("NOTIFY_SOCKET", gone)
	if err := FromEnvironment().ready("x"); err == nil || !strings.Contains(err.Error(), gone) {
		t.Errorf("a manager that is gone: %v", err)
	}
}

func TestWatchdogTime(t *testing.T) {
	for _, test := range []struct {
		us, pid string
		want    time.Duration
	}{
		{"3000000", "", 3 * time.Second}, {"3000000", "7", 3 * time.Second}, {"3000000", "8", 0}, {"", "", 0}, {"0", "7", 0}, {"-1", "", 0},
		{"1s", "", 0}, {"18446744073709551615", "", 0}, {"9223372036854775", "", 9223372036854775 * time.Microsecond}, {"9223372036854776", "", 0},
	} {
		if got := watchdog(test.us, test.pid, 7); got != test.want {
			t.Errorf("WATCHDOG_USEC=%s WATCHDOG_PID=%s: %s, want %s", test.us, test.pid, got, test.want)
		}
	}
}

// TestWatch: the manager hears a word after a check that succeeded, and none for one that failed or did not end in time.
func TestWatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c := manager(t, path)
	n := Notifier{socket: path, timeout: 3 * time.Millisecond}
	ctx, cancel := context.WithCancel(context.Background())
	broken := errors.New("does not answer")
	outcomes := []error{broken, context.DeadlineExceeded, nil}
	var failures []error
	done := make(chan struct{})
	calls := 0
	go func() {
		defer close(done)
		n.watch(ctx, func(ctx context.Context) error {
			defer func() { calls++ }()
			if calls >= len(outcomes) {
				<-ctx.Done()
				return context.Canceled
			}
			if outcomes[calls] == context.DeadlineExceeded {
				<-ctx.Done() // the check's own time
				return ctx.Err()
			}
			return outcomes[calls]
		}, func(err error) { failures = append(failures, err) })
	}()
	if got := heard(t, c); got != "WATCHDOG=1" {
		t.Errorf("%q", got)
	}
	cancel()
	<-done
	if len(failures) < 2 || !errors.Is(failures[0], broken) || !errors.Is(failures[1], context.DeadlineExceeded) {
		t.Errorf("failures %v", failures)
	}
	silent(t, c) // no other check succeeded
}
