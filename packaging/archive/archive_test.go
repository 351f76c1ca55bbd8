package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTar(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	files := []File{{Name: "usr/bin/tool", Mode: 0o755, Content: []byte("x")}, {Name: "usr/share/doc/a", Content: []byte("words")}, {Name: "state/", Mode: 0o700, Owner: 7}, {Name: "state/b"}}
	var outputs [2][]byte
	for i := range outputs {
		b, err := Tar(files, at)
		if err != nil {
			t.Fatal(err)
		}
		if outputs[i], err = Gzip(b); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(outputs[0], outputs[1]) {
		t.Error("the same files gave other bytes")
	}
	z, err := gzip.NewReader(bytes.NewReader(outputs[0]))
	if err != nil {
		t.Fatal(err)
	}
	if !z.ModTime.IsZero() || z.Name != "" {
		t.Errorf("gzip has a time %s or a name %q", z.ModTime, z.Name)
	}
	var got []string
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(at) {
			t.Errorf("%s is of %s", h.Name, h.ModTime)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%04o %d:%d %s %s", h.Mode, h.Uid, h.Gid, h.Name, content))
	}
	want := []string{
		"0755 0:0 usr/ ", "0755 0:0 usr/bin/ ", "0755 0:0 usr/bin/tool x", "0755 0:0 usr/share/ ", "0755 0:0 usr/share/doc/ ", "0644 0:0 usr/share/doc/a words",
		"0700 7:7 state/ ", "0644 0:0 state/b ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestNameThatCannotBe(t *testing.T) {
	if _, err := Tar([]File{{Name: "a\x00b"}}, time.Unix(0, 0)); err == nil || !strings.Contains(err.Error(), "a\x00b") {
		t.Errorf("a name with a zero byte: %v", err)
	}
}
