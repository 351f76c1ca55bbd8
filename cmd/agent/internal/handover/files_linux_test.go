package handover

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"warren/internal/sdnotify"
)

// TestTake: files of known names are given, and all others closed.
func TestTake(t *testing.T) {
	open := func(name string) sdnotify.Kept {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return sdnotify.Kept{Name: name, File: f}
	}
	kept := []sdnotify.Kept{open(TUN), open("unknown"), open(UDP4), open(UDP4), open("control")}
	files, unwanted := Take(kept)
	if diff := cmp.Diff([]string{"unknown", UDP4, "control"}, unwanted); diff != "" {
		t.Errorf("unwanted (-want +got):\n%s", diff)
	}
	if len(files) != 2 || files[TUN] != kept[0].File || files[UDP4] != kept[3].File {
		t.Errorf("files %v", files)
	}
	for i, closed := range []bool{false, true, true, false, true} {
		if _, err := kept[i].File.Stat(); errors.Is(err, os.ErrClosed) != closed {
			t.Errorf("file %d: %v", i, err)
		}
	}
	files.Close()
	if _, err := kept[0].File.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]map[string]int{
		"warren-tun=7":                {TUN: 7},
		"warren-tun=7,warren-udp4=12": {TUN: 7, UDP4: 12},
		"":                            nil, "warren-tun": nil, "warren-tun=": nil, "warren-tun=2": nil, "warren-tun=-7": nil, "warren-tun=9999999": nil, "control=7": nil,
		"warren-tun=7,warren-udp4=7": nil, "warren-tun=7,warren-tun=8": nil, "warren-tun=7,": nil, "warren-tun=7=8": nil,
	} {
		got, err := parse(text)
		if diff := cmp.Diff(want, got); diff != "" || (err == nil) != (want != nil) {
			t.Errorf("%q: %v (-want +got)\n%s", text, err, diff)
		}
		if want != nil && format(got) != text {
			t.Errorf("%q becomes %q", text, format(got))
		}
	}
}

func TestSealed(t *testing.T) {
	for _, b := range [][]byte{nil, []byte("words"), bytes.Repeat([]byte("long "), 100_000)} {
		f, err := Seal(b)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got, err := Open(f); err != nil || !bytes.Equal(got, b) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
		}
		if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
			t.Errorf("written to: %v", err)
		}
		f.Close()
	}
	plain, err := os.Create(filepath.Join(t.TempDir(), "plain"))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := Open(plain); !errors.Is(err, ErrDamaged) {
		t.Errorf("a file that anybody may change: %v", err)
	}
	now, err := Now()
	if err != nil || now.At <= 0 || len(now.Boot) != 36 {
		t.Errorf("now %+v, %v", now, err)
	}
}

const step = "HANDOVER_TEST_STEP"

// TestReplace has a process become another one, which finds the files of the first: here the test, twice.
func TestReplace(t *testing.T) {
	switch os.Getenv(step) {
	case "first":
		replaces(t)
	case "second":
		inherits(t)
		return
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestReplace$")
	cmd.Env = append(os.Environ(), step+"=first")
	cmd.ExtraFiles = []*os.File{w}
	out, err := cmd.CombinedOutput()
	w.Close()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got, err := io.ReadAll(r); string(got) != "first second" || err != nil {
		t.Errorf("the two wrote %q, %v", got, err)
	}
}

// replaces is what the first does: it fails once, and goes on with its files.
func replaces(t *testing.T) {
	w := os.NewFile(3, "pipe")
	files := Files{}
	for _, name := range []string{TUN, UDP6} {
		f, err := Duplicate(name, w)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = f
	}
	w.Close()
	if err := Replace("/nonexistent", nil, nil, files); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a program that does not exist: %v", err)
	}
	if closes(t, files[TUN]) != unix.FD_CLOEXEC {
		t.Error("after that, programs that this one starts would have the file")
	}
	if _, err := files[UDP6].WriteString("first "); err != nil {
		t.Fatal(err)
	}
	t.Setenv(step, "second")
	t.Setenv(variable, "left over")
	t.Fatal(Replace("/proc/self/exe", os.Args, os.Environ(), files))
}

func inherits(t *testing.T) {
	files, err := Inherited()
	if err != nil || len(files) != 2 || files[UDP6] == nil {
		t.Fatalf("%v, %v", files, err)
	}
	if _, err := files[TUN].WriteString("second"); err != nil {
		t.Fatal(err)
	}
	if closes(t, files[TUN]) != unix.FD_CLOEXEC {
		t.Error("programs that this one starts have the file")
	}
	if again, err := Inherited(); again != nil || err != nil {
		t.Errorf("a second time: %v, %v", again, err)
	}
	if strings.Contains(strings.Join(os.Environ(), " "), variable) {
		t.Error("the variable is left")
	}
}

func closes(t *testing.T, f *os.File) (flags int) {
	t.Helper()
	if err := control(f, func(fd uintptr) (err error) {
		flags, err = unix.FcntlInt(fd, unix.F_GETFD, 0)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return flags
}

func TestInheritedNonsense(t *testing.T) {
	for _, text := range []string{"warren-tun=1", "warren-tun=999999"} {
		t.Setenv(variable, text)
		if files, err := Inherited(); len(files) != 0 || err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, %v", text, files, err)
		}
	}
}
