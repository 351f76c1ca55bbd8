//go:build unix

package runlog

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestConnectedToJournal: it is the stream itself that counts, not the variable, which a program's children inherit.
func TestConnectedToJournal(t *testing.T) {
	a, b := socketPair(t)
	var st syscall.Stat_t
	if err := syscall.Fstat(int(a.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	other, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for _, tc := range []struct {
		name, variable string
		w              io.Writer
		want           bool
	}{
		{"the stream", fmt.Sprintf("%d:%d", st.Dev, st.Ino), a, true},
		{"another file", fmt.Sprintf("%d:%d", st.Dev, st.Ino), other, false},
		{"no file", fmt.Sprintf("%d:%d", st.Dev, st.Ino), new(bytes.Buffer), false},
		{"another inode", fmt.Sprintf("%d:%d", st.Dev, st.Ino+1), a, false},
		{"another device", fmt.Sprintf("%d:%d", st.Dev+1, st.Ino), a, false},
		{"no variable", "", a, false},
		{"half a variable", fmt.Sprintf("%d:", st.Dev), a, false},
		{"words", "a:b", a, false},
	} {
		t.Setenv("JOURNAL_STREAM", tc.variable)
		if got := connectedToJournal(tc.w); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
	t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", st.Dev, st.Ino))
	Open(a, slog.LevelInfo).Info("x")
	Fatal(a, "tool: %v\n", "broken")
	a.Close()
	got, err := io.ReadAll(b)
	if err != nil || string(got) != "<6>level=INFO msg=x\n<3>tool: broken\n" {
		t.Errorf("%q, %v", got, err)
	}
}

func socketPair(t *testing.T) (a *os.File, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	a = os.NewFile(uintptr(fds[0]), "a")
	other := os.NewFile(uintptr(fds[1]), "b")
	defer other.Close()
	if b, err = net.FileConn(other); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}
